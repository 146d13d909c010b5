"""What one state of a host is worth to every demand: computed once, kept, and read from then on.

Most hosts look like others: the same kind, the same free parts, the same free processors. A
*column* has the score of such a state for all demands, and the *level* to take: how much the
devices that the demand should get have free.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Ints, Kind
from madang.planning.placement.fragmentation import MILLI, Fragmentation
from madang.planning.placement.prices import Prices

Floats = NDArray[np.float64]

NOWHERE = -np.inf
"""The score of a host that a demand can't go to."""
FAMILIES_MAX = 50_000
STATES_MAX = 350_000
"""Bounds of what is kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How a score is made up. The defaults are FGD as published."""

    fragmentation: float = 1.0
    """Of 100 · sigmoid(how much less fragmentation), in whole devices."""
    is_rounded: bool = True
    """Whether that is cut to a whole number first, as published."""
    price: float = 0.0
    """Of what is consumed at the prices of the linear programme, in thousandths of a device."""
    left_devices: float = 0.0
    """Of what devices have free afterwards, in thousandths: breaks ties."""
    left_cpu: float = 0.0
    """Of what processors are free afterwards, in thousandths: breaks ties."""


FGD = Weights()
MADANG = Weights(fragmentation=40.0, price=6.0, left_devices=1e-3, left_cpu=1e-6)
"""Constants on a plateau: a third or three times as much of the price changes little."""


@dataclass(frozen=True, slots=True)
class Column:
    """One state, and what it is worth."""

    scores: Floats
    """[demands] `NOWHERE` where it does not fit."""
    levels: Ints
    """[demands] units that the devices to take have free."""
    value: float
    """Worth of the state itself, in thousandths of a device: what moves are judged by."""
    gains: Floats
    """[demands] How much that worth grows (mostly, less than nothing) at best by each demand."""
    gain_levels: Ints
    """[demands] The level to take for that."""


@dataclass(frozen=True, slots=True)
class _Family:
    """Hosts of one kind with the same free devices, whatever their processors."""

    own: Ints
    """[buckets + 1] fragmentation."""
    child: Ints
    """[demands, choices] row of `after` for each way to take a part."""
    after: Ints
    """[children, buckets + 1] fragmentation once it is taken."""
    fits: NDArray[np.bool_]
    """[demands, choices]"""
    level: Ints
    """[demands, choices]"""
    fixed: Floats
    """[demands, choices] all of the score that processors have no part in."""
    worth: Floats
    """[children] Of the devices at their prices; the family's own is the first."""


