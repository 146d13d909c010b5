"""What a job needs next: its first attempt, another one, or its end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from madang.errors import Value
from madang.planning.action import Action, Discard, Launch, Record, Verb
from madang.planning.ask import Refused
from madang.planning.attempts.attempts import (
    AGAIN_S,
    ask_to_save,
    end,
    is_over,
    newest_claim,
    read_in_s,
)
from madang.planning.attempts.barrier import AFTER_FAILED, bared, barrier, shared, too_full
from madang.planning.attempts.blame import ASKED_ITSELF, Blame
from madang.planning.cadence import lost_s, suggested_s
from madang.planning.place.fix import smallest_fix
from madang.planning.place.gangs import Want, keep, place_gang
from madang.planning.place.ground import Ground
from madang.planning.place.place import NO_ROOM, Placement
from madang.planning.queue.lanes import Member
from madang.planning.queue.order import Order
from madang.planning.queue.waiting import line_mark, retry_s
from madang.planning.quotas import Limit
from madang.planning.relief import relief
from madang.planning.snapshot import Snapshot
from madang.planning.tally import pool_of
from madang.resources.attempt import (
    Attempt,
    AttemptPhase,
    AttemptSpec,
    AttemptStatus,
    Outcome,
)
from madang.resources.idle import Meter
from madang.resources.job import NEXT, OVER, Job, JobPhase
from madang.resources.resource import Reason, Ref

ATTEMPTS_KEPT = 50
"""So many attempts of a job are kept, the newest."""
FRUITLESS_MAX = 3
"""Attempts in a row that end by the job's own doing, and bring no step that is new."""
BACK_OFF_S = 1.0
BACK_OFF_S_MAX = 60.0
READ_PATIENCE_S = 600.0
"""So long an attempt that is over waits for its last checkpoint to be read."""
PORT_FIRST, PORTS = 29_500, 1000
"""Where rank 0 waits for the others: torchrun's own port, and those behind it."""

J = JobPhase
LONG = 100
"""In a longer line nobody is told what would help until they ask, nor each change of what is free:
there would be thousands to tell."""
KEPT = Reason(code="queue.kept-free")
ROOM_KEPT = 3
"""So many times that it made room are kept: as often as it may within an hour."""
Held = tuple[Reason, str] | tuple[Reason, str, Reason]
"""Why something is held, what it waits for, and what would help."""
SUSPENDED = Reason(code="job.suspended")


@dataclass(frozen=True, slots=True)
class Task:
    """A job with what lives of it."""

    job: Job
    newest: Attempt | None
    """The attempt that runs, or the last that did."""
    living: tuple[Attempt, ...]
    """Its attempts that have not ended, oldest first."""


def tasks(snapshot: Snapshot, ground: Ground, order: Order) -> Iterator[Task]:
    """Gather what belongs to each job of which something is to be done, the first in front.

    Those in line come first; what is said of the others does not depend on who they are before.
    Who is known to wait behind another that asks for the same is left out.
    """
    muster, living = order.muster, order.muster.living
    own = [job for ref in living if (job := snapshot.jobs.get(ref))]
    both = {job.uid for job in own if order.is_in(job)}
    for member in order.line:
        has_more = bool(both) and member.job.uid in both
        if has_more or not _waits_still(member, ground):
            yield Task(member.job, None, living[member.job.ref] if has_more else ())
    rest = {**muster.idle, **{uid: muster.waits[uid].job for uid in order.door}}
    rest |= {job.uid: job for job in own if job.uid not in both}
    for job in sorted(rest.values(), key=line_mark):
        newest = snapshot.attempts.get(Ref(job.project, f"{job.name}-{job.status.attempt}"))
        mine = sorted(living.get(job.ref, ()), key=lambda attempt: attempt.spec.number)
        yield Task(job, newest, tuple(mine))


def _waits_still(member: Member, ground: Ground) -> bool:
    """Tell whether there is no room for another that asks for the same, and it was told so."""
    if ground.closed:
        return False
    known = ground.lines.get((member.project, member.want))
    return known is not None and known.code == member.told


def change(job: Job, phase: JobPhase, **status: Any) -> Job:
    """Move it to a phase that may follow the one it is in."""
    before = job.status.phase
    assert phase is before or phase in NEXT[before], (before, phase)
    changed: Job = job.with_status(phase=phase, **status)
    return changed


def plan_job(task: Task, snapshot: Snapshot, ground: Ground, order: Order) -> Iterator[Action]:
    """Return the next steps of one job, apart from the life of its attempts."""
    job, newest = task.job, task.newest
    if job.deleted_at is not None:
        yield from take_down(task, snapshot)
    elif job.status.phase in OVER:
        return
    elif job.status.phase is J.RUNNING and newest:
        yield from _watch(job, newest, snapshot)
    elif job.spec.cancel:
        yield finish(job, J.CANCELLED, Reason(code="job.cancelled"), snapshot)
    else:
        yield from _begin(job, snapshot, ground, order)


