"""What a service needs next: a revision of its newest spec, and the right number of replicas."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from madang.planning.action import Action, Verb
from madang.planning.leaving import LEAVING, leaving_first, serial
from madang.planning.services.replicas import leave, stop
from madang.planning.services.scaling import plan_scale
from madang.planning.snapshot import Snapshot
from madang.planning.template import Unmet, pin, same_template
from madang.resources.endpoint import Endpoint, EndpointSpec
from madang.resources.replica import Replica, ReplicaPhase, ReplicaSpec, ReplicaStatus
from madang.resources.resource import Reason, Ref
from madang.resources.revision import Revision, RevisionPhase, RevisionStatus
from madang.resources.service import Service
from madang.resources.tenancy import SITE, Empty, tenant

P = ReplicaPhase


@dataclass(frozen=True)
class Household:
    """A service with all that belongs to it; what follows from that is worked out once."""

    service: Service
    revisions: tuple[Revision, ...]
    """Oldest first."""
    replicas: tuple[Replica, ...]
    """In the order of their names' serial numbers."""
    endpoint: Endpoint | None

    @property
    def newest(self) -> Revision | None:
        """The revision that the service is moving to, or has."""
        return self.revisions[-1] if self.revisions else None

    @cached_property
    def _by_revision(self) -> Mapping[str, Sequence[Replica]]:
        found: dict[str, list[Replica]] = {}
        for replica in self.replicas:
            found.setdefault(replica.spec.revision, []).append(replica)
        return found

    def of(self, revision: Revision) -> Sequence[Replica]:
        """Return the replicas of one revision."""
        return self._by_revision.get(revision.name, ())

    @cached_property
    def serving(self) -> Sequence[Replica]:
        """Replicas that are ready."""
        return [r for r in self.replicas if r.status.phase is P.READY]

    @cached_property
    def own(self) -> Sequence[Replica]:
        """Replicas of the newest revision that stay."""
        there = self.of(self.newest) if self.newest else ()
        return [r for r in there if r.status.phase not in LEAVING]

    @cached_property
    def old(self) -> Sequence[Replica]:
        """Replicas of older revisions that are still to be let go of."""
        newest = self.newest.name if self.newest else ""
        there = (r for r in self.replicas if r.spec.revision != newest)
        return [r for r in there if r.status.phase not in LEAVING]

    @cached_property
    def successors(self) -> Sequence[Replica]:
        """Those of the newest revision that stay and take over from others."""
        return [r for r in self.own if r.spec.replaces]


def plan_service(house: Household, snapshot: Snapshot) -> Iterator[Action]:
    """Return the next steps of one service, apart from the life of its replicas."""
    if house.service.deleted_at is not None:
        yield from _take_down(house, snapshot)
        return
    yield from _open(house, snapshot)
    made = (
        _show(house.service, snapshot)
        or _revise(house, snapshot)
        or plan_scale(house.service, house.replicas, snapshot)
    )
    if made:
        yield made
        return
    yield from _populate(house, snapshot)


def _take_down(house: Household, snapshot: Snapshot) -> Iterator[Action]:
    """Drain and stop everything; when nothing runs, forget the service and what it had."""
    reason = Reason(code="service.being-deleted")
    for replica in house.replicas:
        action = leave(replica, snapshot, reason)
        if action:
            yield action
    if not house.replicas:
        rest = (house.endpoint,) if house.endpoint else ()
        gone = (*house.revisions, *rest, house.service)
        yield Action(Verb.FORGET_SERVICE, house.service, reason, gone=gone)


def _open(house: Household, snapshot: Snapshot) -> Iterator[Action]:
    """Give it its endpoint, under its own name."""
    service = house.service
    if house.endpoint is None:
        endpoint = Endpoint(
            project=service.project,
            name=service.name,
            uid=_uid("endpoint", service.uid),
            created_at=snapshot.now,
            spec=EndpointSpec(service=service.name),
            status=Empty(),
        )
        reason = Reason(code="service.wanted")
        yield Action(Verb.CREATE_ENDPOINT, endpoint, reason, writes=(endpoint,))


