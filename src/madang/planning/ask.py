"""What one replica asks for, as people say it, and the rules by which accelerators are barred."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from madang.resources.place import Grade, Guarantee
from madang.resources.quantity import written_size
from madang.resources.resource import Reason

DOMESTIC = frozenset({"rebellions", "furiosa", "deepx", "mobilint", "hyperaccel"})
"""Makers in Korea."""
NO_FIGURE = -1
"""In place of watts that nobody knows."""
NO_CAP = -1
"""In place of what a pool may draw, where it may draw what it likes."""


class Filter(StrEnum):
    """Why a node is out, in the order in which it is asked; the order is a promise."""

    LOST = "lost"
    """Its supervisor can't be seen."""
    DRAINED = "drained"
    """An operator has it emptied."""
    GRADE = "grade"
    """Its site may not hold such data."""
    WRONG_KIND = "wrong_kind"
    TOO_SMALL = "too_small"
    """Its accelerators have less memory than is asked for on each."""
    NO_WATTS = "no_watts"
    """Its pool may draw only so much, and nobody knows what its accelerators draw."""
    QUOTA = "quota"
    """Its project, or its organization, may not have so much of it."""
    TOO_FEW = "too_few"
    """It has fewer of them than are asked for."""
    FENCED = "fenced"
    """It would have enough, but some of them are ill."""
    CORES = "cores"
    """Too few of its processors are free."""
    HOST_MEMORY = "host_memory"
    """Too little of its own memory is free."""
    POWER = "power"
    """Its pool would draw more than it may."""
    BUSY = "busy"
    """Others have what is asked for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one replica asks for."""

    kinds: frozenset[str]
    """Starts of accelerator kinds that the engine runs on."""
    memory_bytes: int
    """On each accelerator."""
    wanted_kind: str = ""
    """A further start that people asked for; empty: any of `kinds`."""
    count: int = 1
    """Accelerators, all of one node and one kind."""
    total_bytes_min: int = 0
    """What the model cannot do without over all of them, whatever people asked for."""
    guarantee: Guarantee = Guarantee.SHARED
    cores: float = 0.0
    host_memory_bytes: int = 0
    grade: Grade = Grade.OPEN
    prefer: str = ""
    variant: int = 0
    """Which form of its revision this asks for."""
    throughput: float = 1.0
    """What it does for that, beside the other ways."""
    barred: frozenset[str] = frozenset()
    """Names of stocks of which quotas leave it too little."""
    also: tuple[Ask, ...] = ()
    """Further ways to be met, each of another form."""

    @property
    def ways(self) -> tuple[Ask, ...]:
        """Itself, and the further ways."""
        return (self, *self.also)

    @property
    def most_throughput(self) -> float:
        """What the way that does most does."""
        return max(way.throughput for way in self.ways)

    @property
    def kind(self) -> str:
        """The kind as messages say it."""
        return self.wanted_kind or "/".join(sorted(self.kinds))


@dataclass(frozen=True, slots=True, order=True)
class Stock:
    """Accelerators that are alike to placement: of one pool and kind, one size, shared one way."""

    pool: str
    kind: str
    memory_bytes: int
    """Of the largest of them."""
    least_bytes: int
    """Of the smallest: those that differ by less than half a GB count as alike."""
    shared: bool
    guarantee: Guarantee
    group: int = 1
    """How many of them are given only together."""
    grade: Grade = Grade.OPEN
    """Of the pool's site."""
    idle_mw: int = NO_FIGURE
    """What they draw together until anything runs on them, in thousandths of a watt;"""
    more_mw: int = NO_FIGURE
    """and how much more from then on."""
    cap_mw: int = NO_CAP
    """All that their pool may draw."""

    @property
    def name(self) -> str:
        """Two stocks have different ones."""
        parts = (self.pool, self.kind, self.memory_bytes, self.least_bytes, self.guarantee.value)
        shared = self.grade.value, int(self.shared), self.idle_mw, self.more_mw
        return " ".join(map(str, (*parts, self.group, *shared)))

    @property
    def is_domestic(self) -> bool:
        """Tell whether they are made in Korea."""
        return self.kind.partition("/")[0] in DOMESTIC

    def bars(self, ask: Ask) -> Filter | None:
        """Return the first rule by which none of them will ever do."""
        if self.grade.height < ask.grade.height:
            return Filter.GRADE
        if not any(of_kind(self.kind, kind) for kind in ask.kinds):
            return Filter.WRONG_KIND
        if ask.wanted_kind and not of_kind(self.kind, ask.wanted_kind):
            return Filter.WRONG_KIND
        if self.memory_bytes < ask.memory_bytes:
            return Filter.TOO_SMALL
        is_capped = self.cap_mw != NO_CAP
        if is_capped and self.more_mw == NO_FIGURE:
            return Filter.NO_WATTS
        return Filter.QUOTA if ask.barred and self.name in ask.barred else None

    def bars_all(self, ask: Ask) -> Filter | None:
        """Return the rule by which no way of an ask will do: of the way that comes furthest."""
        order = list(Filter)
        barred = [self.bars(way) for way in ask.ways]
        return None if None in barred else max(filter(None, barred), key=order.index)

    def is_whole(self, ask: Ask) -> bool:
        """Tell whether it gets each for itself alone, because parts would guarantee too little."""
        return not self.shared or self.guarantee.height < ask.guarantee.height

    def part_bytes(self, ask: Ask) -> int:
        """Return what it needs free of each."""
        whole = self.least_bytes if self.is_whole(ask) else 0
        return max(1, whole, ask.memory_bytes)


def of_kind(kind: str, start: str) -> bool:
    """Tell whether a kind begins with that start, at a boundary.

    >>> of_kind("nvidia/h100-80gb", "nvidia"), of_kind("cpu-x", "cpu/a"), of_kind("cpu", "cpu")
    (True, False, True)
    """
    return kind == start or kind.startswith((start + "/", start + "-"))


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it goes nowhere now: for each filter, how many nodes fell to it first."""

    ask: Ask
    fell: tuple[tuple[Filter, int], ...]
    no_watts: tuple[str, ...] = ()
    """Kinds that fell to the filter of that name."""
    nodes: int = 1
    """On how many nodes it is asked for, all at once;"""
    placed: int = 0
    """and on how many there is room: the filters are of the next one."""
    near: str = ""
    """How near to each other these must lie."""

    @property
    def reason(self) -> Reason:
        """Say what was asked for and how the filters went."""
        fell = dict(self.fell)
        code = "placement.nowhere" if self.nodes == 1 else "placement.no-gang"
        return Reason(
            code=code if self.ask.memory_bytes else f"{code}-whole",
            values={
                "gang": self.nodes,
                "placed": self.placed,
                "near": self.near,
                "count": self.ask.count,
                "memory": written_size(self.ask.memory_bytes),
                "kind": ", ".join(dict.fromkeys(way.kind for way in self.ask.ways)),
                "grade": self.ask.grade.value,
                "nodes": sum(fell.values()),
                "no_watts": ", ".join(self.no_watts),
                **{f"fell_{each.value}": count for each, count in fell.items()},
            },
        )
