"""The life of one replica: from its phase and what is seen of it to its next step.

One function per phase, each a table of early answers; `step` chooses by the phase.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from madang.planning.action import Action, Effect, RunGate, Start, Stop, Verb
from madang.planning.ask import Refused
from madang.planning.health.engines import exit_reason, hung_reason
from madang.planning.health.fencing import lost_one, lost_reason
from madang.planning.place.fix import smallest_fix
from madang.planning.place.gangs import Want
from madang.planning.place.ground import Ground
from madang.planning.place.place import Placement, place
from madang.planning.quotas import Limit
from madang.planning.relief import relief
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of, build_for
from madang.resources.idle import Meter
from madang.resources.replica import NEXT, Replica, ReplicaPhase
from madang.resources.resource import AnyResource, Reason, Ref
from madang.resources.revision import Build, BuildStatus, Revision, Verdict
from madang.supervisor.protocol import Process

START_PATIENCE_S = 5.0
"""An order to start or stop that shows no result for this long is sent again."""
ANNOUNCE_S = 600.0
"""An engine that has not announced itself for this long is taken for hung."""
PROBE_S = 60.0
"""An engine that has announced itself and does not answer for this long is taken for hung."""
GATE_S = 300.0
"""A gate that gives no verdict for this long is run again, on a fresh process."""
BACK_OFF_S = 1.0
BACK_OFF_S_MAX = 60.0
RESTARTS_MAX = 4
"""After so many ends in a row it has failed, and is tried again only every RETRY_S."""
RETRY_S = 600.0
CALM_S = 120.0
"""Ready for this long, its earlier ends are forgotten: several times all back-offs before `failed`
together, so that only a replica that hardly ever serves is given up for RETRY_S."""
STOP_GRACE_S = 10.0
DRAIN_S = 30.0
"""How long it may finish its requests once no gateway sends it new ones."""

FREED: dict[str, Any] = {
    "accelerators": (), "memory_bytes": 0, "whole": False, "cores": 0.0, "host_memory_bytes": 0,
}  # fmt: skip
VANISHED = "replica.vanished"
P = ReplicaPhase


def change(replica: Replica, phase: ReplicaPhase, **status: Any) -> Replica:
    """Move it to a phase that may follow the one it is in."""
    assert phase is replica.status.phase or phase in NEXT[replica.status.phase], (
        replica.status.phase,
        phase,
    )
    changed: Replica = replica.with_status(phase=phase, **status)
    return changed


def step(replica: Replica, snapshot: Snapshot, ground: Ground) -> Action | None:
    """Return what to do next for this replica; None: nothing now.

    On an accelerator that is lost it is at its end: its service makes another one elsewhere, which
    does not wait until nothing of this one runs any more.
    """
    if _is_well(replica, snapshot):
        return None
    if replica.status.phase in _WORKING:
        lost = lost_one(replica.status, snapshot)
        if lost:
            return stop(replica, snapshot, lost_reason("replica.accelerator", lost))
    return _STEPS[replica.status.phase](replica, snapshot, ground)


def _is_well(replica: Replica, snapshot: Snapshot) -> bool:
    """Tell at little cost that there is nothing to do: most of many thousands simply serve."""
    if replica.status.phase is not P.READY or snapshot.lost or snapshot.seen.pulses:
        return False
    process = _process(replica, snapshot)
    return process is not None and process.state == "running"


def wake_s(replica: Replica, snapshot: Snapshot) -> float | None:
    """Return the seconds until time alone would change what `step` says; 0 or less: it may now."""
    status = replica.status
    if status.phase is P.READY or status.phase is P.WAITING:
        return None
    if status.phase in {P.BACKING_OFF, P.FAILED} and not status.accelerators:
        return _retry_s(replica, snapshot)
    limits = {P.STARTING: START_PATIENCE_S, P.VERIFYING: GATE_S, P.DRAINING: DRAIN_S}
    start = status.started_at if status.phase is P.STARTING else status.since
    limit_s = limits.get(status.phase, START_PATIENCE_S + STOP_GRACE_S)
    return max(limit_s - snapshot.age_s(replica.uid, start), 1.0)


def _retry_s(replica: Replica, snapshot: Snapshot) -> float | None:
    """Return the seconds until it is tried again, by whichever clock says so first.

    A clock that was set back must not turn seconds into hours; too early does no harm.
    """
    status = replica.status
    if status.next_try is None:
        return None
    watched_s = status.next_try - status.since - snapshot.age_s(replica.uid, status.since)
    return min(status.next_try - snapshot.now, watched_s)


def _place(replica: Replica, snapshot: Snapshot, ground: Ground) -> Action | None:
    """WAITING, and BACKING_OFF or FAILED when it is time: look for accelerators."""
    revision, ask = snapshot.revisions.get(replica.revision), ask_of(replica.revision, snapshot)
    if revision is None or ask is None:
        return None
    allowed = ground.allowed_to(replica, ask)
    if isinstance(allowed, Limit):
        if allowed.is_same(replica.status.reason):
            return None
        fix = relief(allowed, replica.project, Want(ask), ground)
        return _hold(replica, snapshot, allowed.reason, fix)
    ask, mark = allowed, f"{revision.uid} {[sorted(way.barred) for way in allowed.ways]}"
    left = snapshot.replicas.get(Ref(replica.project, replica.spec.replaces))
    known = None if left else ground.refusals.get(mark)
    found = None if known else place(ask, ground, but=(left.status.node,) if left else ())
    if isinstance(found, Refused):
        fix = smallest_fix(found, ground, snapshot, replica)
        known = (found.reason, fix)
        if left is None:
            ground.refusals[mark] = known
    if not isinstance(found, Placement):
        return _hold(replica, snapshot, *known) if known else None
    started = change(
        replica,
        P.STARTING,
        **found.held(),
        variant=found.ask.variant,
        epoch=replica.status.epoch + 1,
        started_at=snapshot.now,
        held_since=snapshot.now,
        charged=False,
        meter=Meter(epoch=replica.status.epoch + 1, at=snapshot.now, term=snapshot.term),
        since=snapshot.now,
        reason=None,
        next_try=None,
        smallest_fix=None,
        blocked_by="",
        pid=0,
        url="",
    )
    return Action(Verb.START_REPLICA, replica, _where(found), (started,), effect=Start(replica.ref))


def _where(found: Placement) -> Reason:
    names = ", ".join(found.accelerators)
    return Reason(code="placement.chosen", values={"node": found.node, "accelerators": names})


def _hold(
    replica: Replica, snapshot: Snapshot, reason: Reason, fix: Reason | None = None
) -> Action | None:
    """Say why it waits, once."""
    status = replica.status
    if (status.reason, status.smallest_fix) == (reason, fix):
        return None
    since = status.since if status.reason and status.reason.code == reason.code else snapshot.now
    held: Replica = replica.with_status(reason=reason, since=since, smallest_fix=fix)
    return Action(Verb.HOLD_REPLICA, replica, reason, (held,))


def _starting(replica: Replica, snapshot: Snapshot, _ground: Ground) -> Action | None:
    status = replica.status
    refused = snapshot.seen.refused.get((replica.uid, status.epoch))
    if refused:
        return _ended(replica, snapshot, refused)
    if status.node not in snapshot.seen.nodes:
        return None
    process = _process(replica, snapshot)
    age_s = snapshot.age_s(replica.uid, status.started_at)
    if process is None:
        if age_s < START_PATIENCE_S:
            return None
        again: Replica = replica.with_status(started_at=snapshot.now)
        reason = Reason(code="replica.no-process")
        return Action(Verb.REPEAT_START, replica, reason, (again,), effect=Start(replica.ref))
    if process.state == "exited":
        return _ended(replica, snapshot, exit_reason(process))
    if process.announced is None:
        hung = Reason(code="replica.silent", values={"seconds": int(ANNOUNCE_S)})
        return _ended(replica, snapshot, hung) if age_s > ANNOUNCE_S else None
    if not status.url:
        url = str(process.announced.get("url", ""))
        known: Replica = replica.with_status(pid=process.pid, url=url, since=snapshot.now)
        return Action(Verb.ANSWERING_REPLICA, replica, Reason(code="replica.announced"), (known,))
    return _probed(replica, snapshot)


def _probed(replica: Replica, snapshot: Snapshot) -> Action | None:
    """Go on with an engine that has announced itself: as itself, and past its gate."""
    probed = snapshot.seen.probed.get((replica.uid, replica.status.epoch))
    if probed is None:
        hung = Reason(code="replica.no-answer", values={"seconds": int(PROBE_S)})
        is_late = snapshot.age_s(replica.uid, replica.status.since) > PROBE_S
        return _ended(replica, snapshot, hung) if is_late else None
    if not probed.healthy:
        why = Reason(code="replica.wrong-identity", values={"detail": probed.detail})
        return _ended(replica, snapshot, why)
    build = build_of(replica, snapshot)
    if build is None:
        return None
    return _judged(replica, build, snapshot) or _verify(replica, build, snapshot)


def _judged(replica: Replica, build: Build, snapshot: Snapshot) -> Action | None:
    """Follow a verdict that is there."""
    if build.status.verdict is Verdict.PASSED:
        ready = change(
            replica, P.READY, ready_at=snapshot.now, since=snapshot.now, reason=None, blocked_by=""
        )
        return Action(Verb.READY_REPLICA, replica, Reason(code="build.passed"), (ready,))
    if build.status.verdict is Verdict.FAILED:
        return _fail(replica, snapshot, gate_reason(build), f"build/{build.name}")
    return None


def gate_reason(build: Build) -> Reason:
    """Say which check of a gate failed first, and why."""
    failed = next((c for c in build.status.checks if not c.passed), None)
    name, detail = (failed.name, failed.detail) if failed else ("", "")
    return Reason(code="gate.failed", values={"build": build.name, "check": name, "detail": detail})


def _verify(replica: Replica, build: Build, snapshot: Snapshot) -> Action | None:
    """Have the build judged on this replica, unless another one is being judged."""
    if _gate_runs_elsewhere(replica, build, snapshot):
        waiting = Reason(code="gate.elsewhere", values={"build": build.name})
        return _hold(replica, snapshot, waiting)
    asked: Build = build.model_copy(
        update={
            "created_at": build.created_at or snapshot.now,
            "status": BuildStatus(replica=replica.uid, term=snapshot.term, started_at=snapshot.now),
        }
    )
    writes: tuple[AnyResource, ...] = (asked,)
    if replica.status.phase is not P.VERIFYING:
        writes = (asked, change(replica, P.VERIFYING, since=snapshot.now, reason=None))
    return Action(
        Verb.VERIFY_BUILD,
        build,
        Reason(code="gate.started", values={"replica": replica.name}),
        writes,
        effect=RunGate(build.ref, replica.ref),
    )


def _gate_runs_elsewhere(replica: Replica, build: Build, snapshot: Snapshot) -> bool:
    if not build.status.replica or build.status.replica == replica.uid:
        return False
    return any(
        other.uid == build.status.replica and other.status.phase is P.VERIFYING
        for other in snapshot.replicas.values()
    )


def _verifying(replica: Replica, snapshot: Snapshot, _ground: Ground) -> Action | None:
    ended = _lost_process(replica, snapshot)
    if ended:
        return ended
    build = build_of(replica, snapshot)
    if build is None:
        return None
    judged = _judged(replica, build, snapshot)
    if judged:
        return judged
    if build.status.replica != replica.uid or build.status.term != snapshot.term:
        return _verify(replica, build, snapshot)
    if snapshot.age_s(build.uid, build.status.started_at) > GATE_S:
        late = Reason(code="gate.late", values={"seconds": int(GATE_S)})
        return _ended(replica, snapshot, late)
    return None


def _ready(replica: Replica, snapshot: Snapshot, _ground: Ground) -> Action | None:
    ended = _lost_process(replica, snapshot)
    if ended or replica.status.node not in snapshot.seen.nodes:
        return ended
    pulse = snapshot.seen.pulses.get((replica.uid, replica.status.epoch))
    hung = hung_reason(pulse) if pulse else None
    return _ended(replica, snapshot, hung) if hung else None


def _lost_process(replica: Replica, snapshot: Snapshot) -> Action | None:
    """Act when the process of a living replica has ended."""
    reason = _end(replica, snapshot)
    return _ended(replica, snapshot, reason) if reason else None


def _end(replica: Replica, snapshot: Snapshot) -> Reason | None:
    """Say how its process ended; None while it runs, or while its node can't be seen."""
    if replica.status.node not in snapshot.seen.nodes:
        return None
    process = _process(replica, snapshot)
    if process is None:
        return Reason(code=VANISHED)
    return exit_reason(process) if process.state == "exited" else None