def _show(service: Service, snapshot: Snapshot) -> Action | None:
    """Write down whom it is shown to: who is there by a name now, whoever has it later."""
    known, meant = service.status.shown_to, {}
    for name in service.spec.visible_to:
        there = None if name == SITE else snapshot.get(*tenant(name))
        if uid := known.get(name, there.uid if there else ""):
            meant[name] = uid
    if meant == known:
        return None
    shown: Service = service.with_status(shown_to=meant)
    return Action(Verb.STATUS_SERVICE, service, Reason(code="service.shown"), (shown,))


def _revise(house: Household, snapshot: Snapshot) -> Action | None:
    """Pin a changed spec, and make a revision of it if it serves something new."""
    service = house.service
    if service.status.observed_generation == service.generation:
        return None
    pinned = pin(service, snapshot)
    if isinstance(pinned, Unmet):
        return None  # `statuses` says why; the next turn looks again
    seen = {"observed_generation": service.generation, "rested": 0, **_as_many(house, snapshot)}
    if house.newest and same_template(pinned, house.newest.spec):
        same: Service = service.with_status(**seen)
        return Action(Verb.STATUS_SERVICE, service, Reason(code="service.rescaled"), (same,))
    name = f"{service.name}-{pinned.number}"
    revision = Revision(
        project=service.project,
        name=name,
        uid=_uid("revision", service.uid, name),
        created_at=snapshot.now,
        spec=pinned,
        status=RevisionStatus(since=snapshot.now),
    )
    moved: Service = service.with_status(**seen, revision=name, revisions=pinned.number)
    model = f"{pinned.model}@{pinned.model_version}"
    reason = Reason(code="revision.new-spec", values={"model": model})
    return Action(Verb.CREATE_REVISION, revision, reason, writes=(revision, moved))


def _as_many(house: Household, snapshot: Snapshot) -> dict[str, Any]:
    """Return with how many replicas a range begins: those that are there, as far as it goes."""
    scale = house.service.range
    if scale is None:
        return {"scaled": 0, "scaled_at": None}
    there = sum(replica.status.phase not in LEAVING for replica in house.replicas)
    return {"scaled": scale.clamp(there), "scaled_at": snapshot.now}


def _populate(house: Household, snapshot: Snapshot) -> Iterator[Action]:
    """Bring the newest revision up, one replica until its gate has passed; then let go of the old.

    A revision whose gate said no gets no more replicas, and the one before it keeps serving.
    """
    newest, service = house.newest, house.service
    if newest is None:
        return
    own = house.own
    if house.successors:
        names = {r.name for r in own}
        moving = {r.name: r for r in house.successors if r.spec.replaces in names}
        own = [r for r in own if r.name not in moving]
        yield from _move_on(moving.values(), house, snapshot)
    yield from _empty_nodes(house, snapshot)
    wanted = service.wanted
    limit = wanted if newest.status.phase is RevisionPhase.SERVING else min(wanted, 1)
    if newest.status.phase is not RevisionPhase.FAILED and len(own) < limit:
        yield _create(service, newest, limit - len(own), snapshot)
    yield from _trim(own, len(own) - wanted, snapshot)
    if house.old:
        yield from _replace_old(own, house.old, wanted, snapshot)


def _move_on(moving: Iterable[Replica], house: Household, snapshot: Snapshot) -> Iterator[Action]:
    """Let go of whom a replica has taken over from that serves, or of one that never will."""
    for replica in moving:
        left = next(r for r in house.replicas if r.name == replica.spec.replaces)
        is_for_room = bool(replica.spec.room_for)
        stays = not is_for_room and snapshot.drains(left.status.node)
        if replica.status.phase is P.READY:
            reason = Reason(code="replica.moved", values={"replica": replica.name})
            action = leave(left, snapshot, reason)
        elif not stays and (replica.status.phase is P.FAILED or _waits_in_vain(replica)):
            action = leave(replica, snapshot, Reason(code="replica.not-moved"))
        else:
            action = None
        if action:
            yield action