class Columns:
    """Columns of all states met, for a list of demands, a mix, prices and weights."""

    def __init__(
        self,
        demands: Sequence[Demand],
        kinds: Sequence[Kind],
        fragmentation: Fragmentation,
        prices: Prices,
        weights: Weights,
    ) -> None:
        self._fragmentation, self._prices, self._weights = fragmentation, prices, weights
        self._whole = [kind.whole for kind in kinds]
        self._cpu = np.array([d.cpu_milli for d in demands], np.int64)
        memory = np.array([d.memory_mib for d in demands], np.int64)
        self._memories, self._memory_rank = np.unique(memory, return_inverse=True)
        self._shapes: list[list[tuple[int, int]]] = []
        self._shape_of: list[Ints] = []
        for k in range(len(kinds)):
            asked = [(d.devices, d.parts[k]) for d in demands]
            shapes = sorted(set(asked))
            self._shapes.append(shapes)
            index = {shape: i for i, shape in enumerate(shapes)}
            self._shape_of.append(np.array([index[a] for a in asked], np.int64))
        self._cpu_cost = [weights.price * price * self._cpu for price in prices.cpu]
        self._families: OrderedDict[tuple[int, bytes], _Family] = OrderedDict()
        self._states: OrderedDict[tuple[int, int, int, bytes], Column] = OrderedDict()

    def column(self, kind: int, cpu_milli: int, memory_mib: int, free: Ints) -> Column:
        """Return the column of a state; [devices] free units in any order."""
        ordered = np.sort(free)
        roomy = int(np.searchsorted(self._memories, memory_mib, side="right"))
        key = kind, cpu_milli, roomy, ordered.tobytes()
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = self._score(kind, cpu_milli, roomy, ordered)
            if len(self._states) > STATES_MAX:
                self._states.popitem(last=False)
        return found

    def _score(self, kind: int, cpu_milli: int, roomy: int, free: Ints) -> Column:
        family, weights = self._family(kind, free), self._weights
        left_cpu = cpu_milli - self._cpu
        fragmentation = self._fragmentation
        bucket = int(fragmentation.bucket(np.array(cpu_milli)))
        after = family.after[family.child, fragmentation.bucket(left_cpu)[:, None]]
        less = (family.own[bucket] - after) / (MILLI * fragmentation.total)
        part = 100 / (1 + np.exp(-less))
        if weights.is_rounded:
            part = np.floor(part)
        scores = np.where(family.fits, weights.fragmentation * part + family.fixed, NOWHERE)
        which = scores.argmax(axis=1)
        rows = np.arange(len(which))
        best = scores[rows, which] - self._cpu_cost[kind] - weights.left_cpu * left_cpu
        nowhere = (left_cpu < 0) | (self._memory_rank >= roomy)
        best[nowhere] = NOWHERE
        value = float(family.worth[0] - family.own[bucket] / fragmentation.total)
        worth = family.worth[family.child] - after / fragmentation.total
        gains = np.where(family.fits, worth - value, NOWHERE)
        to_gain = gains.argmax(axis=1)
        gained = gains[rows, to_gain] - self._prices.cpu[kind] * self._cpu
        gained[nowhere] = NOWHERE
        value += self._prices.cpu[kind] * cpu_milli
        return Column(best, family.level[rows, which], value, gained, family.level[rows, to_gain])

    def _family(self, kind: int, free: Ints) -> _Family:
        key = kind, free.tobytes()
        found = self._families.get(key)
        if found is None:
            found = self._families[key] = self._make_family(kind, free)
            if len(self._families) > FAMILIES_MAX:
                self._families.popitem(last=False)
        return found

    def _make_family(self, kind: int, free: Ints) -> _Family:
        """Try every way to take a part of these devices."""
        children, ways = [free], list[list[tuple[int, int]]]()
        for devices, part in self._shapes[kind]:
            own = []
            for there, taken in _choices(free, devices, part):
                own.append((len(children), there))
                child = free.copy()
                child[taken] -= part
                children.append(child)
            ways.append(own if devices else [(0, 0)])
        states = np.array(children)
        tables = self._fragmentation.table(kind, states)
        worth = self._prices.worth(kind, states)
        left = np.maximum(states, 0).sum(axis=1) * (MILLI / self._whole[kind])
        weights = self._weights
        fixed = weights.price * (worth - worth[0]) - weights.left_devices * left
        width = max(1, *(len(own) for own in ways)) if ways else 1
        padded = [own + [(0, 0)] * (width - len(own)) for own in ways]
        which = np.array([[number for number, _ in own] for own in padded], np.int64)
        level = np.array([[free_there for _, free_there in own] for own in padded], np.int64)
        fits = np.array([[i < len(own) for i in range(width)] for own in ways], np.bool_)
        shape = self._shape_of[kind]
        which = which[shape]
        return _Family(tables[0], which, tables, fits[shape], level[shape], fixed[which], worth)


def _choices(free: Ints, devices: int, part: int) -> list[tuple[int, Ints]]:
    """Return each way to take a part of so many devices: (what they have free, their indices).

    Several devices are taken where they have equally much free, else the tightest ones.
    """
    if not devices or not part:
        return []
    roomy = np.flatnonzero(free >= part)
    if len(roomy) < devices:
        return []
    if devices == 1:
        levels, first = np.unique(free[roomy], return_index=True)
        return [(int(v), roomy[i : i + 1]) for v, i in zip(levels, first, strict=True)]
    taken = roomy[:devices]
    return [(int(free[taken[-1]]), taken)]