def take_down(task: Task, snapshot: Snapshot) -> Iterator[Action]:
    """Stop what runs; when nothing does, have its files removed, and the job forgotten."""
    reason = Reason(code="job.being-deleted")
    for attempt in task.living:
        if attempt.status.phase is not AttemptPhase.STOPPING:
            yield end(attempt, snapshot, Blame(Outcome.CANCELLED, reason))
    if not task.living and _cleared_in_s(task.job, snapshot) <= 0:
        clearing: Job = task.job.with_status(clearing=snapshot.term, since=snapshot.now)
        effect = Discard(task.job.ref)
        yield Action(Verb.CLEAR_JOB, task.job, reason, (clearing,), effect=effect)


def _cleared_in_s(job: Job, snapshot: Snapshot) -> float:
    """Return for how many seconds yet its files may take to be removed; 0: nobody does it."""
    if job.status.clearing != snapshot.term:
        return 0.0
    return max(0.0, AGAIN_S - snapshot.age_s(job.uid, job.status.since))


def is_timed(job: Job) -> bool:
    """Tell whether time alone may change what is planned for it."""
    return job.deleted_at is not None or job.status.next_try is not None


def wake_s(job: Job, snapshot: Snapshot) -> float | None:
    """Return the seconds until time alone would change what is planned for it."""
    if job.deleted_at is not None:
        return _cleared_in_s(job, snapshot) or None
    return retry_s(job, snapshot)


def _watch(job: Job, attempt: Attempt, snapshot: Snapshot) -> Iterator[Action]:
    """Have it leave if it must, keep its checkpoints, and judge it once it is over.

    Not before its last checkpoint is read: the next attempt goes on from there.
    """
    wanted = _leaves(job, attempt, snapshot)
    is_living = attempt.status.phase in {AttemptPhase.STARTING, AttemptPhase.RUNNING}
    if wanted and is_living:
        yield ask_to_save(job, attempt, snapshot, wanted)
        return
    recorded = tuple(_record(job, attempt, snapshot))
    yield from recorded
    if is_over(attempt, snapshot) and not recorded and not _waits_for(job, attempt, snapshot):
        yield _judge(job, attempt, snapshot)


def _leaves(job: Job, attempt: Attempt, snapshot: Snapshot) -> Blame | None:
    """Say why it must leave what it has, whatever its ranks do; None: it need not."""
    if job.spec.cancel:
        return Blame(Outcome.CANCELLED, Reason(code="job.cancelled"))
    if job.spec.suspend:
        return Blame(Outcome.PREEMPTED, SUSPENDED)
    for place in attempt.status.places:
        if snapshot.drains(place.node):
            why = Reason(code="attempt.node-drained", values={"node": place.node})
            return Blame(Outcome.PREEMPTED, why)
    missing = bared(job, snapshot) or too_full(job, snapshot)
    return Blame(Outcome.PREEMPTED, missing[0]) if missing else None


def _is_reading(job: Job, attempt: Attempt, snapshot: Snapshot) -> bool:
    """Tell whether a folder that it calls a checkpoint is being read."""
    return attempt.status.claim not in _known(job) and read_in_s(attempt, snapshot) > 0


def _known(job: Job) -> set[str]:
    """Return the names of folders of which is known whether they are checkpoints."""
    return {"", *(checkpoint.name for checkpoint in job.status.checkpoints), *job.status.refused}


def _waits_for(job: Job, attempt: Attempt, snapshot: Snapshot) -> bool:
    """Tell whether its last checkpoint is worth waiting for still."""
    age_s = snapshot.age_s(attempt.uid, attempt.status.since)
    return _is_reading(job, attempt, snapshot) and age_s < READ_PATIENCE_S


def _record(job: Job, attempt: Attempt, snapshot: Snapshot) -> Iterator[Action]:
    """Have the newest folder read that a rank calls a checkpoint."""
    claim = newest_claim(attempt, snapshot)
    if _is_reading(job, attempt, snapshot) or claim in _known(job):
        return
    asked: Attempt = attempt.with_status(
        claim=claim, claim_term=snapshot.term, claimed_at=snapshot.now
    )
    reason = Reason(code="checkpoint.named", values={"checkpoint": claim})
    # About the job: of what a plan does to an attempt, only the last is carried out.
    effect = Record(job.ref, attempt.ref)
    yield Action(Verb.READ_CHECKPOINT, job, reason, (asked,), effect=effect)


