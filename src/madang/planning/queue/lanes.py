"""Who waits for which accelerators and who has them, as the lines that `share` decides about.

One lane for each kind of accelerator. Jobs that could start if there were room, jobs that run, and
replicas of services, which nobody asks to make room, but which count for their project. This is
all that the queue is told; what becomes of it is in `order`, `queues` and `turns`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from math import inf
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from madang.planning.place.gangs import Want
from madang.planning.share.ledger import Ledger, Shares
from madang.planning.share.line import Bools, Floats, Ints, Line
from madang.planning.share.lives import AGES, CLASSES, Lives
from madang.planning.share.rule import RULE, Rule
from madang.planning.share.turn import Leaving, Pool, Turn, Why, turn
from madang.planning.share.water import Claims
from madang.resources.attempt import Attempt
from madang.resources.job import Job
from madang.resources.queue import Queue, Standing
from madang.resources.replica import Replica

MILLI = 1000
INTERVAL_S = 1800.0
"""In place of how often a job is asked to save, where it saves as it likes."""


ROW = np.dtype([
    ("project", np.int64), ("milli", np.int64), ("came", np.float64), ("waited_s", np.float64),
    ("from_s", np.float64),
    ("ran_s", np.float64), ("height", np.int64), ("runs", np.bool_), ("leaves", np.bool_),
    ("fixed_until", np.float64), ("began", np.float64), ("saved_at", np.float64),
    ("save_every_s", np.float64), ("between_s", np.float64), ("is_job", np.bool_),
    ("is_marked", np.bool_),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """One that waits in a lane, or has something of it."""

    owner: Job | Replica
    number: int = field(compare=False)
    """Of its project, among those that were heard of."""
    kind: str
    milli: int
    """Thousandths of accelerators of that kind."""
    came: float
    """Unix seconds since when it has been in line."""
    want: Want | None = None
    """What it asks for, where it waits,"""
    told: str = ""
    """and the code of what it was told last, if that is for all who ask for the same."""
    waited_s: float = 0.0
    """So long it had waited when the clock of the queue showed `from_s`."""
    from_s: float = inf
    """Infinite: that goes on no more, since it runs, or has not gone on yet."""
    began: float = 0.0
    """Where it runs, since when, in Unix seconds; infinite for a replica: it never makes room;"""
    attempt: Attempt | None = None
    """Of a job that runs."""
    runs: bool = False
    leaves: bool = False
    """It will soon have nothing: planning counts it no more, but its project has that yet."""
    fixed_until: float = 0.0
    """Nobody asks it to make room before, in Unix seconds."""
    ran_s: float = 0.0
    """Work done, in what it had before."""
    saved_at: float = 0.0
    """and so is this: since when nothing is saved,"""
    save_every_s: float = INTERVAL_S
    """how often it should save,"""
    between_s: float = 0.0
    """and does so; 0: nobody knows of any checkpoint of it."""
    height: int = 1
    mark: tuple[float, float, str, str, str] = field(init=False)
    """Who of all came first in front."""

    def __post_init__(self) -> None:
        """Note who came first."""
        own = self.owner
        uid = self.attempt.uid if self.attempt else own.uid
        object.__setattr__(self, "mark", (self.came, own.created_at, own.project, own.name, uid))

    @property
    def project(self) -> str:
        """Whose it is."""
        return self.owner.project

    @property
    def job(self) -> Job:
        """Return the job that it is."""
        assert isinstance(self.owner, Job)
        return self.owner

    @property
    def row(self) -> tuple[float, ...]:
        """Return it as in a roster."""
        line = self.owner.status.line if isinstance(self.owner, Job) else None
        is_marked = line is not None and line.queue == queue_name(self.kind)
        is_marked = is_marked and line is not None and line.attempt == self.at_work
        return (
            self.number, self.milli, self.came, self.waited_s, self.from_s, self.ran_s,
            self.height, self.runs, self.leaves, self.fixed_until, self.began, self.saved_at,
            self.save_every_s, self.between_s, isinstance(self.owner, Job), is_marked,
        )  # fmt: skip

    @property
    def at_work(self) -> int:
        """Return the number of the attempt that runs; 0: it waits."""
        return self.attempt.spec.number if self.attempt else 0


_MARK = attrgetter("mark")
FEW = 100


@dataclass(frozen=True, slots=True)
class Roster:
    """Members of a lane, who came first in front, and the same as rows of an array."""

    members: Sequence[Member]
    rows: NDArray[np.void]

    def after(self, gone: Sequence[Member], come: Sequence[Member]) -> Roster:
        """Return it without some, and with others."""
        if len(gone) + len(come) > FEW:
            left = {id(member) for member in gone}
            members = [member for member in self.members if id(member) not in left]
            members = sorted([*members, *come], key=_MARK)
            return Roster(members, np.array([member.row for member in members], ROW))
        members, rows = list(self.members), self.rows
        for member in gone:
            at = bisect_left(members, member.mark, key=_MARK)
            del members[at]
            rows = np.delete(rows, at)
        for member in come:
            at = bisect_left(members, member.mark, key=_MARK)
            members.insert(at, member)
            rows = np.insert(rows, at, np.array(member.row, ROW))
        return Roster(members, rows)

    def at(self, member: Member) -> int:
        """Return the place of one of them."""
        return bisect_left(self.members, member.mark, key=_MARK)

    def only(self, which: Bools) -> Roster:
        """Return it with these alone."""
        return self if which.all() else Roster([*compress(self.members, which)], self.rows[which])


NOBODY_IN = Roster((), np.zeros(0, ROW))


def queue_name(kind: str) -> str:
    """Return what the queue for a kind of accelerators is called.

    >>> queue_name("nvidia/h100")
    'nvidia-h100'
    """
    return kind.replace("/", "-")


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
    all: Roster
    """Who waits or has something; who came first in front."""
    names: Sequence[str]
    """Of projects, by their numbers there."""
    terms: Terms
    queue: Queue | None
    """What is stored of it; None: nothing yet."""
    passed_s: float
    """How long all has been as stored."""
    clock_s: float = 0.0
    """What its clock shows, by which waits are counted."""
    rule: Rule = RULE

    @property
    def members(self) -> Sequence[Member]:
        """All of them."""
        return self.all.members

    @cached_property
    def projects(self) -> tuple[str, ...]:
        """All of which something is known, in the order of the arrays."""
        here = np.unique(self.all.rows["project"]).tolist()
        return tuple(sorted({self.names[number] for number in here} | self.stored.keys()))

    @cached_property
    def _at(self) -> Ints:
        """[numbers] Where each project is in the arrays."""
        return np.array([self.index.get(name, -1) for name in self.names], np.int64)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Where each is in them."""
        return {name: at for at, name in enumerate(self.projects)}

    @property
    def stored(self) -> Mapping[str, Standing]:
        """Where projects stood at last, by name."""
        return self.queue.status.projects if self.queue else {}

    @cached_property
    def here(self) -> Roster:
        """Who is in the line: the rest is leaving."""
        return self.all.only(~self.all.rows["leaves"])

    @property
    def present(self) -> Sequence[Member]:
        """All of those."""
        return self.here.members

    def has(self, owner: Job | Replica) -> bool:
        """Tell whether somebody waits here, or has something."""
        return any(member.owner.uid == owner.uid for member in self.members)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return int((~self.all.rows["runs"]).sum())

    @cached_property
    def line(self) -> Line:
        """Return them as `share` sees them, in the units of this lane."""
        rows, now, part = self.here.rows, self.now, MILLI // self.units
        runs = rows["runs"]
        own_s = np.where(runs, np.maximum(0.0, now - rows["began"]), 0.0)
        unsaved = np.maximum(0.0, now - rows["saved_at"]) / rows["save_every_s"]
        return Line(
            self._at[rows["project"]], -(-rows["milli"] // part), rows["ran_s"] + own_s,
            rows["waited_s"] + np.maximum(0.0, self.clock_s - rows["from_s"]),
            np.where(runs, unsaved, 0.0), runs, now < rows["fixed_until"], rows["height"],
            rows["between_s"],
        )  # fmt: skip

    @cached_property
    def claims(self) -> Claims:
        """Return what each may ask for, in accelerators."""
        return self.terms.claims(self.projects)

    @cached_property
    def shares(self) -> Shares:
        """Return what each could use, is entitled to and has now, in accelerators."""
        demand, held = self._sum(self.all.rows), self._sum(self.all.rows[self.all.rows["runs"]])
        return Shares(demand, self.claims.entitled(demand, self.capacity), held)

    def _sum(self, rows: NDArray[np.void]) -> Floats:
        return np.bincount(self._at[rows["project"]], rows["milli"], len(self.projects)) / MILLI

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
        jobs = self.here.rows["is_job"]
        alive = replace(
            line, project=line.project[jobs], size=line.size[jobs], ran_s=line.ran_s[jobs]
        )
        return self.lives.worth(alive)

    @cached_property
    def due(self) -> Floats:
        """Return what each must get now: what is promised to it, and what it went too short of."""
        now = self.shares
        sure = self.claims.sure(now.demand, self.capacity)
        return np.maximum(sure, self.ledger.guarantees(now.entitled, self.rule))

    @cached_property
    def eldest(self) -> int | None:
        """Return who of those that wait came first and has waited too long; what is free is its."""
        line = self.line
        found = np.flatnonzero(~line.runs & (line.waited_s >= self.rule.aged_s))
        return int(found[0]) if len(found) else None

    @cached_property
    def pool(self) -> Pool:
        """Return what there is to share, in the units of this lane."""
        scale, claims = float(self.units), self.claims
        counted = Claims(claims.weight, claims.guaranteed * scale, claims.most * scale)
        return Pool(self.capacity * self.units, counted, self.due * scale)

    @cached_property
    def turn(self) -> Turn:
        """Return who is to have room now, and for what."""
        return turn(self.line, self.pool, self.worth, self.rule)

    @cached_property
    def leaving(self) -> Leaving:
        """Return who of those that run is given nothing, who is best asked to leave in front."""
        order, line = self.turn.order[::-1], self.line
        nothing = (self.turn.why[order] == Why.NONE) & line.runs[order] & ~line.fixed[order]
        return Leaving(line, order[nothing], self.pool, self.rule)


NOBODY = Standing()


def ledger_of(known: Mapping[str, Standing], names: Sequence[str], passed_s: float) -> Ledger:
    """Return what projects went short of, so long after they were known to stand so."""
    rows = [known.get(name, NOBODY) for name in names]

    def of(field: str) -> Floats:
        return np.array([getattr(row, field) for row in rows], np.float64)

    stood = Shares(of("demand"), of("entitled"), of("held"))
    return Ledger(of("short_s"), of("entitled_s"), of("each_s")).after(passed_s, stood)
