"""One turn of the queue: who runs from now on, who starts, who makes room, and why each.

Everything is asked anew, as if nothing ran, but what runs counts for more: for running at all, and
for the work it has not saved. First come those that may not be touched, and the first of all who
have waited far too long: so nobody waits for ever. Then what each project is guaranteed, then
others who have waited too long, more of them the longer they waited, but not where so many have
that none would be in time; then all by what a second given to them is worth. Who waited too long
and finds no room yet, since some may not be touched, has it kept free. Who makes room does so just
after a checkpoint, where one is near.
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
    aged = np.flatnonzero(line.waited_s >= rule.aged_s)
    late = pool.capacity * lateness(line.waited_s, rule) * hope(line, pool, rule)
    first = aged[line.waited_s[aged] >= rule.aged_full_s][:1]
    share.by_age(first, np.full(len(first), np.inf))
    share.guarantee(order.tolist())
    share.by_age(aged, rule.aged_first * late[aged])
    worthy = order[line.waited_s[order] >= rule.aged_s]
    share.by_age(worthy, rule.aged_worth * late[worthy])
    for job in order.tolist():
        if share.free <= 0:
            break
        share.give(job, Why.WORTH)
    return _told(line, order, np.array(share.why, np.int64), pool, rule)


def lateness(waited_s: Floats, rule: Rule = RULE) -> Floats:
    """Return how far each is from the wait at which age counts to that where it counts in full."""
    late = (waited_s - rule.aged_s) / (rule.aged_full_s - rule.aged_s)
    found: Floats = np.clip(late, 0.0, 1.0)
    return found


def hope(line: Line, pool: Pool, rule: Rule = RULE) -> float:
    """Return how far age can help: 1, and 0 where so many wait for so long that it can't.

    There all that age could do is to have the queue go by when they came, and nobody be in time.
    The first of them does not count, who goes by age in any case; who runs does as who waits, so
    that a turn does not change what the next one makes of it.
    """
    behind = np.flatnonzero(line.waited_s >= rule.aged_s)[1:]
    projects = len(pool.guarantees)
    share = pool.claims.entitled(line.demand(projects), pool.capacity)
    crowd = np.minimum(line.demand(projects, behind), rule.crowd_each * share).sum()
    left = rule.crowd_full - float(crowd) / max(pool.capacity, 1)
    return min(1.0, max(0.0, left / (rule.crowd_full - rule.crowd_from)))


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

    def by_age(self, aged: Ints, room: Floats) -> None:
        """Give to those who waited too long, each while all before it have less than its room.

        Not who waited longest first: that would be another as soon as this one runs.
        """
        used = 0
        for job, most in zip(aged.tolist(), room.tolist(), strict=True):
            if used >= most:
                continue
            used += self._size[job]
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


def _told(line: Line, order: Ints, why: Ints, pool: Pool, rule: Rule) -> Turn:
    """Say who starts, and who makes room for whom: those of least worth for the first.

    Who runs and was given nothing goes only where its room is needed, or its project would hold
    more than it may; and who would lose much of its work only when it has saved it.
    """
    given, runs = why[order] > 0, line.runs[order]
    wished: list[int] = order[given & ~runs].tolist()
    wished.sort(key=lambda job: int(why[job]))
    leaving = Leaving(line, order[~given & runs][::-1], pool, rule)
    starts, preempts = [], {}
    for job in wished:
        victims = leaving.for_one(job)
        if why[job] == Why.AGED or leaving.is_time(victims):
            leaving.go(job, victims)
            starts.append(job)
            preempts.update(dict.fromkeys(victims, job))
    return Turn(order, why, starts, preempts)


class Leaving:
    """Those that run and were given nothing: of least worth first, but who saved of late before."""

    def __init__(self, line: Line, leaves: Ints, pool: Pool, rule: Rule) -> None:
        self._line, self._most = line, pool.claims.most
        self._free = pool.capacity - int(line.size[line.runs].sum())
        self._held = line.demand(len(pool.guarantees), line.runs)
        self._late = line.loses_s > rule.every_s
        self._late &= line.saves_s < rule.patience_s
        self.leaves: list[int] = [*leaves[~self._late[leaves]], *leaves[self._late[leaves]]]

    @property
    def late(self) -> list[int]:
        """Return who of them would lose much now, and saves soon."""
        return [job for job in self.leaves if self._late[job]]

    def for_one(self, job: int) -> list[int]:
        """Return who makes room for this one."""
        line, project = self._line, self._line.project[job]
        free = self._free - line.size[job]
        over = self._held[project] + line.size[job] - self._most[project]
        found: list[int] = []
        if over > 0:
            for victim in (v for v in self.leaves if line.project[v] == project):
                found.append(victim)
                free += line.size[victim]
                over -= line.size[victim]
                if over <= 0:
                    break
        for victim in self.leaves:
            if free >= 0:
                break
            if victim not in found:
                found.append(victim)
                free += line.size[victim]
        return found

    def is_time(self, victims: Sequence[int]) -> bool:
        """Return whether they lose little: one no more than a turn's work, of more half at most."""
        if len(victims) == 1:
            return not self._late[victims[0]]
        size = self._line.size[victims]
        late = self._late[victims]
        return bool((self._line.unsaved[victims] * late * size).sum() <= size.sum() / 2)

    def go(self, job: int, victims: Sequence[int]) -> None:
        """Have them make room."""
        line = self._line
        self._free += int(line.size[victims].sum()) - int(line.size[job])
        self._held[line.project[job]] += line.size[job]
        for victim in victims:
            self.leaves.remove(victim)
            self._held[line.project[victim]] -= line.size[victim]


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