def _judge(job: Job, attempt: Attempt, snapshot: Snapshot) -> Action:
    """Decide what follows from how an attempt ended."""
    status, own = attempt.status, job.status
    cause = status.cause or Reason(code="attempt.processes-gone")
    is_new = status.step > max(own.step, attempt.spec.first_step)
    own_doing = status.outcome is Outcome.ERROR
    is_asked = status.outcome is Outcome.PREEMPTED and cause.code != ASKED_ITSELF
    fruitless = (0 if is_new else own.fruitless) + (own_doing and not is_new)
    barren = 0 if is_new else own.barren + (not is_asked)
    preempted = own.preempted + is_asked
    ended_at = status.ended_at or snapshot.now
    run_s, lost = max(0.0, ended_at - status.started_at), lost_s(job, attempt, ended_at)
    kept: dict[str, Any] = {
        "step": max(own.step, status.step), "total": status.total or own.total,
        "fruitless": fruitless, "barren": barren, "preempted": preempted,
        "preempted_at": (*own.preempted_at, *([ended_at] if status.room_for else ()))[-ROOM_KEPT:],
        "run_s": own.run_s + run_s, "lost_s": own.lost_s + lost,
        "accelerator_s": own.accelerator_s + attempt.spec.accelerators * run_s,
        "lost_accelerator_s": own.lost_accelerator_s + attempt.spec.accelerators * lost,
        "exit_code": status.exit_code, "last_lines": status.last_lines,
        "metrics": status.metrics or own.metrics,
    }  # fmt: skip
    if status.outcome is Outcome.SUCCEEDED:
        return finish(job, J.SUCCEEDED, cause, snapshot, **kept)
    kept["cause"] = cause
    if status.outcome is Outcome.CANCELLED or job.spec.cancel:
        return finish(job, J.CANCELLED, cause, snapshot, **kept)
    never = own.step < 0 and status.step < 0
    if own_doing and (never or fruitless >= FRUITLESS_MAX):
        return finish(job, J.FAILED, cause, snapshot, **kept)
    if own.attempt - preempted >= job.spec.resume.attempts:
        values: dict[str, Value] = {"attempts": own.attempt}
        return finish(job, J.FAILED, Reason(code="job.attempts", values=values), snapshot, **kept)
    is_held = barren and not is_asked
    wait_s = min(BACK_OFF_S * 2 ** (barren - 1), BACK_OFF_S_MAX) if is_held else 0.0
    waiting = change(
        job, J.WAITING, **kept, reason=cause, since=snapshot.now, smallest_fix=None,
        next_try=snapshot.now + wait_s if wait_s else None, blocked_by="",
    )  # fmt: skip
    return Action(Verb.RETRY_JOB, job, cause, (waiting,))


def finish(
    job: Job, phase: JobPhase, reason: Reason, snapshot: Snapshot, **kept: Any
) -> Action:  # fmt: skip
    """End it, and say why."""
    done = change(
        job, phase, **kept, reason=reason, since=snapshot.now, ended_at=snapshot.now,
        next_try=None, smallest_fix=None, blocked_by="",
    )  # fmt: skip
    verbs = {J.SUCCEEDED: Verb.FINISH_JOB, J.FAILED: Verb.FAIL_JOB, J.CANCELLED: Verb.CANCEL_JOB}
    return Action(verbs[phase], job, reason, (done,))


def _begin(job: Job, snapshot: Snapshot, ground: Ground, order: Order) -> Iterator[Action]:
    """Find room for the next attempt, once nothing else is in the way."""
    closed = shared(job, snapshot, ground) if order.is_in(job) else _outside(job, snapshot, ground)
    if closed and closed[0].code == AFTER_FAILED:
        yield finish(job, J.FAILED, closed[0], snapshot, cause=closed[0])
    elif closed:
        yield from hold(job, snapshot, *closed)
    elif full := order.door.get(job.uid):
        values: dict[str, Value] = {"place": full[0], "most": full[1]}
        yield from hold(job, snapshot, Reason(code="queue.door", values=values))
    elif (retry_s(job, snapshot) or 0.0) > 0:
        return
    elif ground.closed and order.is_kept_from(job, ground.closed):
        if job.status.reason is None or job.status.reason.code not in NO_ROOM:
            yield from _line_up(job, snapshot, KEPT)
    else:
        yield from _find_room(job, snapshot, ground, order)


def _outside(job: Job, snapshot: Snapshot, ground: Ground) -> Held | None:
    """Say what one has to wait for that is in no line; None: for its next try, or a quota."""
    if job.is_suspended:
        resume = Reason(code="job.fix-resume", values={"job": job.name})
        return (SUSPENDED if job.spec.suspend else Reason(code="job.rests")), "", resume
    return barrier(job, snapshot, ground)


