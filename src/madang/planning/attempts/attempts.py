"""The life of one attempt: from its phase and what is seen of its ranks to its next step.

A gang lives and ends as one: when a rank ends before its time, or makes no step any more, all are
stopped, and what they had is free once nothing of them runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from madang.planning.action import Action, Halt, Launch, Stop, Verb, Warn
from madang.planning.attempts.blame import Blame, blame, is_undecided
from madang.planning.health.fencing import lost_one
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import NEXT, Attempt, AttemptPhase, Outcome, member_uid
from madang.resources.holding import Holding
from madang.resources.job import GRACE_S_MAX, Job
from madang.resources.resource import Reason
from madang.supervisor.protocol import Process

START_PATIENCE_S = 5.0
"""An order to start or stop that shows no result for this long is sent again."""
STOP_GRACE_S = 30.0
"""Between the signal to end and the one that ends: time to save."""
GRACE_TIMES = 2.0
"""More than that where so many times the last step and checkpoint take longer."""
BROKEN_GRACE_S = 2.0
"""The same where a rank is gone: what the others had together can't be saved any more."""
AGAIN_S = 60.0
"""What is asked of the disk and brings nothing for so long is asked for again."""

STUCK_S = 60.0
"""So long after an accelerator was lost a job waits for what hangs on it."""

P = AttemptPhase
FREE = Holding()


def change(attempt: Attempt, phase: AttemptPhase, **status: Any) -> Attempt:
    """Move it to a phase that may follow the one it is in."""
    before = attempt.status.phase
    assert phase is before or phase in NEXT[before], (before, phase)
    changed: Attempt = attempt.with_status(phase=phase, **status)
    return changed


def step(attempt: Attempt, snapshot: Snapshot) -> Action | None:
    """Return what to do next for this attempt; None: nothing now."""
    if attempt.status.phase is P.STOPPING:
        return _stopping(attempt, snapshot)
    if attempt.status.phase is P.ENDED:
        return None
    if attempt.status.phase is P.SAVING:
        return _saving(attempt, snapshot)
    found = blame(attempt, snapshot)
    if found:
        return end(attempt, snapshot, found)
    return _starting(attempt, snapshot) if attempt.status.phase is P.STARTING else None


def wake_s(attempt: Attempt, snapshot: Snapshot) -> float | None:
    """Return the seconds until time alone would change what `step` says."""
    status = attempt.status
    if status.phase is P.ENDED:
        return None
    if status.phase is P.STARTING:
        return max(START_PATIENCE_S - snapshot.age_s(attempt.uid, status.started_at), 1.0)
    if status.phase is P.SAVING:
        return max(status.grace_s - snapshot.age_s(attempt.uid, status.since), 1.0)
    if status.phase is P.STOPPING:
        limit_s = START_PATIENCE_S + grace_s(attempt)
        return max(limit_s - snapshot.age_s(attempt.uid, status.since), 1.0)
    if is_undecided(attempt, snapshot):
        return 1.0
    if any(place.node not in snapshot.seen.nodes for place in status.places):
        return 5.0
    return read_in_s(attempt, snapshot) or None


def read_in_s(attempt: Attempt, snapshot: Snapshot) -> float:
    """Return for how many seconds yet its claim may take to be read; 0: nobody does it."""
    status = attempt.status
    if not status.claim or status.claim_term != snapshot.term:
        return 0.0
    return max(0.0, AGAIN_S - snapshot.age_s(attempt.uid, status.claimed_at))


def processes(attempt: Attempt, snapshot: Snapshot) -> Iterator[tuple[Holding, Process | None]]:
    """Return the place and the process of each member of the gang."""
    for member, place in enumerate(attempt.status.places):
        process = snapshot.seen.processes.get(member_uid(attempt, member))
        yield place, process


def _starting(attempt: Attempt, snapshot: Snapshot) -> Action | None:
    """Go on once every rank runs; send the orders again that show no result."""
    missing = False
    for place, process in processes(attempt, snapshot):
        if place.node not in snapshot.seen.nodes:
            return None
        missing |= process is None
    if missing:
        if snapshot.age_s(attempt.uid, attempt.status.started_at) < START_PATIENCE_S:
            return None
        again: Attempt = attempt.with_status(started_at=snapshot.now)
        reason = Reason(code="attempt.no-process")
        return Action(Verb.REPEAT_ATTEMPT, attempt, reason, (again,), effect=Launch(attempt.ref))
    ranks = [
        rank for _, process in processes(attempt, snapshot) if process for rank in process.ranks
    ]
    if not ranks or any(rank.pid == 0 and rank.exit_code is None for rank in ranks):
        return None
    running = change(attempt, P.RUNNING, running_at=snapshot.now, since=snapshot.now)
    return Action(
        Verb.RUN_ATTEMPT, attempt, Reason(code="attempt.all-ranks", values={"ranks": len(ranks)}),
        (running,),
    )  # fmt: skip


