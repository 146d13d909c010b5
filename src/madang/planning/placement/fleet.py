"""What nodes have free, as arrays: a `Fleet` is a value, a `Board` the copy to work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.demand import Demand

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NO_DEVICE = -1
"""In place of what a device has free, where a node has fewer devices than others."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of accelerator."""

    name: str
    whole: int = 1000
    """Units of one device: thousandths of it, or its bytes, as whoever made the fleet counts."""
    together: int = 1
    """Accelerators that one device stands for, given only together."""

    @property
    def size(self) -> int:
        """Units of all that is given together: by that devices of unlike kinds compare."""
        return self.whole * self.together


@dataclass(frozen=True, slots=True)
class Host:
    """One node, and its devices of one kind; a node with several kinds is several hosts."""

    name: str
    cpu_milli: int
    memory_mib: int
    kind: int = 0
    """Index among the kinds of the fleet."""
    free: tuple[int, ...] = ()
    """What each device has free, in units of the kind."""
    node: str = ""
    """Hosts of one node share its processors and memory; empty: a node of its own."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts by kind, then name. Nothing in it changes."""

    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    rank: Ints
    """[hosts] place among all names in order: equal scores go to the lowest."""
    kind: Ints
    """[hosts] index among kinds."""
    cpu_milli: Ints
    """[hosts] free."""
    memory_mib: Ints
    """[hosts] free."""
    free: Ints
    """[hosts, devices] free units; `NO_DEVICE` where there is none."""
    siblings: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """All hosts of a node, by each of them; a host that is alone isn't in it."""

    @classmethod
    def of(cls, kinds: Sequence[Kind], hosts: Iterable[Host]) -> Fleet:
        """Lay the hosts out; their order does not matter."""
        laid = sorted(hosts, key=lambda host: (host.kind, host.name))
        width = max((len(host.free) for host in laid), default=0)
        names = tuple(host.name for host in laid)
        by_name = sorted(range(len(laid)), key=lambda i: names[i])
        rank = np.empty(len(laid), np.int64)
        rank[by_name] = np.arange(len(laid))
        free = np.full((len(laid), width), NO_DEVICE, np.int64)
        for row, host in zip(free, laid, strict=True):
            row[: len(host.free)] = host.free
        return cls(
            tuple(kinds), names, rank,
            np.array([host.kind for host in laid], np.int64),
            np.array([host.cpu_milli for host in laid], np.int64),
            np.array([host.memory_mib for host in laid], np.int64),
            free,
            _siblings(laid),
        )  # fmt: skip

    def board(self) -> Board:
        """Return a copy to work on."""
        return Board(self)

    def of_node(self, host: int) -> tuple[int, ...]:
        """Return all hosts of a host's node, itself among them."""
        return self.siblings.get(host, (host,))

    @property
    def whole(self) -> Ints:
        """[kinds] units of one device."""
        return np.array([kind.whole for kind in self.kinds], np.int64)

    @property
    def capacity(self) -> Ints:
        """[kinds] how many devices there are."""
        devices = (self.free != NO_DEVICE).sum(axis=1)
        return np.bincount(self.kind, devices, len(self.kinds)).astype(np.int64)

    def slices(self) -> list[slice]:
        """Return where the hosts of each kind lie."""
        ends = np.searchsorted(self.kind, np.arange(len(self.kinds) + 1))
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def _siblings(hosts: Sequence[Host]) -> dict[int, tuple[int, ...]]:
    of_node: dict[str, list[int]] = {}
    for i, host in enumerate(hosts):
        if host.node:
            of_node.setdefault(host.node, []).append(i)
    several = [tuple(group) for group in of_node.values() if len(group) > 1]
    return {i: group for group in several for i in group}


class Board:
    """A fleet to try things on: `take` and `give` change it in place."""

    def __init__(self, fleet: Fleet) -> None:
        self.start = fleet
        self.cpu_milli = fleet.cpu_milli.copy()
        self.memory_mib = fleet.memory_mib.copy()
        self.free = fleet.free.copy()

    def fleet(self) -> Fleet:
        """Return what came of it, as a value."""
        return replace(
            self.start,
            cpu_milli=self.cpu_milli.copy(),
            memory_mib=self.memory_mib.copy(),
            free=self.free.copy(),
        )

    def take(self, host: int, demand: Demand, devices: Sequence[int]) -> None:
        """Give a demand its part of these devices of a host."""
        self._change(host, demand, devices, -1)

    def give(self, host: int, demand: Demand, devices: Sequence[int]) -> None:
        """Take back what a demand had."""
        self._change(host, demand, devices, 1)

    def _change(self, host: int, demand: Demand, devices: Sequence[int], sign: int) -> None:
        for each in self.start.of_node(host):
            self.cpu_milli[each] += sign * demand.cpu_milli
            self.memory_mib[each] += sign * demand.memory_mib
        part = demand.parts[self.start.kind[host]] if devices else 0
        for device in devices:
            self.free[host, device] += sign * part

    def devices(self, host: int, demand: Demand, level: int | None = None) -> tuple[int, ...]:
        """Return devices of a host for a demand: the fullest with room, the first of equal ones.

        A demand for one device may say how much that device is to have free.
        """
        row, part = self.free[host], demand.parts[self.start.kind[host]]
        if demand.devices == 1 and level is not None:
            return (int((row == level).argmax()),)
        order = np.argsort(row, kind="stable")
        return tuple(int(i) for i in order[row[order] >= part][: demand.devices])
