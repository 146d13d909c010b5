"""What a revision and a service say of themselves, derived from their replicas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from madang.errors import Value
from madang.planning.action import Action, Verb
from madang.planning.services.replicas import build_of
from madang.planning.services.scaling import asleep
from madang.planning.services.services import Household
from madang.planning.snapshot import Snapshot
from madang.planning.template import Unmet, pin
from madang.resources.place import Node, NodePhase
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Reason
from madang.resources.revision import Revision, RevisionPhase, Verdict
from madang.resources.service import Service, ServicePhase

P = ReplicaPhase
S = ServicePhase


def plan_nodes(snapshot: Snapshot) -> Iterator[Action]:
    """Return a change for each node that came into sight, was lost from it, or is emptied."""
    for _, node in sorted(snapshot.nodes.items()):
        phase = NodePhase.READY if node.name in snapshot.seen.nodes else NodePhase.LOST
        reason = _emptied(node, snapshot) if node.spec.drain else None
        is_new = phase is not node.status.phase
        if is_new or reason != node.status.reason:
            since = (
                snapshot.now if is_new else node.status.since
            )  # of its phase: others count on it
            said: Node = node.with_status(phase=phase, reason=reason, since=since)
            why = Reason(code=f"node.{phase}") if is_new else reason
            yield Action(Verb.STATUS_NODE, node, why or Reason(code="node.open"), (said,))


def _emptied(node: Node, snapshot: Snapshot) -> Reason:
    """Say how much is still on a node that nothing may stay on."""
    left = sum(held.node == node.name for held in snapshot.holdings())
    return Reason(code="node.draining" if left else "node.drained", values={"left": left})


def plan_statuses(house: Household, snapshot: Snapshot) -> Iterator[Action]:
    """Return the status changes of one service and its revisions; nothing if all is said."""
    for revision in house.revisions:
        yield from _revision(revision, house, snapshot)
    yield from _service(house, snapshot)


def _revision(revision: Revision, house: Household, snapshot: Snapshot) -> Iterator[Action]:
    phase, reason = _revision_phase(revision, house, house.of(revision), snapshot)
    if phase is revision.status.phase and reason == revision.status.reason:
        return
    said: Revision = revision.with_status(phase=phase, reason=reason, since=snapshot.now)
    why = reason or Reason(code=f"revision.{phase}")
    yield Action(Verb.STATUS_REVISION, revision, why, (said,))


def _revision_phase(
    revision: Revision, house: Household, own: Sequence[Replica], snapshot: Snapshot
) -> tuple[RevisionPhase, Reason | None]:
    if revision is not house.newest:
        return (revision.status.phase if own else RevisionPhase.RETIRED), None
    gate = next(
        (r.status.reason for r in own if r.status.reason and r.status.reason.code == "gate.failed"),
        None,
    )
    if gate and all(r.status.phase is P.FAILED for r in own):
        return RevisionPhase.FAILED, gate
    if any(r.status.phase is P.READY or _has_passed(r, snapshot) for r in own):
        return RevisionPhase.SERVING, None
    if revision.status.phase is RevisionPhase.SERVING:
        return RevisionPhase.SERVING, None
    return RevisionPhase.STARTING, None


def _has_passed(replica: Replica, snapshot: Snapshot) -> bool:
    build = build_of(replica, snapshot)
    return build is not None and build.status.verdict is Verdict.PASSED


def _service(house: Household, snapshot: Snapshot) -> Iterator[Action]:
    service = house.service
    said: dict[str, Any] = {"ready": len(house.serving)}
    said |= _condition(house, snapshot)
    status = service.status
    if all(getattr(status, key) == value for key, value in said.items()):
        return
    before, after = status.reason, said["reason"]
    moved = status.phase is not said["phase"] or (before is None) is not (after is None)
    if moved or (before and after and before.code != after.code):
        said["since"] = snapshot.now
    changed: Service = service.with_status(**said)
    why = said["reason"] or Reason(code=f"service.{changed.status.phase}")
    yield Action(Verb.STATUS_SERVICE, service, why, (changed,))


def _condition(house: Household, snapshot: Snapshot) -> dict[str, Any]:
    """Return phase, reason and what goes with them."""
    service = house.service
    if service.deleted_at is not None:
        return _say(S.STOPPING, Reason(code="service.being-deleted"))
    if service.status.observed_generation != service.generation:
        pinned = pin(service, snapshot)
        if isinstance(pinned, Unmet):
            phase = S.DEGRADED if house.serving else S.PENDING
            return _say(phase, pinned.reason, pinned.blocked_by, fix=pinned.fix)
    wanted, newest = service.wanted, house.newest
    if wanted == 0 or newest is None:
        return _say(S.READY if wanted == 0 else S.PENDING, _rests(service))
    own = house.of(newest)
    if sum(r.status.phase is P.READY for r in own) >= wanted:
        warned = (r.status.reason for r in own if r.status.phase is P.READY and r.status.reason)
        return _say(S.READY, next(warned, _rests(service)))
    return _unready(house, own)


def _rests(service: Service) -> Reason | None:
    """Say that it has fewer replicas than it might since they stood idle; None: it has not."""
    if not service.status.rested:
        return asleep(service)
    values: dict[str, Value] = {"replicas": service.status.rested, "scale": service.most}
    return Reason(code="service.rests", values=values)


_URGENCY = (P.FAILED, P.WAITING, P.BACKING_OFF, P.VERIFYING, P.STARTING)
"""Which replica speaks for its service when not all are ready."""


def _unready(house: Household, own: Sequence[Replica]) -> dict[str, Any]:
    """Let the replica with the most to say speak for the service."""
    for phase in _URGENCY:
        speaker = next((r for r in own if r.status.phase is phase), None)
        if speaker is None:
            continue
        status = speaker.status
        shown = S.DEGRADED if house.serving else _SHOWN[phase]
        reason = status.reason or Reason(code=f"replica.{phase}")
        blocked_by = status.blocked_by or f"replica/{speaker.name}"
        return _say(shown, reason, blocked_by, status.next_try, status.smallest_fix)
    return _say(S.DEGRADED if house.serving else S.STARTING, Reason(code="service.starting"))


_SHOWN = {
    P.FAILED: S.FAILED,
    P.WAITING: S.PENDING,
    P.BACKING_OFF: S.STARTING,
    P.VERIFYING: S.VERIFYING,
    P.STARTING: S.STARTING,
}


def _say(
    phase: ServicePhase,
    reason: Reason | None,
    blocked_by: str = "",
    next_try: float | None = None,
    fix: Reason | None = None,
) -> dict[str, Any]:
    return {
        "phase": phase,
        "reason": reason,
        "blocked_by": blocked_by,
        "next_try": next_try,
        "smallest_fix": fix,
    }
