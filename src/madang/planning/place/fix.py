"""The smallest change that would let a replica start which fits nowhere. Each answer was tried.

In this order: ask for less of one thing; take any kind; scale another service of the same project
down; bring a lost node back, or no longer empty one; let a pool draw more; add nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from madang.errors import Value
from madang.planning.ask import Ask, Filter, Refused
from madang.planning.layout import MIB, MILLI, is_processor, made_for
from madang.planning.leaving import LEAVING, leaving_first, serial
from madang.planning.place.draw import MANY
from madang.planning.place.gangs import Want, demands, want_of
from madang.planning.place.ground import Ground, empty, free_of
from madang.planning.placement.fit import fitting
from madang.planning.quotas import NOTHING, held_back
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of
from madang.resources.job import Job
from madang.resources.place import Guarantee
from madang.resources.quantity import written_size
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Reason, Ref

MB = 10**6
MW_PER_W, MW_PER_KW = 10**3, 10**6
SERVICES_MAX = 100
"""So many other services are looked at for one that could give something up."""
AHEAD_MAX = 200
"""With more than so many in front of it, no change is called the smallest that helps."""
TRIED_MAX = 20
ADDED_MAX = 16
"""So many lost nodes are tried, and so many new ones."""
KNOWN_MAX = 1000
"""So many lines are remembered for which it was worked out what to add."""


def smallest_fix(
    refused: Refused, ground: Ground, snapshot: Snapshot, waiter: Replica | Job
) -> Reason | None:
    """Find the smallest change that would let this one start; None: none is known.

    What asks for less goes where nobody else who waits fits. All else makes room for which those
    that wait ahead of it are asked first, as planning would.
    """
    want = Want(refused.ask)
    if isinstance(waiter, Job):
        want = replace(want_of(waiter), ask=refused.ask)
    for smaller, fix in _smaller(refused.ask, ground):
        if replace(want, ask=smaller).fits(ground):
            return fix
    if 0 < refused.placed < want.nodes and replace(want, nodes=refused.placed).fits(ground):
        return _fix("placement.fix-nodes", nodes=refused.placed)
    line = line_of(want, ground, snapshot, waiter)
    if line is None:
        return None
    return (
        _scaled(line, ground, snapshot, waiter)
        or _found(refused, line, ground, snapshot)
        or _powered(refused, line, ground)
        or _added(refused, line, ground)
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One that waits, and those who come before it."""

    want: Want
    ahead: tuple[Want, ...]

    @property
    def ask(self) -> Ask:
        """What it asks for on each of its nodes."""
        return self.want.ask

    def starts(self, ground: Ground) -> bool:
        """Tell whether it has a place once those ahead have theirs; the ground ends as it was."""
        with ground.trial():
            _take(self.ahead, ground)
            return self.want.fits(ground)


def line_of(want: Want, ground: Ground, snapshot: Snapshot, waiter: Replica | Job) -> Line | None:
    """Return the line that one waits in; None where too many are ahead of it."""
    ahead = tuple(islice(_ahead(ground, snapshot, waiter), AHEAD_MAX + 1))
    return Line(want, ahead) if len(ahead) <= AHEAD_MAX else None


def _take(wants: Iterable[Want], ground: Ground) -> None:
    """Let these have places, as far as there are any."""
    for want in wants:
        want.take(ground)


def _ahead(ground: Ground, snapshot: Snapshot, waiter: Replica | Job) -> Iterator[Want]:
    """Return what those ask for who wait and are planned before this one: jobs after services."""
    yield from map(Want, _replicas_ahead(ground, snapshot, waiter))
    if isinstance(waiter, Job):
        for job in ground.ahead_of(waiter):
            want = want_of(job)
            allowed = ground.allowed(job.project, want.ask, want.nodes)
            if isinstance(allowed, Ask):
                yield replace(want, ask=allowed)


def _replicas_ahead(ground: Ground, snapshot: Snapshot, waiter: Replica | Job) -> Iterator[Ask]:
    own = waiter.service if isinstance(waiter, Replica) else None
    waiting = [
        r for r in snapshot.replicas.values()
        if ground.status(r).phase is ReplicaPhase.WAITING and not held_back(r.status)
        and (own is None or r.service < own)
    ]  # fmt: skip
    for other in sorted(waiting, key=lambda r: (r.service, serial(r))):
        ask = ask_of(other.revision, snapshot)
        if ask:
            yield ask


