"""Why something is as it is, and the smallest change that would help; worked out afresh."""

from __future__ import annotations

from dataclasses import replace

from madang.errors import Value
from madang.planning.ask import Refused
from madang.planning.attempts.barrier import barrier
from madang.planning.grants import due, findings, told
from madang.planning.memo import Memo
from madang.planning.place.fix import smallest_fix
from madang.planning.place.gangs import Want, place_gang, want_of
from madang.planning.place.ground import Ground
from madang.planning.place.place import place
from madang.planning.queue.standing import findings as stands
from madang.planning.queue.waiting import is_in_line
from madang.planning.quotas import Limit, held_back, waits_for
from madang.planning.quotas import findings as findings_of_quota
from madang.planning.relief import relief
from madang.planning.rounds.calls import of_grant, of_round
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of
from madang.planning.use.idle import WORKING, warning_of
from madang.planning.use.tariffs import findings as findings_of_tariff
from madang.planning.use.unused import warning_of as unused_warning
from madang.resources.grant import Grant
from madang.resources.job import Job, JobPhase
from madang.resources.place import Node
from madang.resources.quota import Quota
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import AnyResource, Frozen, Reason, Ref
from madang.resources.revision import Revision
from madang.resources.round import Round
from madang.resources.service import Service

LEFT_MAX = 20
"""So many are named that are still on a node."""


class Expected(Frozen):
    """When something that waits would start, by trials of the twin; Unix seconds."""

    likely_at: float | None = None
    """In the middle of the trials; None: too few of them had it start."""
    late_at: float | None = None
    """In nine of ten trials it had started by then."""
    looked_until: float | None = None
    """No trial looked further than that; None: as far as was needed."""
    learnt: int = 0
    """Of so many jobs that ended is known how long they ran; of too few nothing is said."""


class Explanation(Frozen):
    """One object, and in turn what it waits for."""

    subject: str
    """kind/name."""
    phase: str
    reason: Reason | None = None
    since: float = 0.0
    next_try: float | None = None
    smallest_fix: Reason | None = None
    """Tried on a copy of the world: it would make the thing start."""
    other_fixes: tuple[Reason, ...] = ()
    """What else would, tried as well: more weight, a grant, a higher quota; empty: nobody tried."""
    last_lines: tuple[str, ...] = ()
    findings: tuple[Reason, ...] = ()
    """Of a grant or a round, step by step how it came to be what it is, from what is stored; of
    what waits for room, where it stands in its queue, and what its project has there."""
    because: tuple[Explanation, ...] = ()
    ahead: int | None = None
    """Jobs in line before it; None: it is not in line;"""
    ahead_higher: int = 0
    """and how many of these count for more than it."""
    expected: Expected | None = None
    """When it would start; None: it is in no line, or nobody has asked."""


def explain(resource: AnyResource, snapshot: Snapshot, memo: Memo | None = None) -> Explanation:
    """Explain one resource from this snapshot."""
    memo = memo or Memo()
    if isinstance(resource, Service):
        return _service(resource, snapshot, memo)
    if isinstance(resource, Replica):
        return _replica(resource, snapshot, memo)
    if isinstance(resource, Revision):
        own = [r for r in snapshot.replicas.values() if _belongs(r, resource)]
        return _of(resource, tuple(_replica(r, snapshot, memo) for r in sorted(own, key=_by_name)))
    if isinstance(resource, Job) and resource.status.phase is JobPhase.RUNNING:
        return _of(resource).model_copy(update={"reason": _runs(resource, snapshot)})
    if isinstance(resource, Job) and resource.status.phase is JobPhase.WAITING:
        return _of(resource).model_copy(update=_job(resource, snapshot, memo))
    if isinstance(resource, Grant):
        said = {
            "findings": (*findings(resource), *of_grant(resource, snapshot)),
            "reason": unused_warning(resource, snapshot)
            or told(resource, due(resource, snapshot.now)),
        }
        return _of(resource).model_copy(update=said)
    if isinstance(resource, Quota):
        return _quota(resource, snapshot, memo)
    if isinstance(resource, Round):
        return _of(resource).model_copy(update={"findings": tuple(of_round(resource))})
    if isinstance(resource, Node) and resource.spec.drain:
        return _of(resource, tuple(_of(each) for each in _left(resource, snapshot)))
    return _of(resource)


def _job(job: Job, snapshot: Snapshot, memo: Memo) -> dict[str, object]:
    """Ask once more, now, what a job waits for; one that is in line is told its place there."""
    ground, order = memo.ground(snapshot), memo.order(snapshot)
    if full := order.door.get(job.uid):
        values: dict[str, Value] = {"place": full[0], "most": full[1]}
        return {"reason": Reason(code="queue.door", values=values), "smallest_fix": None}
    if not (is_in_line(job, snapshot) or held_back(job.status)):
        closed = None if job.is_suspended else barrier(job, snapshot, ground)
        return {"reason": closed[0], "smallest_fix": None} if closed else {}
    ahead = ground.ahead_of(job)
    higher = sum(each.spec.priority.height > job.spec.priority.height for each in ahead)
    place: dict[str, object] = {
        "ahead": len(ahead), "ahead_higher": higher,
        "findings": tuple(stands(job, order, snapshot)),
    }  # fmt: skip
    if closed := barrier(job, snapshot, ground):
        return {**place, "reason": closed[0], "smallest_fix": None}
    want = want_of(job)
    allowed = ground.allowed(job.project, want.ask, want.nodes)
    if isinstance(allowed, Limit):
        return _short(allowed, job.project, want, ground)
    found = place_gang(replace(want, ask=allowed), ground)
    if not isinstance(found, Refused):
        code = "queue.kept-free" if order.yields_to_age(job) else "job.starts-next"
        return {**place, "reason": Reason(code=code), "smallest_fix": None}
    fix = smallest_fix(found, ground, snapshot, job)
    return {**place, "reason": found.reason, "smallest_fix": fix}


