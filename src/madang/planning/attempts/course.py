"""Where a job is: what its ranks say now, what it has saved, and what it has lost."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from madang.planning.attempts.attempts import processes
from madang.planning.snapshot import Snapshot
from madang.planning.tally import pool_of
from madang.resources.attempt import Attempt, AttemptPhase, Outcome
from madang.resources.job import Job, JobPhase
from madang.resources.resource import Frozen, Reason, Ref
from madang.supervisor.protocol import Rank

HISTORY_MAX = 5


class RankCourse(Frozen):
    """One rank, as its node sees it now."""

    rank: int
    node: str
    step: int
    phase: str
    quiet_s: float
    """Since it last said anything."""
    exit_code: int | None
    metrics: dict[str, float]


class PastAttempt(Frozen):
    """An attempt that has ended without success."""

    number: int
    outcome: Outcome | None
    nodes: tuple[str, ...]
    first_step: int
    """After which it went on; 0: from the start."""
    step: int
    """The last that it has told of; -1: none."""
    run_s: float
    cause: Reason | None


class Course(Frozen):
    """A job on its way."""

    name: str
    phase: JobPhase
    attempt: int
    attempts: int
    """How many it may have."""
    step: int
    """The highest that any rank has said, now or before; -1: none."""
    total: int
    """0: it has not said how many there are."""
    step_s: float
    left_s: float | None
    """What is left at this speed; None: not known."""
    saved_step: int
    """Of the newest good checkpoint; -1: there is none;"""
    saved: str
    """and its name;"""
    saved_bytes: int
    """and its size."""
    run_s: float
    """For how long its attempts had accelerators, this one included;"""
    lost_s: float
    """and how much of that brought nothing that lasts."""
    goodput: float | None
    """The other part of it; None: it has not run yet."""
    save_every_s: float
    """How often the newest attempt is asked to save, 0 where there is none yet;"""
    write_s: float
    """reckoned with a checkpoint that takes so long; 0: not known then;"""
    pool: str
    """where it runs, or ran last,"""
    pool_faults: int
    """how often attempts have failed there by no doing of theirs,"""
    pool_run_s: float
    """in so many seconds of single accelerators."""
    reason: Reason | None
    cause: Reason | None
    """Why the last attempt ended that did not succeed."""
    ranks: tuple[RankCourse, ...]
    history: tuple[PastAttempt, ...]
    """The last that have ended without success, oldest first."""


def course(job: Job, snapshot: Snapshot) -> Course:
    """Return where a job is."""
    status = job.status
    attempt = snapshot.attempts.get(Ref(job.project, f"{job.name}-{status.attempt}"))
    is_on = attempt is not None and attempt.status.phase is not AttemptPhase.ENDED
    found: list[tuple[str, Rank]] = []
    if attempt is not None and is_on:
        for place, process in processes(attempt, snapshot):
            found += [(place.node, rank) for rank in (process.ranks if process else ())]
    ranks = sorted(found, key=lambda each: each[1].rank)
    step = max((rank.step for _, rank in ranks), default=-1)
    total = max((rank.total for _, rank in ranks), default=0) or status.total
    times = [rank.step_s for _, rank in ranks if rank.step_s > 0]
    step_s = median(times) if times else 0.0
    since_s = max(0.0, snapshot.now - attempt.status.started_at) if attempt and is_on else 0.0
    run_s = status.run_s + since_s
    newest = status.checkpoints[-1] if status.checkpoints else None
    return Course(
        name=job.name, phase=status.phase, attempt=status.attempt,
        attempts=job.spec.resume.attempts, step=max(step, status.step), total=total,
        step_s=step_s, left_s=max(0, total - step) * step_s if total and step_s and is_on else None,
        saved_step=newest.step if newest else -1, saved=newest.name if newest else "",
        saved_bytes=newest.size_bytes if newest else 0,
        run_s=run_s, lost_s=status.lost_s,
        goodput=1 - status.lost_s / run_s if run_s > 0 else None,
        **_cadence(attempt, snapshot), reason=status.reason, cause=status.cause,
        ranks=tuple(
            RankCourse(
                rank=rank.rank, node=node, step=rank.step, phase=rank.phase,
                quiet_s=round(rank.quiet_s, 1), exit_code=rank.exit_code,
                metrics=dict(rank.metrics),
            )
            for node, rank in ranks
        ),
        history=tuple(_history(job, snapshot)),
    )  # fmt: skip


def _cadence(attempt: Attempt | None, snapshot: Snapshot) -> dict[str, Any]:
    """Return how often it is asked to save, and from what that follows."""
    places = attempt.status.places if attempt else ()
    pool = pool_of(places[0].node, snapshot) if places else None
    return {
        "save_every_s": attempt.spec.save_every_s if attempt else 0.0,
        "write_s": attempt.spec.write_s if attempt else 0.0,
        "pool": pool.name if pool else "", "pool_faults": pool.status.faults if pool else 0,
        "pool_run_s": pool.status.run_s if pool else 0.0,
    }  # fmt: skip


def _history(job: Job, snapshot: Snapshot) -> Iterator[PastAttempt]:
    newest = job.status.attempt
    for number in range(max(1, newest - HISTORY_MAX), newest + 1):
        attempt = snapshot.attempts.get(Ref(job.project, f"{job.name}-{number}"))
        if attempt and _has_failed(attempt):
            status = attempt.status
            yield PastAttempt(
                number=number, outcome=status.outcome, step=status.step, cause=status.cause,
                nodes=tuple(dict.fromkeys(place.node for place in status.places)),
                first_step=attempt.spec.first_step,
                run_s=max(0.0, (status.ended_at or snapshot.now) - status.started_at),
            )  # fmt: skip


def _has_failed(attempt: Attempt) -> bool:
    is_over = attempt.status.phase is AttemptPhase.ENDED
    return is_over and attempt.status.outcome is not Outcome.SUCCEEDED
