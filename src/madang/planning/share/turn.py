"""One turn of the queue: who runs from now on, who starts, who makes room, and why each.

Everything is asked anew, as if nothing ran, but what runs counts for more: for running at all, and
for the work it has not saved. First come those that may not be touched, and the first of all who
have waited far too long: so nobody waits for ever. Then what each project is guaranteed, then
others who have waited too long, then all by what a second given to them is worth. Who waited too
long and finds no room yet, since some may not be touched, has it kept free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from heapq import heapify, heappop, heappush

import numpy as np

from madang.planning.share.line import Floats, Ints, Line
from madang.planning.share.lives import ages, groups
from madang.planning.share.rule import RULE, Rule
from madang.planning.share.water import Claims


class Why(IntEnum):
    """Why a job is given room."""

    NONE = 0
    """It is not."""
    FIXED = 1
    """It runs, and may not be asked to leave."""
    AGED = 2
    """It has waited too long."""
    GUARANTEED = 3
    """Its project has less than it is to have."""
    WORTH = 4
    """A second given to it is worth more than one given to those that wait."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What there is to share, and what is promised of it."""

    capacity: int
    """Accelerators."""
    claims: Claims
    guarantees: Floats
    """What each project must get now, of `Ledger.guarantees`."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to happen; jobs by their index in the line."""

    order: Ints
    """All of them, by what a second given to them is worth."""
    why: Ints
    """[jobs] A `Why`: for what each is given room."""
    starts: list[int]
    preempts: dict[int, int]
    """Who makes room, and the first for whom."""


def keys(line: Line, worth: Floats, rule: Rule = RULE) -> Floats:
    """Return by what jobs are ordered: the worth of a second, by size and by what would be lost."""
    key = worth[groups(line.project, line.size), ages(line.ran_s)] / line.size**rule.size_power
    stay = rule.stay * (1.0 + rule.unsaved * line.unsaved)
    return np.where(line.runs, key * stay, key)


def ordered(line: Line, worth: Floats, rule: Rule = RULE) -> Ints:
    """Return who goes first in front: by priority, by worth, then who came first."""
    found: Ints = np.lexsort((-keys(line, worth, rule), -line.height))
    return found


def turn(line: Line, pool: Pool, worth: Floats, rule: Rule = RULE) -> Turn:
    """Decide, from what is known of the jobs and what each project must get."""
    order = ordered(line, worth, rule)
    share = _Sharing(line, pool)
    for job in np.flatnonzero(line.fixed).tolist():
        share.take(job, Why.FIXED)
    aged = np.flatnonzero(line.waited_s >= rule.aged_s).tolist()
    share.by_age(aged[:1], pool.capacity)
    share.guarantee(order.tolist())
    share.by_age(aged[1:], int(rule.aged_part * pool.capacity))
    for job in order.tolist():
        if share.free <= 0:
            break
        share.give(job, Why.WORTH)
    return _told(line, order, np.array(share.why, np.int64), pool)


class _Sharing:
    """Room that is given away, bit by bit."""

    def __init__(self, line: Line, pool: Pool) -> None:
        self.free = pool.capacity
        self.why = [0] * len(line)
        self._held = [0] * len(pool.guarantees)
        self._project: list[int] = line.project.tolist()
        self._size: list[int] = line.size.tolist()
        self._most: list[float] = pool.claims.most.tolist()
        self._weight: list[float] = pool.claims.weight.tolist()
        self._due: list[float] = pool.guarantees.tolist()

    def give(self, job: int, why: Why) -> bool:
        """Give a job what it needs, if there is so much."""
        if self.why[job]:
            return True
        if self._size[job] > self.free or self._is_over(job):
            return False
        self.take(job, why)
        return True

    def take(self, job: int, why: Why) -> None:
        """Give a job what it needs."""
        self.free -= self._size[job]
        self._held[self._project[job]] += self._size[job]
        self.why[job] = why

    def by_age(self, aged: Sequence[int], most: int) -> None:
        """Give so much to those who waited too long, or keep it for them; who came first in front.

        Not who waited longest: that would be another as soon as this one runs.
        """
        for job in aged:
            if most <= 0:
                return
            most -= self._size[job]
            if not self.give(job, Why.AGED) and not self._is_over(job):
                self.free = max(0, self.free - self._size[job])

    def _is_over(self, job: int) -> bool:
        project = self._project[job]
        return self._held[project] + self._size[job] > self._most[project]

    def guarantee(self, order: Sequence[int]) -> None:
        """Give each project what it must get, who has least by weight first, by whole gangs."""
        rows: dict[int, list[int]] = {p: [] for p, due in enumerate(self._due) if due >= 0.5}
        for job in order:
            if self._project[job] in rows and not self.why[job]:
                rows[self._project[job]].append(job)
        nexts = {project: self._fitting(row, project) for project, row in rows.items()}
        heap = [(self._held[p] / self._weight[p], p) for p in rows]
        heapify(heap)
        while heap and self.free > 0:
            _, project = heappop(heap)
            if next(nexts[project], None) is not None:
                heappush(heap, (self._held[project] / self._weight[project], project))

    def _fitting(self, row: Sequence[int], project: int) -> Iterator[int]:
        for job in row:
            left = self._due[project] - self._held[project]
            if left < 0.5:
                return
            if self._size[job] <= 2 * left and self.give(job, Why.GUARANTEED):
                yield job


def _told(line: Line, order: Ints, why: Ints, pool: Pool) -> Turn:
    """Say who starts, and who makes room for whom: those of least worth for the first.

    Who runs and was given nothing goes only where its room is needed, or its project would hold
    more than it may.
    """
    given, runs = why[order] > 0, line.runs[order]
    starts: list[int] = order[given & ~runs].tolist()
    starts.sort(key=lambda job: int(why[job]))
    leaves: list[int] = order[~given & runs][::-1].tolist()
    free = pool.capacity - int(line.size[line.runs].sum())
    held = line.demand(len(pool.guarantees), line.runs)
    preempts: dict[int, int] = {}
    for job in starts:
        project = line.project[job]
        free -= int(line.size[job])
        held[project] += line.size[job]
        while (over := bool(held[project] > pool.claims.most[project])) or free < 0:
            own = (v for v in leaves if line.project[v] == project)
            victim = next(own if over else iter(leaves), None)
            if victim is None:
                break
            leaves.remove(victim)
            preempts[victim] = job
            free += int(line.size[victim])
            held[line.project[victim]] -= line.size[victim]
    return Turn(order, why, starts, preempts)


def filled(order: Sequence[int], sizes: Sequence[int], free: int) -> list[int]:
    """Return who starts in what is free between two turns, where nobody makes room.

    >>> filled([2, 0, 1], [1, 1, 3], 2)
    [0, 1]
    """
    found = []
    for job in order:
        if free <= 0:
            break
        if sizes[job] <= free:
            free -= sizes[job]
            found.append(job)
    return found