def _smaller(ask: Ask, ground: Ground) -> Iterator[tuple[Ask, Reason]]:
    """Return what else could be asked for, with how to ask for it."""
    for memory in _less(ask.memory_bytes, most_bytes(ask, ground)):
        if memory * ask.count >= ask.total_bytes_min:
            fix = _fix("placement.fix-memory", memory=written_size(memory))
            yield replace(ask, memory_bytes=memory), fix
    for count in range(ask.count - 1, 0, -1):
        if ask.memory_bytes * count >= ask.total_bytes_min:
            yield replace(ask, count=count), _fix("placement.fix-count", count=count)
    cores = most_cores(ask, ground) if ask.cores else 0
    if 0 < cores < ask.cores:
        yield replace(ask, cores=cores), _fix("placement.fix-cores", cores=cores)
    host_bytes = ask.host_memory_bytes
    for host in _less(host_bytes, host_bytes and most_host_bytes(ask, ground)):
        fix = _fix("placement.fix-host-memory", memory=written_size(host))
        yield replace(ask, host_memory_bytes=host), fix
    for guarantee in (Guarantee.LIMITED, Guarantee.SHARED):
        if guarantee.height < ask.guarantee.height:
            yield (
                replace(ask, guarantee=guarantee),
                _fix("placement.fix-guarantee", guarantee=guarantee.value),
            )
    if ask.wanted_kind:
        yield replace(ask, wanted_kind=""), _fix("placement.fix-kind", kind=ask.wanted_kind)