def _backing_off(replica: Replica, snapshot: Snapshot, ground: Ground) -> Action | None:
    """Let go of the accelerators once the processes are gone; start again when it is time."""
    status = replica.status
    if status.accelerators:
        if not _is_gone(replica, snapshot):
            return _repeat_stop(replica, snapshot)
        free: Replica = replica.with_status(**FREED, pid=0, url="")
        gone = Reason(code="replica.process-gone")
        return Action(Verb.RELEASE_REPLICA, replica, gone, (free,))
    retry_s = _retry_s(replica, snapshot)
    due = retry_s is not None and retry_s <= 0
    return _place(replica, snapshot, ground) if due or _reprieved(replica, snapshot) else None


def _reprieved(replica: Replica, snapshot: Snapshot) -> bool:
    """Tell whether a verdict that stopped it has been withdrawn."""
    reason = replica.status.reason
    if reason is None or reason.code != "gate.failed":
        return False
    build = snapshot.builds.get(Ref(replica.project, str(reason.values.get("build", ""))))
    return build is None or build.status.verdict is not Verdict.FAILED


def _draining(replica: Replica, snapshot: Snapshot, _ground: Ground) -> Action | None:
    """Stop it when no gateway can send it anything more and its requests are done."""
    routed = snapshot.seen.routed
    if _end(replica, snapshot) is None:
        if routed is None or replica.uid in routed:
            return None
        busy = snapshot.seen.inflight.get(replica.uid, 0) > 0
        if busy and snapshot.age_s(replica.uid, replica.status.since) < DRAIN_S:
            return None
    return stop(replica, snapshot, Reason(code="replica.drained"))