def _short(limit: Limit, project: str, want: Want, ground: Ground) -> dict[str, object]:
    """Say which quota it waits for; it is in no line then."""
    return {"reason": limit.reason, "smallest_fix": relief(limit, project, want, ground)}


def _quota(quota: Quota, snapshot: Snapshot, memo: Memo) -> Explanation:
    """Say what is left of each limit, and who waits for that."""
    those: tuple[AnyResource, ...] = (*snapshot.open_jobs, *snapshot.replicas.values())
    waiting = [each for each in those if waits_for(quota, each.status)]
    because = tuple(_of(each) for each in sorted(waiting, key=_by_name)[:LEFT_MAX])
    said = tuple(findings_of_quota(quota, snapshot, memo.ground(snapshot).books))
    reason = Reason(code="quota.holds", values={"place": quota.project, "waiting": len(waiting)})
    return _of(quota, because).model_copy(update={"findings": said, "reason": reason})


def _left(node: Node, snapshot: Snapshot) -> list[AnyResource]:
    """Return what still holds something on a node that is emptied."""
    replicas = [r for r in snapshot.replicas.values() if r.status.node == node.name]
    attempts = [
        a for a in snapshot.attempts.values()
        if any(place.node == node.name and place.accelerators for place in a.status.places)
    ]  # fmt: skip
    left: list[AnyResource] = [r for r in replicas if r.status.accelerators]
    return sorted([*left, *attempts], key=_by_name)[:LEFT_MAX]


def _runs(job: Job, snapshot: Snapshot) -> Reason | None:
    """Say where its attempt runs, or why that is being stopped."""
    attempt = snapshot.attempts.get(Ref(job.project, f"{job.name}-{job.status.attempt}"))
    if job.spec.sweep:
        return job.status.reason or Reason(code="sweep.going", values={"made": job.status.made})
    if attempt is None:
        return None
    nodes = ", ".join(dict.fromkeys(place.node for place in attempt.status.places))
    values: dict[str, Value] = {
        "nodes": nodes, "attempt": job.status.attempt, "attempts": job.spec.resume.attempts,
    }  # fmt: skip
    warned = warning_of(attempt, snapshot) if attempt.status.phase in WORKING else None
    return warned or attempt.status.reason or Reason(code="job.runs", values=values)


def _service(service: Service, snapshot: Snapshot, memo: Memo) -> Explanation:
    replicas = [
        r
        for r in snapshot.replicas.values()
        if r.project == service.project and r.spec.service == service.name
    ]
    unready = [r for r in replicas if r.status.phase is not ReplicaPhase.READY]
    because = tuple(_replica(r, snapshot, memo) for r in sorted(unready, key=_by_name)[:10])
    fixes = (b.smallest_fix for b in because)
    own = _of(service, because)
    said = {
        "smallest_fix": next((f for f in fixes if f), own.smallest_fix),
        "findings": tuple(findings_of_tariff(service)),
    }
    return own.model_copy(update=said)


def _replica(replica: Replica, snapshot: Snapshot, memo: Memo) -> Explanation:
    own = _of(replica)
    if replica.status.phase is ReplicaPhase.WAITING:
        return own.model_copy(update=_waiting(replica, snapshot, memo))
    if own.reason and own.reason.code == "gate.failed":
        fix = Reason(code="gate.fix-change", values={"build": own.reason.values["build"]})
        return own.model_copy(update={"smallest_fix": fix})
    return own


def _waiting(replica: Replica, snapshot: Snapshot, memo: Memo) -> dict[str, object]:
    """Place it once more, now, and say what is in the way."""
    ask = ask_of(replica.revision, snapshot)
    if ask is None:
        return {}
    ground = memo.ground(snapshot)
    allowed = ground.allowed_to(replica, ask)
    if isinstance(allowed, Limit):
        return _short(allowed, replica.project, Want(ask), ground)
    found = place(allowed, ground)
    if not isinstance(found, Refused):
        return {}
    fix = smallest_fix(found, ground, snapshot, replica)
    told = tuple(stands(replica, memo.order(snapshot), snapshot))
    return {"reason": found.reason, "smallest_fix": fix, "findings": told}


def _of(resource: AnyResource, because: tuple[Explanation, ...] = ()) -> Explanation:
    """Read off what a resource's own status says."""
    status = resource.status
    phase = str(getattr(status, "phase", getattr(status, "verdict", "")))
    return Explanation(
        subject=f"{resource.kind}/{resource.name}",
        phase=phase,
        reason=getattr(status, "reason", None) or _phase_reason(resource, phase),
        since=getattr(status, "since", 0.0),
        next_try=getattr(status, "next_try", None),
        smallest_fix=getattr(status, "smallest_fix", None),
        last_lines=() if phase == ReplicaPhase.READY else getattr(status, "last_lines", ()),
        because=because,
    )


def _phase_reason(resource: AnyResource, phase: str) -> Reason | None:
    """Say at least where a replica is on its way."""
    on_its_way = isinstance(resource, Replica) and phase != ReplicaPhase.READY
    return Reason(code=f"replica.{phase}") if on_its_way else None


def _belongs(replica: Replica, revision: Revision) -> bool:
    return replica.project == revision.project and replica.spec.revision == revision.name


def _by_name(replica: AnyResource) -> tuple[str, str]:
    return replica.ref
