"""Jobs that come to a pool of like accelerators, on a virtual clock, by one way to queue.

From event to event: a job comes, a job ends, it is time to ask who runs. Accelerators are counted,
not placed. Who is stopped goes on from its last checkpoint, and first takes a while to be back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Protocol

import numpy as np

from madang.errors import Rejected
from madang.planning.share.ledger import Shares
from madang.planning.share.line import Floats, Ints, Line
from madang.planning.share.rule import HOUR_S
from madang.planning.share.water import Claims
from madang.twin.jobs import Asked


@dataclass(frozen=True, slots=True)
class Yard:
    """What jobs come to."""

    capacity: int
    """Accelerators."""
    checkpoint_s: float = 1800.0
    """Seconds of running between two checkpoints; 0: all is saved at every moment."""
    restart_s: float = 60.0
    """Seconds until a job that was stopped is back at work."""


class Queue:
    """A pool, what runs on it and what waits for it, at one instant."""

    def __init__(self, jobs: Sequence[Asked], yard: Yard, projects: Sequence[str] = ()) -> None:
        self.yard, self.now, self.free = yard, 0.0, yard.capacity
        names = list(projects) or sorted({job.project for job in jobs})
        index = {name: i for i, name in enumerate(names)}
        self.projects, count = names, len(jobs)
        self.claims = Claims.even(len(names))
        self.project: Ints = np.array([index[job.project] for job in jobs], np.int64)
        self.size: Ints = np.array([job.size for job in jobs], np.int64)
        self.came_s: Floats = np.array([job.came_s for job in jobs])
        self.runs_s: Floats = np.array([job.runs_s for job in jobs])
        self.height: Ints = np.ones(count, np.int64)
        self.pinned: frozenset[int] = frozenset()
        """Who is never asked to make room."""
        self.saved_s: Floats = np.zeros(count)
        """Work it starts from."""
        self.since_s: Floats = np.zeros(count)
        """When it came to work."""
        self.began_s: Floats = np.zeros(count)
        """When it got what it holds."""
        self.held_s: Floats = np.zeros(count)
        """How long it held something before."""
        self.runs = np.zeros(count, bool)
        self.lives = np.zeros(count, bool)
        self.ended_s: Floats = np.full(count, inf)
        self.sizes: list[int] = self.size.tolist()
        self.fresh: list[int] = []
        """Who came since it was last asked who runs."""
        self.waiting = 0
        self.demand: Floats = np.zeros(len(names))
        self.held: Floats = np.zeros(len(names))
        self.entitled: Floats = np.zeros(len(names))
        self.tally = Tally(np.zeros(len(names)), np.zeros(len(names)))
        self._from = self._to = 0
        """Who lives is of these: all before have ended, those behind have not come."""
        self._due: list[tuple[float, int, int]] = []
        self._turns = [0] * count
        self._stopped: dict[int, deque[float]] = {}
        self._fruitless: set[int] = set()
        """Who was stopped last before it had saved anything new."""

    @classmethod
    def at_once(cls, line: Line, runs_s: Floats, yard: Yard, projects: int) -> Queue:
        """Return one in which all of a line are there, and what runs has begun long ago."""
        names = [f"{number:09}" for number in range(projects)]
        came_s = (-line.waited_s - line.ran_s).tolist()
        sizes, project = line.size.tolist(), line.project.tolist()
        jobs = [
            Asked(came, runs, size, names[own], "")
            for came, runs, size, own in zip(came_s, runs_s.tolist(), sizes, project, strict=True)
        ]
        queue = cls(jobs, yard, names)
        queue.height, queue.saved_s = line.height, line.ran_s.copy()
        queue.held_s = line.ran_s.copy()
        for job, runs in enumerate(line.runs.tolist()):
            queue.come(job)
            if runs:
                queue.start(job)
        return queue

    def living(self) -> Ints:
        """Return who came and has not ended, who came first in front."""
        return np.flatnonzero(self.lives[self._from : self._to]) + self._from

    def waits(self) -> Ints:
        """Return who of them waits."""
        who = self.living()
        return who[~self.runs[who]]

    def running(self) -> Ints:
        """Return who of them runs."""
        who = self.living()
        return who[self.runs[who]]

    def work_s(self, who: Ints) -> Floats:
        """Return the work that each has done and not lost."""
        return self.saved_s[who] + np.where(
            self.runs[who], np.maximum(0.0, self.now - self.since_s[who]), 0.0
        )

    def unsaved(self, who: Ints) -> Floats:
        """Return the work of each that a stop would lose, as a part of a checkpoint's interval."""
        every_s = self.yard.checkpoint_s
        return (self.work_s(who) % every_s) / every_s if every_s else np.zeros(len(who))

    def waited_s(self, who: Ints) -> Floats:
        """Return how long each has waited in all."""
        return self.now - self.came_s[who] - self.had_s(who)

    def had_s(self, who: Ints) -> Floats:
        """Return how long each held what it asked for, in all: also for work that was lost."""
        return self.held_s[who] + np.where(self.runs[who], self.now - self.began_s[who], 0.0)

    def often_stopped(self, most: int) -> list[int]:
        """Return who was stopped so often within the last hour."""
        return [job for job, at in self._stopped.items()
                if len(at) >= most and at[-most] > self.now - HOUR_S]  # fmt: skip

    def to_save_first(self) -> list[int]:
        """Return who was stopped before it saved anything, and has saved nothing since."""
        every_s = self.yard.checkpoint_s
        return [job for job in sorted(self._fruitless) if self.now - self.since_s[job] < every_s]

    def come(self, job: int) -> None:
        """Have it wait."""
        self.lives[job] = True
        self._to = job + 1
        self.waiting += 1
        self.fresh.append(job)
        self.demand[self.project[job]] += self.sizes[job]

    def start(self, job: int) -> None:
        """Give it what it needs."""
        delay_s = self.yard.restart_s if self._turns[job] else 0.0
        self.free -= self.sizes[job]
        assert self.free >= 0
        self.runs[job] = True
        self.waiting -= 1
        self.held[self.project[job]] += self.sizes[job]
        self.began_s[job], self.since_s[job] = self.now, self.now + delay_s
        self._turns[job] += 1
        left_s = self.runs_s[job] - self.saved_s[job]
        heappush(self._due, (self.now + delay_s + float(left_s), job, self._turns[job]))

    def stop(self, job: int) -> None:
        """Have it make room: it waits again, with what it had saved."""
        who = np.array([job])
        work_s, lost = float(self.work_s(who)[0]), float(self.unsaved(who)[0])
        lost_s = lost * self.yard.checkpoint_s
        self._release(job)
        is_new = work_s - lost_s > self.saved_s[job]
        (self._fruitless.discard if is_new else self._fruitless.add)(job)
        self.saved_s[job] = work_s - lost_s
        self._turns[job] += 1
        self.waiting += 1
        self._stopped.setdefault(job, deque(maxlen=8)).append(self.now)
        self.tally.stops += 1
        self.tally.redone += lost_s * self.sizes[job]

    def _release(self, job: int) -> None:
        self.free += self.sizes[job]
        self.runs[job] = False
        self.held[self.project[job]] -= self.sizes[job]
        self.held_s[job] += self.now - self.began_s[job]

    def next_end_s(self) -> float:
        """Return when the next job ends."""
        while self._due and self._due[0][2] != self._turns[self._due[0][1]]:
            heappop(self._due)
        return self._due[0][0] if self._due else inf

    def end(self) -> int:
        """End the next that is due; return which."""
        job = heappop(self._due)[1]
        self._release(job)
        self.lives[job] = False
        while self._from < self._to and not self.lives[self._from]:
            self._from += 1
        self.ended_s[job] = self.now
        self.demand[self.project[job]] -= self.sizes[job]
        self._stopped.pop(job, None)
        self._fruitless.discard(job)
        return job

    def shares(self) -> Shares:
        """Return what projects can use, may have and do have now."""
        return Shares(self.demand, self.entitled, self.held)

    def measure(self) -> None:
        """Note what each project is entitled to from now on."""
        self.entitled = self.claims.entitled(self.demand, self.yard.capacity)