def _stopping(replica: Replica, snapshot: Snapshot, _ground: Ground) -> Action | None:
    if not _is_gone(replica, snapshot):
        return _repeat_stop(replica, snapshot)
    return Action(
        Verb.FORGET_REPLICA, replica, Reason(code="replica.process-gone"), gone=(replica,)
    )


def _is_gone(replica: Replica, snapshot: Snapshot) -> bool:
    """Tell whether nothing of it runs any more, or ever will at this epoch.

    What can't be seen is not gone; nor is what merely isn't there: its start may be on its way.
    The end of an earlier epoch, on whatever node it is still known, says nothing of this one.
    """
    status = replica.status
    if status.epoch == 0 or not status.node:
        return True
    if status.node not in snapshot.seen.nodes:
        return False
    process = snapshot.seen.processes.get(replica.uid)
    has_ended = process is not None and process.state == "exited"
    if process is None or (has_ended and process.epoch < status.epoch):
        return (replica.uid, status.epoch) in snapshot.seen.fenced
    return has_ended and process.epoch == status.epoch


def _repeat_stop(replica: Replica, snapshot: Snapshot) -> Action | None:
    """Send the order to stop again when it shows no result."""
    grace_s = STOP_GRACE_S if replica.uid in snapshot.seen.processes else 0.0
    if snapshot.age_s(replica.uid, replica.status.since) < START_PATIENCE_S + grace_s:
        return None
    again: Replica = replica.with_status(since=snapshot.now)
    why = Reason(code="replica.still-running")
    return Action(Verb.REPEAT_STOP, replica, why, (again,), effect=_stop_order(replica))