def _empty_nodes(house: Household, snapshot: Snapshot) -> Iterator[Action]:
    """Have others take over from what serves on nodes that are emptied; the rest begins anew.

    It serves on until its successor does, however long that waits for room.
    """
    if not snapshot.draining:
        return
    newest, taken = house.newest, {r.spec.replaces for r in house.replicas}
    assert newest is not None
    there = [
        r for r in house.replicas
        if r.spec.revision == newest.name and r.name not in taken and snapshot.drains(r.status.node)
    ]  # fmt: skip
    serving = [r for r in there if r.status.phase is P.READY]
    if serving:
        specs = [r.spec.model_copy(update={"replaces": r.name, "room_for": ""}) for r in serving]
        names = ", ".join(r.name for r in serving)
        reason = Reason(code="replica.node-drained", values={"replicas": names})
        yield _make(house.service, specs, snapshot, reason)
    for replica in there:
        if replica.status.phase in {P.STARTING, P.VERIFYING}:
            reason = Reason(code="attempt.node-drained", values={"node": replica.status.node})
            yield stop(replica, snapshot, reason)


def _waits_in_vain(replica: Replica) -> bool:
    return replica.status.phase is P.WAITING and replica.status.reason is not None


def take_over(service: Service, moved: Replica, room_for: str, snapshot: Snapshot) -> Action:
    """Make one more replica, that takes over from one so that something else finds room."""
    spec = moved.spec.model_copy(update={"replaces": moved.name, "room_for": room_for})
    reason = Reason(code="replica.takes-over", values={"replica": moved.name})
    return _make(service, [spec], snapshot, reason)


def _replace_old(
    own: Sequence[Replica], old: Sequence[Replica], wanted: int, snapshot: Snapshot
) -> Iterator[Action]:
    """Let old replicas go as new ones become ready; those that don't serve go at once."""
    reason = Reason(code="revision.replaced")
    serving = [r for r in old if r.status.phase is P.READY]
    for replica in old:
        action = leave(replica, snapshot, reason) if replica not in serving else None
        if action:
            yield action
    ready = sum(r.status.phase is P.READY for r in own)
    yield from _trim(serving, ready + len(serving) - wanted if ready or not wanted else 0, snapshot)


def _trim(replicas: Sequence[Replica], surplus: int, snapshot: Snapshot) -> Iterator[Action]:
    """Let `surplus` of them go."""
    if surplus <= 0:
        return
    for replica in leaving_first(replicas)[:surplus]:
        action = leave(replica, snapshot, Reason(code="service.rescaled"))
        if action:
            yield action


def _create(service: Service, revision: Revision, count: int, snapshot: Snapshot) -> Action:
    """Make `count` replicas of a revision."""
    spec = ReplicaSpec(service=service.name, revision=revision.name)
    reason = Reason(code="service.wanted", values={"count": count})
    return _make(service, [spec] * count, snapshot, reason)


def _make(
    service: Service, specs: Sequence[ReplicaSpec], snapshot: Snapshot, reason: Reason
) -> Action:
    """Make replicas, with serial numbers that are never used twice."""
    first = service.status.replicas + 1
    made = tuple(
        Replica(
            project=service.project,
            name=f"{spec.revision}-{serial}",
            uid=_uid("replica", service.uid, str(serial)),
            created_at=snapshot.now,
            spec=spec,
            status=ReplicaStatus(since=snapshot.now),
        )
        for serial, spec in enumerate(specs, first)
    )
    counted: Service = service.with_status(replicas=service.status.replicas + len(made))
    return Action(Verb.CREATE_REPLICA, made[0], reason, writes=(*made, counted))


def _uid(kind: str, *parts: str) -> str:
    """Return a uid that follows from what it belongs to, so that the same plan makes the same."""
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()[:16]
    return f"{kind}-{digest}"


def households(snapshot: Snapshot) -> Iterator[Household]:
    """Gather what belongs to each service, in the order of their names."""
    revisions: dict[Ref, list[Revision]] = {}
    for revision in snapshot.revisions.values():
        revisions.setdefault(Ref(revision.project, revision.spec.service), []).append(revision)
    replicas: dict[Ref, list[Replica]] = {}
    for replica in snapshot.replicas.values():
        replicas.setdefault(replica.service, []).append(replica)
    for ref in sorted(snapshot.services):
        yield Household(
            service=snapshot.services[ref],
            revisions=tuple(sorted(revisions.get(ref, ()), key=lambda r: r.spec.number)),
            replicas=tuple(sorted(replicas.get(ref, ()), key=serial)),
            endpoint=snapshot.endpoints.get(ref),
        )