def _less(asked: int, most: int) -> list[int]:
    """Return what to write for the most that there is, where more was asked; the best first.

    Three digits, or whole MB. What is kept by the MiB is a little less than people say, and then
    the rounder size may fit too.
    """
    step = max(MB, 10 ** (len(str(most)) - 3))
    sizes = -(-most // step) * step, most // step * step, most // MB * MB
    return [size for size in dict.fromkeys(sizes) if 0 < size < asked]


def _fix(code: str, **values: Value) -> Reason:
    return Reason(code=code, values=values)


def most_bytes(ask: Ask, ground: Ground) -> int:
    """Return the most memory that could be had on each of so many accelerators; 0: none at all."""
    most, layout, board = 0, ground.layout, ground.board
    free = ground.draw.within(board)
    for option in layout.options(replace(ask, memory_bytes=0, also=())):
        hosts = np.flatnonzero(ground.fitting(option.demand))
        if not len(hosts):
            continue
        on_each = np.sort(free[hosts], axis=1)[:, -option.demand.devices]
        if is_processor(layout.stocks[layout.fleet.kind[hosts[0]]].kind):
            on_each = np.minimum(on_each, board.memory_mib[hosts] * MIB // ask.count)
        most = max(most, int(on_each.max()))
    return most


def most_cores(ask: Ask, ground: Ground) -> float:
    """Return the most processors that could be had beside everything else."""
    options = ground.layout.options(replace(ask, cores=0.0, also=()))
    fits = [ground.board.cpu_milli[ground.fitting(option.demand)] for option in options]
    return max((int(found.max()) for found in fits if len(found)), default=0) // 100 * 100 / MILLI


def most_host_bytes(ask: Ask, ground: Ground) -> int:
    """Return the most of a node's own memory that could be had beside everything else."""
    most = 0
    for option in ground.layout.options(replace(ask, host_memory_bytes=0, also=())):
        free = ground.board.memory_mib[ground.fitting(option.demand)]
        if len(free):
            most = max(most, (int(free.max()) - option.demand.memory_mib) * MIB)
    return most


def _scaled(line: Line, ground: Ground, snapshot: Snapshot, waiter: Replica | Job) -> Reason | None:
    """Return which other service of the project to scale down, and how far."""
    best: tuple[int, str, int] | None = None
    for name, own in _others(snapshot, waiter):
        leaving = leaving_first(own)
        fewer = len(own) + 1 if best is None else min(best[0], len(own) + 1)
        for count in range(1, fewer):
            has_some = ground.status(leaving[count - 1]).accelerators
            if has_some and _would_start(line, ground, leaving[:count]):
                best = count, name, len(own) - count
                break
    if best is None:
        return None
    return _fix("placement.fix-scale", service=best[1], scale=best[2])


def _would_start(line: Line, ground: Ground, leaving: Sequence[Replica]) -> bool:
    """Tell whether it starts once these have gone."""
    with ground.trial():
        for other in leaving:
            ground.change(ground.status(other), NOTHING)
        return line.want.fits(ground) and line.starts(ground)


def _others(snapshot: Snapshot, waiter: Replica | Job) -> Iterator[tuple[str, list[Replica]]]:
    """Return the other services of its own project that have settled on one revision."""
    service_of_its_own = waiter.spec.service if isinstance(waiter, Replica) else ""
    own: dict[str, list[Replica]] = {}
    for other in snapshot.replicas.values():
        is_other = other.spec.service != service_of_its_own
        if other.project == waiter.project and is_other and other.status.phase not in LEAVING:
            own.setdefault(other.spec.service, []).append(other)
    for name, replicas in sorted(own.items())[:SERVICES_MAX]:
        service = snapshot.services.get(Ref(waiter.project, name))
        revisions = {r.spec.revision for r in replicas}
        is_settled = service and service.deleted_at is None and len(revisions) == 1
        if service and is_settled and len(replicas) == service.wanted:
            yield name, replicas


def _found(refused: Refused, line: Line, ground: Ground, snapshot: Snapshot) -> Reason | None:
    """Return which lost node would do, were it back; or which that is emptied, were it not."""
    if not {Filter.LOST, Filter.DRAINED} & dict(refused.fell).keys():
        return None
    everywhere = free_of(ground.layout, snapshot, everywhere=True)
    nodes, board = ground.layout.nodes, everywhere.board()
    options = ground.layout.options(line.ask)
    hosts = {int(h) for option in options for h in np.flatnonzero(fitting(board, option.demand))}
    for node in sorted({nodes[host] for host in hosts})[:TRIED_MAX]:
        with ground.trial():
            ground.see(node, everywhere)
            if line.starts(ground):
                if node in ground.drained:
                    return _fix("placement.fix-uncordon", node=node)
                return _fix("placement.fix-node", node=node)
    return None


def _powered(refused: Refused, line: Line, ground: Ground) -> Reason | None:
    """Return which pool may draw more, and how much: where the least more would do."""
    if not dict(refused.fell).get(Filter.POWER):
        return None
    found: list[tuple[int, str, int]] = []
    for pool, cap in ground.draw.caps.items():
        for most in _enough_mw(line, ground, pool):
            with ground.trial():
                ground.draw.caps[pool] = most
                if line.starts(ground):
                    found.append((most - cap, pool, most))
                    break
    if not found:
        return None
    _, pool, most = min(found)
    return _fix("placement.fix-power", pool=pool, power=round(most / MW_PER_KW, 3))


def _enough_mw(line: Line, ground: Ground, pool: str) -> Iterator[int]:
    """Return what a pool must draw for it to start: as things are, and once those ahead have."""
    for ahead in ((), line.ahead):
        with ground.trial():
            ground.draw.caps[pool] = MANY * MW_PER_KW
            _take(ahead, ground)
            board, options = ground.board, ground.layout.options(line.ask)
            adds = [ground.draw.least_mw(pool, board, option.demand) for option in options]
            least = min((each for each in adds if each is not None), default=None)
            most = None if least is None else ground.draw.mw(pool) + least * line.want.nodes
        if most is not None:
            yield -(-most // MW_PER_W) * MW_PER_W


def _added(refused: Refused, line: Line, ground: Ground) -> Reason | None:
    """Return what to add, worked out once for each line: new nodes are empty in any case."""
    drawn = tuple(ground.draw.mw(pool) for pool in ground.draw.caps)
    known, mark = ground.added, (line, refused.placed, drawn)
    if mark not in known:
        if len(known) >= KNOWN_MAX:
            known.clear()
        known[mark] = _like(refused, line, ground)
    return known[mark]


def _like(refused: Refused, line: Line, ground: Ground) -> Reason | None:
    """Return what to add: nodes like one that would do were it empty, else any that do.

    Of a gang as many as have no room; that the others keep theirs is the line's to grant.
    """
    layout, ask = ground.layout, line.ask
    line = Line(replace(line.want, nodes=line.want.nodes - refused.placed), line.ahead)
    best: tuple[int, int, str] | None = None
    for option in layout.options(ask):
        for host in np.flatnonzero(fitting(layout.fleet.board(), option.demand)):
            stock = layout.stocks[layout.fleet.kind[host]]
            found = stock.memory_bytes, len(layout.devices[host]), layout.nodes[host]
            best = found if best is None or found < best else best
    if best:
        for count in range(1, ADDED_MAX + 1):
            new = empty(layout.copies(best[2], count))
            new.draw.join(ground.draw)
            new.know(demands((line.want, *line.ahead), new))
            if line.starts(new):
                return _fix("placement.fix-like", node=best[2], count=count)
        return None
    if any(way.barred for way in ask.ways):
        return None  # a quota is in the way as well, and new nodes change nothing about that
    if layout.stocks and all(stock.pool in ground.draw.caps for stock in layout.stocks):
        return None  # whether a pool has enough power for them depends on what they are
    for nodes in range(1, ADDED_MAX + 1):
        if line.starts(empty(made_for(ask, nodes))):
            has_more = bool(ask.cores or ask.host_memory_bytes)
            code = "placement.fix-add-with" if has_more else "placement.fix-add"
            return _fix(
                code, nodes=nodes, count=ask.count, kind=ask.kind, cores=ask.cores,
                memory=written_size(ask.memory_bytes), grade=ask.grade.value,
                host_memory=written_size(ask.host_memory_bytes),
            )  # fmt: skip
    return None
