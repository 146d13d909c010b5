"""The ways to queue that a replay compares; `madang` is the very code that plans.

The others are our writing of known rules: first come, first served (`fifo`), with those behind
filling what the first can't use (`easy`, Lifka 1995, told every duration); least attained service
in three levels (`las`, after Tiresias, NSDI 2019); weighted fair shares by decayed usage, least
attained service within (`wfs`); and shortest remaining time first (`srtf`), told every duration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import numpy as np

from madang.errors import Rejected
from madang.planning.share.ledger import Ledger
from madang.planning.share.line import Floats, Ints, Line
from madang.planning.share.lives import Lives
from madang.planning.share.rule import RULE, Rule
from madang.planning.share.turn import Pool, filled, turn
from madang.planning.share.water import poured
from madang.twin.queue import Discipline, Queue


class Madang:
    """Ours."""

    def __init__(
        self, projects: int, rule: Rule = RULE, ledger: Ledger | None = None,
        lives: Lives | None = None,
    ) -> None:  # fmt: skip
        self.every_s, self._rule = rule.every_s, rule
        self._ledger, self._lives = ledger or Ledger.blank(projects), lives or Lives.blank(projects)
        self._learnt_s = -inf
        self._worth: Floats = np.zeros(0)
        self._order: list[int] = []

    def pass_time(self, queue: Queue, seconds: float) -> None:
        """Book what each project went short of."""
        self._ledger = self._ledger.after(seconds, queue.shares(), self._rule)

    def end(self, queue: Queue, job: int) -> None:
        """Learn of how long it ran."""
        ran_s = float(queue.runs_s[job])
        self._lives = self._lives.after(int(queue.project[job]), queue.sizes[job], ran_s)

    def ask(self, queue: Queue) -> tuple[Sequence[int], Sequence[int]]:
        """Take a turn."""
        who = queue.living()
        line = line_of(queue, who, self._rule)
        if queue.now - self._learnt_s >= self._rule.relearn_s:
            self._worth, self._learnt_s = self._lives.worth(line), queue.now
        due = self._ledger.guarantees(queue.entitled, self._rule)
        pool = Pool(queue.yard.capacity, queue.claims, due)
        made = turn(line, pool, self._worth, self._rule)
        self._order = who[made.order].tolist()
        return who[list(made.preempts)].tolist(), who[made.starts].tolist()

    def fill(self, queue: Queue) -> Sequence[int]:
        """Start who just came, then who was next."""
        return next_in(queue, self._order)


def line_of(queue: Queue, who: Ints, rule: Rule = RULE) -> Line:
    """Return what planning sees of these jobs."""
    runs = queue.runs[who]
    kept = [*queue.often_stopped(rule.preempted_max), *queue.to_save_first(), *queue.pinned]
    fixed = runs & np.isin(who, kept)
    return Line(
        queue.project[who], queue.size[who], queue.work_s(who), queue.waited_s(who),
        np.where(runs, queue.unsaved(who), 0.0), runs, fixed, queue.height[who],
        np.full(len(who), queue.yard.checkpoint_s),
    )  # fmt: skip


def next_in(queue: Queue, order: Sequence[int]) -> list[int]:
    """Return who starts between two turns: who came since, then who was next."""
    last = np.array([*queue.fresh, *order], np.int64)
    waits = last[queue.lives[last] & ~queue.runs[last]]
    return filled(waits.tolist(), queue.sizes, queue.free)


class Sorted:
    """All jobs by one figure, the least first; those that fit run, the others are stopped.

    Who was stopped before it saved anything stays until it has: else work would be lost for ever.
    """

    every_s = RULE.every_s

    def __init__(self) -> None:
        self._order: list[int] = []

    def pass_time(self, queue: Queue, seconds: float) -> None:
        """Keep no account."""

    def end(self, queue: Queue, job: int) -> None:
        """Learn nothing."""

    def figure(self, queue: Queue, who: Ints) -> Floats:
        """Return what jobs are sorted by."""
        raise NotImplementedError

    def chosen(self, queue: Queue, order: Sequence[int]) -> list[int]:
        """Return who is to run."""
        return filled(order, queue.sizes, queue.yard.capacity)

    def ask(self, queue: Queue) -> tuple[Sequence[int], Sequence[int]]:
        """Sort anew."""
        who = queue.living()
        self._order = who[np.argsort(self.figure(queue, who), kind="stable")].tolist()
        sure = [job for job in queue.to_save_first() if queue.runs[job]]
        first = set(sure)
        rest = [job for job in self._order if job not in first]
        chosen = set(self.chosen(queue, [*sure, *rest]))
        stops = [job for job in self._order if queue.runs[job] and job not in chosen]
        return stops, [job for job in self._order if job in chosen and not queue.runs[job]]

    def fill(self, queue: Queue) -> Sequence[int]:
        """Start who just came, then who was next."""
        return next_in(queue, self._order)


class Shortest(Sorted):
    """`srtf`: told how long each will run yet."""

    def figure(self, queue: Queue, who: Ints) -> Floats:
        """Return the accelerator-seconds that each has left."""
        return (queue.runs_s[who] - queue.work_s(who)) * queue.size[who]


LEVELS = np.array([3600.0, 36_000.0])
"""Accelerator-seconds at which a job falls to the next level."""


class Least(Sorted):
    """`las`: who had least so far goes first, in levels; within one, who runs, then who came."""

    def figure(self, queue: Queue, who: Ints) -> Floats:
        """Return the level of each."""
        had = queue.had_s(who) * queue.size[who]
        level = np.searchsorted(LEVELS, had, side="right").astype(np.float64)
        return level + np.where(queue.runs[who], 0.0, 0.5)


class Weighted(Least):
    """`wfs`: each project its share at every instant, less for who used more of late."""

    HALF_LIFE_S = 2 * 86_400.0
    PULL, LEAST = 0.5, 0.1

    def __init__(self, projects: int) -> None:
        super().__init__()
        self._used: Floats = np.zeros(projects)

    def pass_time(self, queue: Queue, seconds: float) -> None:
        """Book what each project used, as a part of the pool."""
        kept = 0.5 ** (seconds / self.HALF_LIFE_S)
        self._used = self._used * kept + queue.held / queue.yard.capacity * (1.0 - kept)

    def chosen(self, queue: Queue, order: Sequence[int]) -> list[int]:
        """Return within each share who is first, then who is first of all."""
        weight = np.full(len(self._used), 1.0 / len(self._used))
        width = np.maximum(self.LEAST * weight, weight + self.PULL * (weight - self._used))
        share = poured(queue.demand, width, queue.yard.capacity)
        free, chosen = queue.yard.capacity, []
        sure = set(queue.to_save_first())
        for job in order:
            size, project = queue.sizes[job], queue.project[job]
            if size <= free and (size / 2 <= share[project] or (queue.runs[job] and job in sure)):
                share[project] -= size
                free -= size
                chosen.append(job)
        first = set(chosen)
        rest = [job for job in order if job not in first]
        return chosen + filled(rest, queue.sizes, free)


class First:
    """`fifo`: nobody is stopped, nobody overtakes."""

    every_s = 0.0

    def pass_time(self, queue: Queue, seconds: float) -> None:
        """Keep no account."""

    def end(self, queue: Queue, job: int) -> None:
        """Learn nothing."""

    def ask(self, queue: Queue) -> tuple[Sequence[int], Sequence[int]]:
        """Start as many of the first as fit."""
        return [], self.fill(queue)

    def fill(self, queue: Queue) -> Sequence[int]:
        """Start as many of the first as fit."""
        free, starts = queue.free, []
        for job in queue.waits().tolist():
            if queue.sizes[job] > free:
                break
            free -= queue.sizes[job]
            starts.append(job)
        return starts


class Easy(First):
    """`easy`: who does not delay the first may go before it; told every duration."""

    def fill(self, queue: Queue) -> Sequence[int]:
        """Start the first, then who ends before the next could start, or leaves it room."""
        starts = list(super().fill(queue))
        free = queue.free - sum(queue.sizes[job] for job in starts)
        waits = queue.waits()[len(starts) :].tolist()
        if not waits or not free:
            return starts
        runs = np.concatenate([queue.running(), np.array(starts, np.int64)])
        left = queue.runs_s[runs] - queue.work_s(runs)
        at_s, spare = _shadow(left, queue.size[runs], queue.sizes[waits[0]] - free)
        for job in waits[1:]:
            size, is_short = queue.sizes[job], queue.runs_s[job] <= at_s
            if size <= free and (is_short or size <= spare):
                free -= size
                spare -= 0 if is_short else size
                starts.append(job)
            if not free:
                break
        return starts


def _shadow(left_s: Floats, sizes: Ints, lacking: int) -> tuple[float, int]:
    """Return in how many seconds so many are free, and how many more are then."""
    order = np.argsort(left_s, kind="stable")
    freed = np.cumsum(sizes[order])
    at = int(np.searchsorted(freed, lacking))
    return float(left_s[order][at]), int(freed[at]) - lacking


NAMES = ("madang", "fifo", "easy", "las", "wfs", "srtf")


def discipline(name: str, projects: int, rule: Rule = RULE) -> Discipline:
    """Return one by its name, with nothing learnt yet."""
    if name == "madang":
        return Madang(projects, rule)
    if name == "wfs":
        return Weighted(projects)
    known: dict[str, Callable[[], Discipline]] = {"fifo": First, "easy": Easy, "las": Least,
                                                  "srtf": Shortest}  # fmt: skip
    if name not in known:
        raise Rejected("twin.no-such-policy", subject=name, known=", ".join(NAMES))
    return known[name]()
