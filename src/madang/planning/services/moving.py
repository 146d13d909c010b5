"""Few moves of what runs, so that what waits finds room.

A move is made of what there is already: one more replica of the same service takes over, elsewhere,
and once it serves, the one that it takes over from is let go. So only what can be spared for a
moment is moved: replicas of services with more than one that is ready. How many is a budget: of
any hundred replicas that came last, so many may have come by a move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice

from madang.planning.action import Action
from madang.planning.ask import Ask
from madang.planning.place.fix import Line, line_of
from madang.planning.place.gangs import Want
from madang.planning.place.ground import Ground
from madang.planning.place.place import Placement, place
from madang.planning.quotas import NOTHING, held_back
from madang.planning.services.services import take_over
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Ref

ARRIVALS = 100
TRIED_MAX = 3
"""So many different ones that wait are looked at in one turn."""
WAYS_MAX = 20
"""So many moves are tried for each, where pools draw all that they may."""

Movable = Sequence[tuple[Replica, Ask]]


def plan_moves(snapshot: Snapshot, ground: Ground) -> Iterator[Action]:
    """Return at most one move: the best that lets one of those start that wait longest in line."""
    first = tuple(islice(waiting(snapshot), TRIED_MAX)) if snapshot.moves_per_100 else ()
    if not first or budget(snapshot) <= 0:
        return
    may_move: Movable | None = None
    for replica, ask in first:
        may_move = tuple(movable(snapshot)) if may_move is None else may_move
        allowed = ground.allowed_to(replica, ask)
        if not may_move or not isinstance(allowed, Ask):
            continue
        line = line_of(Want(allowed), ground, snapshot, replica)
        mark = (line, *(other.uid for other, _ in may_move))
        if mark in ground.stuck:
            continue
        found = _way(line, ground, may_move)
        if found is None:
            ground.stuck.add(mark)
            continue
        service = snapshot.services[found.service]
        yield take_over(service, found, mark_of(replica, snapshot), snapshot)
        return


def mark_of(replica: Replica, snapshot: Snapshot) -> str:
    """Return a mark of a replica's service that says nothing to those who don't know its uid."""
    service = snapshot.services.get(replica.service)
    return hashlib.sha256(service.uid.encode()).hexdigest()[:16] if service else ""


def budget(snapshot: Snapshot) -> int:
    """Return how many moves may be begun now."""
    newest = sorted(snapshot.replicas.values(), key=lambda r: (r.created_at, r.uid))[-ARRIVALS:]
    allowed = snapshot.moves_per_100 * len(newest) // ARRIVALS
    if snapshot.moves_per_100:
        allowed = max(1, allowed)
    return allowed - sum(bool(r.spec.room_for) for r in newest)


def movable(snapshot: Snapshot) -> Iterator[tuple[Replica, Ask]]:
    """Return what may be moved, with what it asks for."""
    ready: dict[Ref, list[Replica]] = {}
    busy = {Ref(r.project, r.spec.replaces) for r in snapshot.replicas.values() if r.spec.replaces}
    for _, replica in sorted(snapshot.replicas.items()):
        if replica.status.phase is ReplicaPhase.READY and replica.ref not in busy:
            ready.setdefault(replica.service, []).append(replica)
    for ref, replicas in ready.items():
        service = snapshot.services.get(ref)
        if service is None or service.deleted_at is not None or len(replicas) < 2:
            continue
        if service.status.observed_generation != service.generation:
            continue
        for replica in replicas:
            ask = ask_of(replica.revision, snapshot)
            if ask and service.status.revision == replica.spec.revision:
                yield replica, ask


def waiting(snapshot: Snapshot) -> Iterator[tuple[Replica, Ask]]:
    """Return one replica of each revision that waits, unless something moves for its service."""
    replicas = snapshot.replicas.values()
    waiting = [r for r in snapshot.unsettled if r.status.phase is ReplicaPhase.WAITING]
    under_way = {
        r.spec.room_for
        for r in (replicas if waiting else ())
        if r.spec.room_for and Ref(r.project, r.spec.replaces) in snapshot.replicas
    }
    seen: set[Ref] = set()
    for replica in sorted(waiting, key=lambda r: r.ref):
        is_seen = replica.revision in seen
        if (
            replica.spec.replaces
            or is_seen
            or held_back(replica.status)
            or mark_of(replica, snapshot) in under_way
        ):
            continue
        seen.add(replica.revision)
        ask = ask_of(replica.revision, snapshot)
        if ask:
            yield replica, ask


def _way(line: Line | None, ground: Ground, may_move: Movable) -> Replica | None:
    """Return whose move lets it start, tried with those who wait ahead of it.

    The first that makes room at all decides: it does for itself unless some pool is at its limit.
    """
    if line is None:
        return None
    for key in ground.make_room(line.ask, [(r.status, ask) for r, ask in may_move])[:WAYS_MAX]:
        replica, ask = may_move[key]
        allowed = ground.allowed(replica.project, ask, but=replica.status)
        if not isinstance(allowed, Ask):
            continue
        with ground.trial():
            goal = place(allowed, ground, but=(replica.status.node,))
            if isinstance(goal, Placement):
                ground.change(NOTHING, goal.holding())
                ground.change(replica.status, NOTHING)
                if ground.fits(line.ask):
                    return replica if line.starts(ground) else None
    return None