def leave(replica: Replica, snapshot: Snapshot, reason: Reason) -> Action | None:
    """Take a replica down that is no longer wanted: politely if it serves."""
    if replica.status.phase in {P.DRAINING, P.STOPPING}:
        return None
    if replica.status.phase is P.READY:
        drained = change(replica, P.DRAINING, since=snapshot.now, reason=reason)
        return Action(Verb.DRAIN_REPLICA, replica, reason, (drained,))
    return stop(replica, snapshot, reason)


def stop(replica: Replica, snapshot: Snapshot, reason: Reason) -> Action:
    """Order its process to end; one that holds nothing has no process and is simply forgotten."""
    if not replica.status.accelerators:
        return Action(Verb.FORGET_REPLICA, replica, reason, gone=(replica,))
    stopped = change(replica, P.STOPPING, since=snapshot.now, reason=reason)
    return Action(Verb.STOP_REPLICA, replica, reason, (stopped,), effect=_stop_order(replica))


def _stop_order(replica: Replica) -> Effect:
    return Stop(replica.status.node, replica.uid, replica.status.epoch)


def _ended(replica: Replica, snapshot: Snapshot, reason: Reason) -> Action:
    """It ended, or must: try again after a while, or call it failed after too often."""
    status = replica.status
    calm = status.ready_at is not None and _ready_s(replica, snapshot) > CALM_S
    restarts = 0 if calm else status.restarts
    if reason.code == VANISHED:
        wait_s = 0.0  # its supervisor came back without it: it is not to blame
    else:
        restarts += 1
        wait_s = min(BACK_OFF_S * 2 ** (restarts - 1), BACK_OFF_S_MAX)
    if restarts > RESTARTS_MAX:
        return _fail(replica, snapshot, reason, "", retry_s=RETRY_S)
    ended = change(
        replica,
        P.BACKING_OFF,
        since=snapshot.now,
        reason=reason,
        next_try=snapshot.now + wait_s,
        restarts=restarts,
        ready_at=None,
        last_lines=snapshot.seen.lines.get(replica.uid, ()),
    )
    return Action(Verb.BACK_OFF_REPLICA, replica, reason, (ended,), effect=_stop_order(replica))


