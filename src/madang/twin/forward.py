"""When what waits would start: the queue played forward from now, over and over.

Nobody knows how long jobs will run. So each trial draws how long, from what is learnt of jobs like
it that reached the same age, and plays the queue by the code that decides, on counted
accelerators. What is told is the middle of the trials, and by when nine of ten had it start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from madang.planning.explain import Expected
from madang.planning.queue.lanes import Lane
from madang.planning.queue.order import Order
from madang.planning.share.ledger import Ledger
from madang.planning.share.line import Floats, Ints, Line
from madang.planning.share.lives import EDGES_S, WIDTHS_S, Lives, ages, groups
from madang.planning.share.rule import HOUR_S, RULE, Rule
from madang.planning.share.water import Claims
from madang.planning.snapshot import Snapshot
from madang.resources.job import Job
from madang.resources.replica import Replica
from madang.twin.disciplines import Madang
from madang.twin.queue import Queue, Yard, events

TRIALS = 9
LEARNT_LEAST = 5
"""Where fewer jobs have ended than that nobody knows how long they run."""
TURN_S = 1800.0
"""In a trial jobs are asked to make room so often: it is an estimate, and there may be many."""
HORIZON_S = 30 * 24 * HOUR_S
LOOKS_MAX = 2_500_000
"""Jobs times events that one estimate looks at, over all its trials."""
MANY = 400
"""With more jobs than that what is free is filled at those turns only."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where the trials begin: who waits and who runs on like accelerators, and what is known."""

    line: Line
    capacity: int
    claims: Claims
    ledger: Ledger
    lives: Lives
    rule: Rule = RULE
    endless: frozenset[int] = frozenset()
    """Who runs until somebody ends it, by its place in the line: services."""

    @property
    def learnt(self) -> int:
        """Of how many jobs is known how long they ran."""
        return int(self.lives.ended.sum())


def start_of(lane: Lane) -> Start:
    """Return where a lane stands; all that is counted in its units."""
    scale, claims, ledger = float(lane.units), lane.claims, lane.ledger
    return Start(
        lane.line, lane.capacity * lane.units,
        Claims(claims.weight, claims.guaranteed * scale, claims.most * scale),
        Ledger(ledger.short * scale, ledger.entitled * scale, ledger.each),
        lane.lives, lane.rule,
        frozenset(at for at, m in enumerate(lane.present) if isinstance(m.owner, Replica)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds from now until a job starts, over all trials; infinite where it was not seen."""

    likely_s: float
    late_s: float
    """In nine of ten trials it had started by then."""
    looked_s: float
    """Every trial has looked so far ahead, or until it started."""


def expected(job: Job, snapshot: Snapshot, order: Order) -> Expected | None:
    """Say when a job would start; None: it is in no line."""
    place = order.place(job)
    if place is None:
        return None
    at = next(at for at, each in enumerate(place.lane.present) if each.owner.uid == job.uid)
    start = start_of(place.lane)
    if start.learnt < LEARNT_LEAST:
        return Expected(learnt=start.learnt)
    found = forecast(start, at)
    seen = (found.likely_s, found.late_s, found.looked_s)
    likely, late, looked = (snapshot.now + s if math.isfinite(s) else None for s in seen)
    return Expected(likely_at=likely, late_at=late, looked_until=looked, learnt=start.learnt)


class Trial(Madang):
    """Our queue, asked seldom; and where many wait, only then."""

    def __init__(self, start: Start) -> None:
        rule = replace(start.rule, every_s=TURN_S)
        super().__init__(len(start.claims.weight), rule, start.ledger, start.lives)
        self._is_coarse = len(start.line) > MANY
        self.looks = 0

    def ask(self, queue: Queue) -> tuple[Sequence[int], Sequence[int]]:
        """Take a turn."""
        self.looks += len(queue.sizes)
        return super().ask(queue)

    def fill(self, queue: Queue) -> Sequence[int]:
        """Start who fits, unless they are many."""
        self.looks += 0 if self._is_coarse else len(queue.sizes)
        return () if self._is_coarse else super().fill(queue)


def forecast(start: Start, job: int, trials: int = TRIALS) -> Forecast:
    """Estimate when one of those who wait starts."""
    return _forecasts(start, np.array([job]), trials)[0]


def forecasts(start: Start, trials: int = TRIALS) -> list[Forecast]:
    """Estimate for all at once, in the order of the line; nought for who runs."""
    return _forecasts(start, np.arange(len(start.line)), trials)


def _forecasts(start: Start, jobs: Ints, trials: int) -> list[Forecast]:
    played = [_starts(start, seed, jobs, LOOKS_MAX // trials) for seed in range(trials)]
    found = np.sort(np.array([first_s for first_s, _ in played]), axis=0)
    looked_s = min(looked_s for _, looked_s in played)
    late = math.ceil(0.9 * trials) - 1
    return [Forecast(float(each[trials // 2]), float(each[late]), looked_s) for each in found.T]


def _starts(start: Start, seed: int, jobs: Ints, looks: int) -> tuple[Floats, float]:
    """Play one trial until these have started; return when each did, and how far it looked."""
    queue, ours = _queue(start, drawn_s(start, seed)), Trial(start)
    first_s = np.where(queue.runs[jobs], 0.0, np.inf)
    for _ in events(queue, ours):
        first_s = np.where(queue.runs[jobs], np.minimum(first_s, queue.now), first_s)
        if np.isfinite(first_s).all():
            return first_s, math.inf
        if ours.looks > looks or queue.now > HORIZON_S:
            break
    return first_s, queue.now


def _queue(start: Start, runs_s: Floats) -> Queue:
    """Return who waits and who runs, as the twin has it, at nought seconds."""
    line, projects = start.line, len(start.claims.weight)
    held = int(line.size[line.runs].sum())
    queue = Queue.at_once(line, runs_s, Yard(max(start.capacity, held)), projects)
    queue.claims, queue.pinned = start.claims, start.endless
    return queue


def drawn_s(start: Start, seed: int) -> Floats:
    """Draw for each how long it runs in all, given that it has run so long already."""
    line = start.line
    hazard = start.lives.hazard(line)
    row, age = groups(line.project, line.size), ages(line.ran_s)
    survive = np.cumsum(np.log1p(-hazard), axis=1)
    before = np.where(age > 0, survive[row, np.maximum(age - 1, 0)], 0.0)
    random = np.random.default_rng(seed)
    draw, within = random.random(len(line)), random.random(len(line))
    goal = before + np.log1p(-draw)
    ends = np.array([
        int(np.searchsorted(-survive[group], -level))
        for group, level in zip(row.tolist(), goal.tolist(), strict=True)
    ], np.int64)  # fmt: skip
    ends = np.minimum(np.maximum(ends, age), len(EDGES_S) - 1)
    from_s = np.maximum(EDGES_S[ends], line.ran_s)
    left_s = np.maximum(EDGES_S[ends] + WIDTHS_S[ends] - from_s, 1.0)
    found: Floats = from_s + np.maximum(within * left_s, 1.0)
    found[list(start.endless)] = np.inf
    return found
