"""What one state of a host is worth to every demand: computed once, kept, and read from then on.

Most hosts look like others: the same kind, the same free parts, the same free processors. A
*column* has the score of such a state for all demands, and the *level* to take: how much the
devices that the demand should get have free.

Our score is what the host's *worth* gains by taking a demand in; there is one measure of worth, for
placing and for moves: free devices at their prices, less what of them is a fragment or will be
stranded, less what they draw. FGD's score, the published one, comes out of the same tables.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.demand import Demand
from madang.planning.placement.exact import on_grid
from madang.planning.placement.fleet import Ints, Kind
from madang.planning.placement.fragmentation import MILLI, Fragmentation
from madang.planning.placement.power import extra_watts
from madang.planning.placement.prices import Prices
from madang.planning.placement.stranding import Stranding

Floats = NDArray[np.float64]

NOWHERE = -np.inf
"""The score of a host that a demand can't go to."""
FAMILIES_MAX = 50_000
STATES_MAX = 350_000
"""Bounds of what is kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts, and how much, against a thousandth of a device at its price.

    Scores are exact as long as the first and the third are powers of two.
    """

    price: float = 1.0
    """Free devices and processors, at the prices of the linear programme."""
    fragmentation: float = 0.1
    """Less the thousandths of them that are fragments."""
    stranded: float = 0.25
    """Less the thousandths of them that will be stranded."""
    watts: float = 0.0
    """Less each watt that devices draw because something runs on them."""
    left_devices: float = 2e-4
    """A tie goes to the host whose devices have fewest thousandths free afterwards,"""
    left_cpu: float = 2e-7
    """then to that with fewest thousandths of processors."""
    is_rounded: bool = False
    """Whether less fragmentation counts as FGD publishes it: the whole part of 100 times its
    sigmoid, in whole devices."""


FGD = Weights(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, is_rounded=True)
MADANG = Weights()


@dataclass(frozen=True, slots=True)
class Column:
    """One state, and what it is worth."""

    scores: Floats
    """[demands] `NOWHERE` where it does not fit."""
    levels: Ints
    """[demands] units that the devices to take have free."""
    value: float
    """Worth of the state itself, in thousandths of a device: what moves are judged by. (Nothing
    where scores are FGD's.)"""