def _ready_s(replica: Replica, snapshot: Snapshot) -> float:
    """Return how long it has been ready, by whichever clock is kinder to it."""
    at = replica.status.ready_at
    return max(snapshot.now - (at or snapshot.now), snapshot.age_s(replica.uid, at))


def _fail(
    replica: Replica,
    snapshot: Snapshot,
    reason: Reason,
    blocked_by: str,
    retry_s: float | None = None,
) -> Action:
    failed = change(
        replica,
        P.FAILED,
        since=snapshot.now,
        reason=reason,
        blocked_by=blocked_by,
        next_try=None if retry_s is None else snapshot.now + retry_s,
        ready_at=None,
        last_lines=snapshot.seen.lines.get(replica.uid, ()),
    )
    return Action(Verb.FAIL_REPLICA, replica, reason, (failed,), effect=_stop_order(replica))


def build_of(replica: Replica, snapshot: Snapshot) -> Build | None:
    """Return the build that this replica runs: the stored one, or a new open one."""
    revision: Revision | None = snapshot.revisions.get(replica.revision)
    kind = accelerator_kind(replica, snapshot)
    recipe = revision.spec.form(replica.status.variant).recipe if revision else ""
    engine = snapshot.engines.get(recipe)
    if revision is None or engine is None or not kind:
        return None
    fresh = build_for(revision, recipe, kind, engine.version)
    return snapshot.builds.get(fresh.ref, fresh)


def accelerator_kind(replica: Replica, snapshot: Snapshot) -> str:
    """Return the kind of accelerator it was given; empty if that one is unknown."""
    for name in replica.status.accelerators:
        accelerator = snapshot.accelerators.get(Ref("", name))
        if accelerator:
            return accelerator.spec.accelerator
    return ""


def _process(replica: Replica, snapshot: Snapshot) -> Process | None:
    """Return its process, if that is the one of this epoch."""
    process = snapshot.seen.processes.get(replica.uid)
    if process is None or process.epoch != replica.status.epoch:
        return None
    return process


_WORKING = frozenset({P.STARTING, P.VERIFYING, P.READY, P.DRAINING})
_STEPS: dict[ReplicaPhase, Callable[[Replica, Snapshot, Ground], Action | None]] = {
    P.WAITING: _place,
    P.STARTING: _starting,
    P.VERIFYING: _verifying,
    P.READY: _ready,
    P.BACKING_OFF: _backing_off,
    P.FAILED: _backing_off,
    P.DRAINING: _draining,
    P.STOPPING: _stopping,
}