@dataclass(slots=True)
class Tally:
    """What is added up on the way, in accelerator-seconds."""

    short: Floats
    """By project."""
    entitled: Floats
    used: float = 0.0
    """Held while jobs still came."""
    redone: float = 0.0
    stops: int = 0
    left_out: int = field(default=0)
    """Jobs that ask for nothing, or for more than there is."""


class Discipline(Protocol):
    """A way to queue."""

    every_s: float
    """Between two times that it is asked who runs; 0: whenever something changes."""

    def pass_time(self, queue: Queue, seconds: float) -> None:
        """Note that all stayed so for a while."""
        ...

    def end(self, queue: Queue, job: int) -> None:
        """Note that a job ended."""
        ...

    def ask(self, queue: Queue) -> tuple[Sequence[int], Sequence[int]]:
        """Return who is stopped, and who then starts."""
        ...

    def fill(self, queue: Queue) -> Sequence[int]:
        """Return who starts in between in what is free."""
        ...


Tell = Callable[[int, int], None]
"""Of jobs that ended so far, and in all."""
TELL_EVERY = 500


def play(jobs: Sequence[Asked], yard: Yard, discipline: Discipline, tell: Tell) -> Queue:
    """Play a list of jobs, who came first in front, until the last has ended."""
    fitting = [job for job in jobs if 0 < job.size <= yard.capacity]
    if not fitting:
        raise Rejected("twin.no-jobs", count=len(jobs), accelerators=yard.capacity)
    queue = Queue(fitting, yard)
    queue.tally.left_out = len(jobs) - len(fitting)
    go_on(queue, discipline, tell)
    return queue


