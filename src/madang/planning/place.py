"""Placement: which accelerators one replica gets, and if none, why and what would help.

The algorithm behind `place` is simple on purpose, tightest fit; it takes a Demand and a Fleet
and returns a Placement or a Refused, and whatever replaces it does the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from madang.planning.fleet import Fleet, Slot
from madang.resources.quantity import written_size
from madang.resources.resource import Reason

LOST = "placement.node-lost"
WRONG_KIND = "placement.wrong-kind"
TOO_SMALL = "placement.too-small"
BUSY = "placement.busy"
TOO_FEW = "placement.too-few"


@dataclass(frozen=True, slots=True)
class Demand:
    """What one replica asks for."""

    kinds: frozenset[str]
    """Starts of accelerator kinds that the engine runs on."""
    wanted_kind: str
    """A further start that people asked for; empty: any of `kinds`."""
    count: int
    memory_bytes: int
    """On each accelerator."""
    total_bytes_min: int
    """What the model cannot do without over all of them, whatever people asked for."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where it goes."""

    node: str
    accelerators: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it goes nowhere now: for each filter, how many accelerators fell to it first."""

    demand: Demand
    fell: tuple[tuple[str, int], ...]

    @property
    def reason(self) -> Reason:
        """Say what was asked for and how the filters went."""
        fell = dict(self.fell)
        return Reason(
            code="placement.nowhere",
            values={
                "count": self.demand.count,
                "memory": written_size(self.demand.memory_bytes),
                "kind": self.demand.wanted_kind or "/".join(sorted(self.demand.kinds)),
                "lost": fell.get(LOST, 0),
                "wrong_kind": fell.get(WRONG_KIND, 0),
                "too_small": fell.get(TOO_SMALL, 0),
                "busy": fell.get(BUSY, 0),
                "too_few": fell.get(TOO_FEW, 0),
            },
        )


def of_kind(kind: str, start: str) -> bool:
    """Tell whether a kind begins with that start, at a boundary.

    >>> of_kind("nvidia/h100-80gb", "nvidia"), of_kind("cpu-x", "cpu/a"), of_kind("cpu", "cpu")
    (True, False, True)
    """
    return kind == start or kind.startswith((start + "/", start + "-"))


def refuse(demand: Demand, slot: Slot, reachable: frozenset[str]) -> str | None:
    """Return the first filter that this accelerator falls to, or None. The order is a promise."""
    if slot.node not in reachable:
        return LOST
    if not any(of_kind(slot.kind, kind) for kind in demand.kinds):
        return WRONG_KIND
    if demand.wanted_kind and not of_kind(slot.kind, demand.wanted_kind):
        return WRONG_KIND
    if slot.memory_bytes < demand.memory_bytes:
        return TOO_SMALL
    if slot.free_bytes < demand.memory_bytes:
        return BUSY
    return None


def place(demand: Demand, fleet: Fleet) -> Placement | Refused:
    """Choose the accelerators on one node, all of one kind, that leave the least memory idle.

    Equal fits go to the first name in order, so that the order of nodes does not matter.
    """
    fell: Counter[str] = Counter()
    groups: dict[tuple[str, str], list[Slot]] = {}
    for slot in fleet.slots.values():
        why = refuse(demand, slot, fleet.reachable)
        if why:
            fell[why] += 1
        else:
            groups.setdefault((slot.node, slot.kind), []).append(slot)
    best: tuple[int, str, tuple[str, ...], str] | None = None
    for (node, kind), slots in groups.items():
        if len(slots) < demand.count:
            fell[TOO_FEW] += len(slots)
            continue
        chosen = sorted(slots, key=lambda s: (s.free_bytes, s.name))[: demand.count]
        idle = sum(s.free_bytes - demand.memory_bytes for s in chosen)
        choice = (idle, node, tuple(s.name for s in chosen), kind)
        best = choice if best is None or choice < best else best
    if best is None:
        return Refused(demand, tuple(sorted(fell.items())))
    return Placement(node=best[1], accelerators=best[2], kind=best[3])


@dataclass(frozen=True, slots=True)
class Loan:
    """Something that could be scaled down by one to make room."""

    service: str
    scale: int
    fleet: Fleet
    """The fleet once its replica has gone."""


def smallest_fix(refused: Refused, fleet: Fleet, loans: Iterable[Loan]) -> Reason:
    """Find the smallest change that would let it start; every answer but the last was tried.

    In this order: ask for less memory, for fewer accelerators, for any kind; scale another
    service down by one; add an accelerator.
    """
    demand = refused.demand
    for smaller, fix in _smaller(demand, fleet):
        if isinstance(place(smaller, fleet), Placement):
            return fix
    for loan in loans:
        if isinstance(place(demand, loan.fleet), Placement):
            values: dict[str, str | int | float] = {"service": loan.service, "scale": loan.scale}
            return Reason(code="placement.fix-scale", values=values)
    return Reason(
        code="placement.fix-add",
        values={
            "count": demand.count,
            "memory": written_size(demand.memory_bytes),
            "kind": demand.wanted_kind or "/".join(sorted(demand.kinds)),
        },
    )


def _smaller(demand: Demand, fleet: Fleet) -> Iterable[tuple[Demand, Reason]]:
    """Return what else could be asked for, smallest change first, with how to ask for it."""
    fitting = [
        slot.free_bytes
        for slot in fleet.slots.values()
        if refuse(replace(demand, memory_bytes=0), slot, fleet.reachable) is None
    ]
    fitting.sort(reverse=True)
    # A whole number of MB, rounded down, so that what is written is what was tried.
    memory = fitting[demand.count - 1] // 10**6 * 10**6 if len(fitting) >= demand.count else 0
    if 0 < memory < demand.memory_bytes and memory * demand.count >= demand.total_bytes_min:
        yield (
            replace(demand, memory_bytes=memory),
            Reason(code="placement.fix-memory", values={"memory": f"{memory // 10**6}MB"}),
        )
    for count in range(demand.count - 1, 0, -1):
        if demand.memory_bytes * count >= demand.total_bytes_min:
            yield (
                replace(demand, count=count),
                Reason(code="placement.fix-count", values={"count": count}),
            )
    if demand.wanted_kind:
        values: dict[str, str | int | float] = {"kind": demand.wanted_kind}
        yield replace(demand, wanted_kind=""), Reason(code="placement.fix-kind", values=values)
