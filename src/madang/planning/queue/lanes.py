"""Who waits for which accelerators and who has them, as the lines that `share` decides about.

One lane for each kind of accelerator. Jobs that could start if there were room, jobs that run, and
replicas of services, which nobody asks to make room, but which count for their project. This is
all that the queue is told; what becomes of it is in `order`, `queues` and `turns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from madang.planning.share.ledger import Ledger, Shares
from madang.planning.share.line import Floats, Line
from madang.planning.share.lives import AGES, CLASSES, Lives
from madang.planning.share.rule import RULE
from madang.planning.share.turn import Pool, Turn, turn
from madang.planning.share.water import Claims
from madang.resources.attempt import Attempt
from madang.resources.job import Job
from madang.resources.queue import Queue, Standing
from madang.resources.replica import Replica

MILLI = 1000


@dataclass(slots=True)
class Member:
    """One that waits in a lane, or has something of it."""

    owner: Job | Replica
    project: str
    milli: int
    """Thousandths of accelerators."""
    came: float
    """Unix seconds since when it has been in line;"""
    mark: tuple[float, float, str, str]
    """and who of all came first in front."""
    had_s: float = 0.0
    """Of that it had something for so long."""
    room_mark: str = ""
    """By what is known that others make room for it."""
    attempt: Attempt | None = None
    """Of a job that runs."""
    runs: bool = False
    leaves: bool = False
    """It will soon have nothing: planning counts it no more, but its project has that yet."""
    fixed: bool = False
    ran_s: float = 0.0
    unsaved: float = 0.0
    height: int = 1

    @classmethod
    def of(cls, owner: Job | Replica, milli: int, came: float, **more: Any) -> Member:
        """Return one, of its owner's project."""
        mark = came, owner.created_at, owner.project, owner.name
        return cls(owner, owner.project, milli, came, mark, **more)


@dataclass(frozen=True)
class Terms:
    """What projects may ask for in one lane, in accelerators; who isn't named: no more than all."""

    weight: Mapping[str, float]
    guaranteed: Mapping[str, float]
    most: Mapping[str, float]

    def claims(self, projects: Sequence[str]) -> Claims:
        """Return it as arrays."""
        return Claims(
            np.array([self.weight.get(name, 1.0) for name in projects], np.float64),
            np.array([self.guaranteed.get(name, 0.0) for name in projects], np.float64),
            np.array([self.most.get(name, np.inf) for name in projects], np.float64),
        )


@dataclass(frozen=True)
class Lane:
    """One kind of accelerators, and all that waits for it or has some."""

    kind: str
    capacity: int
    """Accelerators in sight that are well."""
    units: int
    """In how many parts each is counted."""
    now: float
    members: tuple[Member, ...]
    """Who came first in front."""
    terms: Terms
    queue: Queue | None
    """What is stored of it; None: nothing yet."""
    passed_s: float
    """How long all has been as stored."""

    @cached_property
    def projects(self) -> tuple[str, ...]:
        """All of which something is known, in the order of the arrays."""
        return tuple(sorted({m.project for m in self.members} | self.stored.keys()))

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Where each is in them."""
        return {name: at for at, name in enumerate(self.projects)}

    @property
    def stored(self) -> Mapping[str, Standing]:
        """Where projects stood at last, by name."""
        return self.queue.status.projects if self.queue else {}

    @cached_property
    def present(self) -> tuple[Member, ...]:
        """Who is in the line: the rest is leaving."""
        return tuple(member for member in self.members if not member.leaves)

    def has(self, owner: Job | Replica) -> bool:
        """Tell whether somebody waits here, or has something."""
        return any(member.owner.uid == owner.uid for member in self.members)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not member.runs for member in self.members)

    @cached_property
    def line(self) -> Line:
        """Return them as `share` sees them, in the units of this lane."""
        index, part, who = self.index, MILLI // self.units, self.present
        return Line(
            np.array([index[m.project] for m in who], np.int64),
            np.array([-(-m.milli // part) for m in who], np.int64),
            np.array([m.ran_s for m in who], np.float64),
            np.maximum(0.0, np.array([self.now - m.came - m.had_s for m in who], np.float64)),
            np.array([m.unsaved for m in who], np.float64),
            np.array([m.runs for m in who], np.bool_),
            np.array([m.fixed for m in who], np.bool_),
            np.array([m.height for m in who], np.int64),
        )

    @cached_property
    def claims(self) -> Claims:
        """Return what each may ask for, in accelerators."""
        return self.terms.claims(self.projects)

    @cached_property
    def shares(self) -> Shares:
        """Return what each could use, is entitled to and has now, in accelerators."""
        demand, held = self._sum(self.members), self._sum(m for m in self.members if m.runs)
        return Shares(demand, self.claims.entitled(demand, self.capacity), held)

    def _sum(self, members: Iterable[Member]) -> Floats:
        found: dict[str, int] = {}
        for member in members:
            found[member.project] = found.get(member.project, 0) + member.milli
        return np.array([found.get(name, 0) for name in self.projects], np.int64) / MILLI

    @cached_property
    def ledger(self) -> Ledger:
        """Return what each went short of, up to now."""
        return ledger_of(self.stored, self.projects, self.passed_s)

    @cached_property
    def lives(self) -> Lives:
        """Return what is learnt of how long jobs run."""
        ended = np.zeros((len(self.projects) * CLASSES, AGES), np.int64)
        for name, standing in self.stored.items():
            for size, by_age in standing.ended.items():
                for age, count in by_age.items():
                    ended[self.index[name] * CLASSES + size, age] = count
        return Lives(ended)

    @cached_property
    def worth(self) -> Floats:
        """Return what a second given is worth by group and age: services teach nothing of that."""
        line = self.line
        jobs = np.array([isinstance(m.owner, Job) for m in self.present], np.bool_)
        alive = replace(
            line, project=line.project[jobs], size=line.size[jobs], ran_s=line.ran_s[jobs]
        )
        return self.lives.worth(alive)

    @cached_property
    def due(self) -> Floats:
        """Return what each must get now: what is promised to it, and what it went too short of."""
        now = self.shares
        sure = self.claims.sure(now.demand, self.capacity)
        return np.maximum(sure, self.ledger.guarantees(now.entitled))

    @cached_property
    def eldest(self) -> int | None:
        """Return who of those that wait came first and has waited too long; what is free is its."""
        line = self.line
        found = np.flatnonzero(~line.runs & (line.waited_s >= RULE.aged_s))
        return int(found[0]) if len(found) else None

    @cached_property
    def turn(self) -> Turn:
        """Return who is to have room now, and for what."""
        scale, claims = float(self.units), self.claims
        counted = Claims(claims.weight, claims.guaranteed * scale, claims.most * scale)
        pool = Pool(self.capacity * self.units, counted, self.due * scale)
        return turn(self.line, pool, self.worth, RULE)


NOBODY = Standing()


def ledger_of(known: Mapping[str, Standing], names: Sequence[str], passed_s: float) -> Ledger:
    """Return what projects went short of, so long after they were known to stand so."""
    rows = [known.get(name, NOBODY) for name in names]

    def of(field: str) -> Floats:
        return np.array([getattr(row, field) for row in rows], np.float64)

    stood = Shares(of("demand"), of("entitled"), of("held"))
    return Ledger(of("short_s"), of("entitled_s"), of("each_s")).after(passed_s, stood)