def go_on(queue: Queue, discipline: Discipline, tell: Tell) -> None:
    """Play a queue to which nobody has come yet until its last job has ended."""
    total, told = len(queue.sizes), 0
    for ended in events(queue, discipline):
        if ended // TELL_EVERY > told:
            told = ended // TELL_EVERY
            tell(ended, total)


def events(queue: Queue, discipline: Discipline) -> Iterator[int]:
    """Go from event to event, and give after each how many jobs have ended; until all have."""
    came = deque((job, at) for job, at in enumerate(queue.came_s.tolist()) if not queue.lives[job])
    last_s, every_s = came[-1][1] if came else 0.0, discipline.every_s
    ended, next_s = 0, inf if came else 0.0
    while ended < len(queue.sizes):
        now = min(came[0][1] if came else inf, queue.next_end_s(), next_s)
        _pass(queue, discipline, now, last_s)
        while queue.next_end_s() <= now:
            discipline.end(queue, queue.end())
            ended += 1
        while came and came[0][1] <= now:
            queue.come(came.popleft()[0])
        queue.measure()
        if queue.waiting:
            _turn(queue, discipline, is_due=now >= next_s or not every_s)
        next_s = (now // every_s + 1) * every_s if every_s and queue.waiting else inf
        yield ended


def _pass(queue: Queue, discipline: Discipline, now: float, last_s: float) -> None:
    seconds = now - queue.now
    if seconds <= 0:
        return
    tally = queue.tally
    tally.short += np.maximum(0.0, queue.entitled - queue.held) * seconds
    tally.entitled += queue.entitled * seconds
    inside_s = max(0.0, min(now, last_s) - queue.now)
    tally.used += (queue.yard.capacity - queue.free) * inside_s
    discipline.pass_time(queue, seconds)
    queue.now = now


def _turn(queue: Queue, discipline: Discipline, *, is_due: bool) -> None:
    if is_due:
        stops, starts = discipline.ask(queue)
        for job in stops:
            queue.stop(job)
        queue.fresh.clear()
    elif queue.free:
        starts = discipline.fill(queue)
    else:
        return
    for job in starts:
        queue.start(job)