def ask_to_save(job: Job, attempt: Attempt, snapshot: Snapshot, found: Blame) -> Action:
    """Have every rank save and end by itself; where none has begun there is nothing to save."""
    if not any(process for _, process in processes(attempt, snapshot)):
        return end(attempt, snapshot, found)
    asked = change(
        attempt, P.SAVING, since=snapshot.now, reason=found.cause, outcome=found.outcome,
        cause=found.cause, grace_s=_save_s(job, attempt, snapshot), asked_term=snapshot.term,
    )  # fmt: skip
    warning = Warn(tuple(_orders(attempt)))
    return Action(Verb.SAVE_ATTEMPT, attempt, found.cause, (asked,), effect=warning)


def _save_s(job: Job, attempt: Attempt, snapshot: Snapshot) -> float:
    """Return how long a gang may take to save: what its user says, or has been measured."""
    if job.spec.resume.grace is not None:
        return job.spec.resume.grace
    seen = (rank.step_s for _, p in processes(attempt, snapshot) if p for rank in p.ranks)
    written_s = job.status.checkpoints[-1].write_s if job.status.checkpoints else 0.0
    needed_s = GRACE_TIMES * (written_s + max(seen, default=0.0))
    return min(max(STOP_GRACE_S, needed_s), GRACE_S_MAX)


def _saving(attempt: Attempt, snapshot: Snapshot) -> Action | None:
    """Stop it once all its ranks have ended, or have had their time.

    Only one that has done its last step is done: a program may end well because it was asked to.
    """
    status = attempt.status
    assert status.outcome is not None
    assert status.cause is not None
    is_late = snapshot.age_s(attempt.uid, status.since) >= status.grace_s
    members = list(processes(attempt, snapshot))
    has_ended = all(
        place.node in snapshot.seen.nodes and (process is None or process.state == "exited")
        for place, process in members
    )
    if not (is_late or has_ended):
        return _ask_again(attempt, snapshot)
    ranks = [rank for _, process in members if process for rank in process.ranks]
    step, total = newest_step(attempt, snapshot), max((rank.total for rank in ranks), default=0)
    if 0 < total <= step and all(rank.exit_code == 0 for rank in ranks):
        return end(attempt, snapshot, Blame(Outcome.SUCCEEDED, Reason(code="attempt.done")))
    return end(attempt, snapshot, Blame(status.outcome, status.cause))


def _ask_again(attempt: Attempt, snapshot: Snapshot) -> Action | None:
    """Ask once more where the control that was to ask is gone: perhaps it never did."""
    if attempt.status.asked_term == snapshot.term:
        return None
    asked: Attempt = attempt.with_status(asked_term=snapshot.term)
    why, warning = Reason(code="attempt.asked-by-another"), Warn(tuple(_orders(attempt)))
    return Action(Verb.REPEAT_SAVE, attempt, why, (asked,), effect=warning)


def newest_step(attempt: Attempt, snapshot: Snapshot) -> int:
    """Return the highest step that any rank has told of; as written down where none is seen."""
    seen = (rank.step for _, p in processes(attempt, snapshot) if p for rank in p.ranks)
    return max(seen, default=attempt.status.step)


def newest_claim(attempt: Attempt, snapshot: Snapshot) -> str:
    """Return the name of the newest folder that a rank calls a checkpoint; empty: none does."""
    ranks = (rank for _, p in processes(attempt, snapshot) if p for rank in p.ranks)
    claims = sorted((rank.step, rank.checkpoint) for rank in ranks if rank.checkpoint)
    return claims[-1][1] if claims else attempt.status.claim


def end(attempt: Attempt, snapshot: Snapshot, found: Blame) -> Action:
    """Stop the whole gang, and keep what was the cause, and what it last called a checkpoint."""
    seen = [rank for _, p in processes(attempt, snapshot) if p for rank in p.ranks]
    claim, before = newest_claim(attempt, snapshot), attempt.status
    stopped = change(
        attempt,
        P.STOPPING,
        since=snapshot.now,
        reason=found.cause,
        outcome=found.outcome,
        cause=found.cause,
        rank=found.rank,
        exit_code=found.exit_code,
        last_lines=found.last_lines,
        step=newest_step(attempt, snapshot),
        total=max((rank.total for rank in seen), default=0),
        step_s=max((rank.step_s for rank in seen), default=0.0),
        metrics=next((dict(rank.metrics) for rank in seen if rank.rank == 0), {}),
        claim=claim,
        claim_term=before.claim_term if claim == before.claim else 0,
    )
    return Action(Verb.STOP_ATTEMPT, attempt, found.cause, (stopped,), effect=_halt(stopped))