@dataclass(frozen=True, slots=True)
class _Family:
    """Hosts of one kind with the same free devices, whatever their processors."""

    after: Ints
    """[children, buckets + 1] fragmentation once something is taken; of the first, nothing."""
    child: Ints
    """[shapes, ways] row of `after` for each way to take a part; -1: there is no such way."""
    level: Ints
    """[shapes, ways]"""
    worth: Floats
    """[children] Of the devices, at their prices, less what they draw."""
    milli: int
    """Thousandths of devices free in all."""
    best: dict[int, tuple[Floats, Ints]] = field(default_factory=dict)
    """Worth (or FGD's score) and level, [shapes · (buckets + 1)], of the best ways: by the bucket
    of now where that matters."""


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
        self._watts = on_grid([weights.watts * watts for watts in extra_watts(kinds)])
        self._fragment = float(on_grid(weights.fragmentation / max(1, fragmentation.total)))
        """What counts for each thousandth that one typical demand can't use."""
        self._left = tuple(map(float, on_grid([weights.left_devices, weights.left_cpu])))
        self._stranding = Stranding(fragmentation.mix, self._whole)
        self._cpu = np.array([0, *(d.cpu_milli for d in demands)], np.int64)
        """Here as in all that follows the first demand asks for nothing: the state as it is."""
        memory = np.array([0, *(d.memory_mib for d in demands)], np.int64)
        self._memories, self._memory_rank = np.unique(memory, return_inverse=True)
        self._shapes: list[list[tuple[int, int]]] = []
        self._shape_of: list[Ints] = []
        self._milli: list[Ints] = []
        for k, whole in enumerate(self._whole):
            asked = [(0, 0), *((d.devices, d.parts[k]) for d in demands)]
            shapes = sorted(set(asked))
            self._shapes.append(shapes)
            width = len(fragmentation.thresholds) + 1
            index = {shape: i * width for i, shape in enumerate(shapes)}
            self._shape_of.append(np.array([index[a] for a in asked], np.int64))
            self._milli.append(np.array([n * part * MILLI // whole for n, part in asked], np.int64))
        self._families: OrderedDict[tuple[int, bytes], _Family] = OrderedDict()
        self._states: OrderedDict[tuple[int, int, int, bytes], Column] = OrderedDict()

    def column(self, kind: int, cpu_milli: int, memory_mib: int, free: Ints) -> Column:
        """Return the column of a state; [devices] free units in any order."""
        ordered = np.sort(free)
        roomy = int(self._memories.searchsorted(memory_mib, side="right"))
        key = kind, cpu_milli, roomy, ordered.tobytes()
        found = self._states.get(key)
        if found is None:
            found = self._states[key] = self._score(kind, cpu_milli, roomy, ordered)
            if len(self._states) > STATES_MAX:
                self._states.popitem(last=False)
        return found

    def _score(self, kind: int, cpu_milli: int, roomy: int, free: Ints) -> Column:
        family, weights = self._family(kind, free), self._weights
        left_cpu, left = cpu_milli - self._cpu, family.milli - self._milli[kind]
        buckets = self._fragmentation.bucket(left_cpu)
        table, levels = self._best(family, int(buckets[0]))
        at = self._shape_of[kind] + buckets
        worth, base, scores = table.take(at), 0.0, table.take(at)
        if not weights.is_rounded:
            worth -= weights.stranded * self._stranding.of(left, left_cpu)
            worth += weights.price * self._prices.cpu[kind] * left_cpu
            base = float(worth[0])
            scores = worth - base - self._left[0] * left - self._left[1] * left_cpu
        scores[(left_cpu < 0) | (self._memory_rank >= roomy)] = NOWHERE
        return Column(scores[1:], levels.take(at[1:]), base)

    def _best(self, family: _Family, bucket: int) -> tuple[Floats, Ints]:
        """Choose for each shape the best way, by the bucket of the processors left afterwards."""
        weights, total = self._weights, self._fragmentation.total
        key = bucket if weights.is_rounded else -1
        found = family.best.get(key)
        if found is None:
            after = family.after[family.child]
            if weights.is_rounded:
                less = (family.after[0, bucket] - after) / (MILLI * total)
                worth = weights.fragmentation * np.floor(100 / (1 + np.exp(-less)))
            else:
                worth = family.worth[family.child][:, :, None]
                worth = worth - self._fragment * after
            worth[family.child < 0] = NOWHERE
            which = worth.argmax(axis=1)
            best = np.take_along_axis(worth, which[:, None], axis=1)
            levels = np.take_along_axis(family.level, which, axis=1)
            found = family.best[key] = best.ravel(), levels.ravel()
        return found

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
        weights, whole = self._weights, self._whole[kind]
        children, ways = _children(free.tolist(), self._shapes[kind])
        states = np.array(children, np.int64)
        tables = self._fragmentation.table(kind, states)
        milli = int(np.maximum(free, 0).sum()) * MILLI // whole
        used = ((states >= 0) & (states < whole)).sum(axis=1)
        worth = weights.price * self._prices.worth(kind, states)
        worth -= self._watts[kind] * used
        width = max(1, *map(len, ways)) if ways else 1
        padded = [own + [(-1, 0)] * (width - len(own)) for own in ways]
        child = np.array([[number for number, _ in own] for own in padded], np.int64)
        level = np.array([[there for _, there in own] for own in padded], np.int64)
        return _Family(tables, child, level, worth, milli)


def _children(
    free: list[int], shapes: Sequence[tuple[int, int]]
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Return states (the first as it is), and for each shape each way: (its state, its level).

    One device is taken of each level there is, the tightest first; several, the tightest ones.
    """
    children, out = [free], list[list[tuple[int, int]]]()
    first = {level: i for i, level in reversed(list(enumerate(free)))}
    levels = sorted(first)
    for devices, part in shapes:
        ways = list[tuple[int, int]]()
        roomy = [i for i, there in enumerate(free) if there >= part] if devices and part else []
        if not devices:
            ways.append((0, 0))
        elif devices == 1:
            for level in levels if part else ():
                if level >= part:
                    child = free.copy()
                    child[first[level]] -= part
                    ways.append((len(children), level))
                    children.append(child)
        elif len(roomy) >= devices:
            child = free.copy()
            for i in roomy[:devices]:
                child[i] -= part
            ways.append((len(children), free[roomy[devices - 1]]))
            children.append(child)
        out.append(ways)
    return children, out