def _find_room(job: Job, snapshot: Snapshot, ground: Ground, order: Order) -> Iterator[Action]:
    """Start it where quotas and what is free allow it; else say what does not."""
    want = order.want(job)
    allowed = ground.allowed(job.project, want.ask, want.nodes)
    if isinstance(allowed, Limit):
        if not allowed.is_same(job.status.reason):
            fix = relief(allowed, job.project, want, ground)
            yield from hold(job, snapshot, allowed.reason, f"quota/{allowed.place}", fix)
        return
    if allowed is not want.ask:
        want = replace(want, ask=allowed)
    if known := ground.lines.get(want):
        ground.lines[job.project, order.want(job)] = known
        yield from _line_up(job, snapshot, known)
        return
    told, is_long = job.status.reason, len(order.line) > LONG
    if is_long and told and told.code in NO_ROOM and not want.may_fit(ground):
        _refuse(job, want, told, ground, order)  # nor would counting again what is in the way help
        return
    found = place_gang(want, ground)
    if not isinstance(found, Refused):
        yield _start(job, found, snapshot)
        return
    _refuse(job, want, found.reason, ground, order)
    if is_long:
        yield from _line_up(job, snapshot, found.reason)
    else:
        fix = smallest_fix(found, ground, snapshot, job)
        yield from hold(job, snapshot, found.reason, fix=fix)


def _refuse(job: Job, want: Want, reason: Reason, ground: Ground, order: Order) -> None:
    """Let those behind know why there is no room, and leave them nothing that is kept for it."""
    if coming := order.coming_for(job):
        keep(want, coming, ground)
    elif (place := order.place(job)) and place.is_eldest:
        ground.closed.add(place.lane.kind)
    ground.lines[want] = ground.lines[job.project, order.want(job)] = reason


def _start(job: Job, found: Sequence[Placement], snapshot: Snapshot) -> Action:
    """Make its next attempt, in these places, from its newest checkpoint."""
    newest = job.status.checkpoints[-1] if job.status.checkpoints else None
    number = job.status.attempt + 1
    digest = hashlib.sha256(f"{job.uid}/{number}".encode())
    count = sum(len(place.holding().accelerators) for place in found)
    pool = pool_of(found[0].node, snapshot)
    attempt = Attempt(
        project=job.project,
        name=f"{job.name}-{number}",
        uid=f"attempt-{digest.hexdigest()[:16]}",
        created_at=snapshot.now,
        spec=AttemptSpec(
            job=job.name, number=number, resume_from=newest.name if newest else "",
            first_step=newest.step if newest else 0, resume_job=newest.job if newest else "",
            accelerators=count, save_every_s=suggested_s(newest, count, pool),
            write_s=newest.write_s if newest else 0.0,
        ),
        status=AttemptStatus(
            places=tuple(place.holding() for place in found), since=snapshot.now,
            started_at=snapshot.now,
            meter=Meter(epoch=number, at=snapshot.now, term=snapshot.term),
            port=PORT_FIRST + int.from_bytes(digest.digest()[-4:], "big") % PORTS,
        ),
    )  # fmt: skip
    running = change(
        job, J.RUNNING, attempt=number, since=snapshot.now, reason=None, next_try=None,
        smallest_fix=None, blocked_by="", refused=(),
        began_at=snapshot.now if job.status.began_at is None else job.status.began_at,
    )  # fmt: skip
    values: dict[str, Value] = {
        "nodes": ", ".join(dict.fromkeys(place.node for place in found)), "attempt": number,
        "step": newest.step if newest else 0,
    }  # fmt: skip
    reason = Reason(code="attempt.placed", values=values)
    old = snapshot.attempts.get(Ref(job.project, f"{job.name}-{number - ATTEMPTS_KEPT}"))
    gone = (old,) if old and old.status.phase is AttemptPhase.ENDED else ()
    effect = Launch(attempt.ref)
    return Action(Verb.START_ATTEMPT, attempt, reason, (attempt, running), gone, effect)


def _line_up(job: Job, snapshot: Snapshot, reason: Reason) -> Iterator[Action]:
    """Say why it waits, behind another that asks for the same: once, whatever the counts are then.

    There may be thousands in line, and each step of any job changes what is free.
    """
    own = job.status.reason
    if own is None or own.code != reason.code or job.status.blocked_by:
        yield from hold(job, snapshot, reason)


def hold(
    job: Job, snapshot: Snapshot, reason: Reason, blocked_by: str = "", fix: Reason | None = None
) -> Iterator[Action]:
    """Say why it waits, once."""
    status = job.status
    if (status.reason, status.smallest_fix, status.blocked_by) == (reason, fix, blocked_by):
        return
    since = status.since if status.reason and status.reason.code == reason.code else snapshot.now
    held: Job = job.with_status(
        reason=reason, since=since, smallest_fix=fix, blocked_by=blocked_by, next_try=None
    )
    yield Action(Verb.HOLD_JOB, job, reason, (held,))