def grace_s(attempt: Attempt) -> float:
    """Return how long its ranks have to end by themselves."""
    is_broken = attempt.status.outcome in {Outcome.FAULT, Outcome.ERROR}
    has_had_it = attempt.status.grace_s > 0
    return BROKEN_GRACE_S if is_broken or has_had_it else STOP_GRACE_S


def _halt(attempt: Attempt) -> Halt:
    return Halt(tuple(_orders(attempt)), grace_s(attempt))


def _orders(attempt: Attempt) -> Iterator[Stop]:
    for member, place in enumerate(attempt.status.places):
        if place.accelerators:
            yield Stop(place.node, member_uid(attempt, member), attempt.spec.number)


def _stopping(attempt: Attempt, snapshot: Snapshot) -> Action | None:
    """Give back what each member had once nothing of it runs; the attempt ends with the last."""
    status = attempt.status
    if _holds_on(attempt, snapshot):
        return None
    places = tuple(
        FREE.model_copy(update={"node": place.node})
        if _is_gone(attempt, member, snapshot)
        else place
        for member, place in enumerate(status.places)
    )
    gone = Reason(code="attempt.processes-gone")
    if not any(place.accelerators for place in places):
        ended = change(attempt, P.ENDED, places=places, since=snapshot.now, ended_at=snapshot.now)
        return Action(Verb.END_ATTEMPT, attempt, status.cause or gone, (ended,))
    if places != status.places:
        freed: Attempt = attempt.with_status(places=places)
        return Action(Verb.RELEASE_ATTEMPT, attempt, gone, (freed,))
    is_early = snapshot.age_s(attempt.uid, status.since) < START_PATIENCE_S + grace_s(attempt)
    if is_early or is_adrift(attempt, snapshot):
        return None
    again: Attempt = attempt.with_status(since=snapshot.now)
    why = Reason(code="attempt.still-running")
    return Action(
        Verb.REPEAT_HALT, attempt, why, (again,), effect=_halt(attempt)
    )  # fmt: skip


def _holds_on(attempt: Attempt, snapshot: Snapshot) -> bool:
    """Tell whether it is gone and others are not that make room for the same.

    What they have is free at once, so that nobody who comes later takes a part of it.
    """
    mark = attempt.status.room_for
    if not mark or not _is_all_gone(attempt, snapshot):
        return False
    others = (each for each in snapshot.living if each.status.room_for == mark)
    return not all(_is_all_gone(each, snapshot) or is_adrift(each, snapshot) for each in others)


def _is_all_gone(attempt: Attempt, snapshot: Snapshot) -> bool:
    is_stopping = attempt.status.phase is P.STOPPING
    members = range(len(attempt.status.places))
    return is_stopping and all(_is_gone(attempt, member, snapshot) for member in members)


def _is_gone(attempt: Attempt, member: int, snapshot: Snapshot) -> bool:
    """Tell whether nothing of a member runs any more, or ever will."""
    place = attempt.status.places[member]
    if not place.accelerators:
        return True
    if place.node not in snapshot.seen.nodes:
        return False
    uid = member_uid(attempt, member)
    process = snapshot.seen.processes.get(uid)
    if process is None:
        return (uid, attempt.spec.number) in snapshot.seen.fenced
    return process.state == "exited"


def is_adrift(attempt: Attempt, snapshot: Snapshot) -> bool:
    """Tell whether all that is left of it is where nobody can see it.

    What it still does there counts for nothing: its checkpoints bear an older epoch.
    """
    left = [place for place in attempt.status.places if place.accelerators]
    return attempt.status.phase is P.STOPPING and not any(
        place.node in snapshot.seen.nodes for place in left
    )


def is_over(attempt: Attempt, snapshot: Snapshot) -> bool:
    """Tell whether the next one may begin."""
    is_ended = attempt.status.phase is P.ENDED
    return is_ended or is_adrift(attempt, snapshot) or _is_stuck(attempt, snapshot)


def _is_stuck(attempt: Attempt, snapshot: Snapshot) -> bool:
    """Tell whether what is left of it hangs on accelerators that are lost.

    A program that waits for one can't always be ended. It counts for nothing, as what is adrift.
    """
    if attempt.status.phase is not P.STOPPING:
        return False
    left = [lost_one(place, snapshot) for place in attempt.status.places if place.accelerators]
    return all(lost and snapshot.age_s(lost.uid, lost.status.fenced_at) >= STUCK_S for lost in left)
