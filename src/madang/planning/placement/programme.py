"""The linear programme behind prices and reserve: how well the expected demands could be placed.

A relaxation: processors and memory pooled over the hosts of a kind, devices cut by *patterns* of
shares, several devices at once only where a host has them, and free choice of which demands to
meet. Its value bounds what any placement can reach; its dual values say what one more slot of a
size, and one more processor, would be worth; its solution says which kinds each group should use.

Patterns come in as they are needed (column generation, Gilmore and Gomory 1961): a knapsack over
the slots' worth finds the best pattern of a device, until none is worth more than the device is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Fleet
from madang.planning.placement.prices import Prices
from madang.planning.placement.reserve import Group, group_of

MILLI = 1000
ROUNDS_MAX = 60
ITERATIONS_MAX = 200_000
EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Solution:
    """What the programme found."""

    prices: Prices
    reserve: Mapping[Group, tuple[float, ...]]
    """By group: thousandths of devices that it should have of each kind."""
    bound: float
    """Thousandths of devices in use at best."""


class _Quiet(highspy.Highs):
    """HiGHS without a word on stdout: its banner comes with the first thing that it is told."""

    def enableCallbacks(self) -> None:  # noqa: N802 – the name is the library's
        """Take no callbacks; be told to be silent first."""
        self.silent()


class Programme:
    """One programme; `solve` it once."""

    def __init__(
        self, fleet: Fleet, expected: Mapping[Demand, float], worth: Sequence[float] = ()
    ) -> None:
        self._fleet = fleet
        self._worth = worth or (1.0,) * len(fleet.kinds)
        """Of a device of each kind. To meet a demand is worth what it takes where it takes least,
        so that nothing is gained by giving a large device to a small one."""
        self._kinds = [s for s in fleet.slices() if s.stop > s.start]
        self._kind_of = [int(fleet.kind[s.start]) for s in self._kinds]
        self._demands = [(d, n) for d, n in sorted(expected.items()) if n > 0]
        self._highs: Any = _Quiet()  # type: ignore[no-untyped-call]
        self._highs.setOptionValue("simplex_iteration_limit", ITERATIONS_MAX)
        self._rows = 0
        self._slots: dict[tuple[int, int], int] = {}
        self._devices: dict[int, int] = {}
        self._cpu: dict[int, int] = {}
        self._columns: list[tuple[int, int]] = []

    def solve(self) -> Solution:
        """Solve it, adding patterns until none helps."""
        self._add_rows()
        self._add_demands()
        for k, part in self._slots:
            self._add_pattern(k, {part: MILLI // part})
        dual = self._run()
        for _ in range(ROUNDS_MAX):
            if not self._improve(dual):
                break
            dual = self._run()
        return self._read(dual)

    def _run(self) -> NDArray[np.float64]:
        """Solve it as it is; return the dual value of each row."""
        self._highs.run()
        return np.array(self._highs.getSolution().row_dual)

    def _row(self, most: float) -> int:
        self._highs.addRow(-highspy.kHighsInf, float(most), 0, np.array([], np.int32), np.array([]))
        self._rows += 1
        return self._rows - 1

    def _add_rows(self) -> None:
        """Rows: each demand's number, and by kind slots, devices, several at once, processors."""
        fleet = self._fleet
        self._number = [self._row(number) for _, number in self._demands]
        self._together: dict[tuple[int, int], int] = {}
        self._memory: dict[int, int] = {}
        several = sorted({d.devices for d, _ in self._demands if d.devices > 1})
        for k, part in zip(self._kind_of, self._kinds, strict=True):
            count = (fleet.free[part] >= 0).sum(axis=1)
            self._cpu[k] = self._row(fleet.cpu_milli[part].sum())
            self._memory[k] = self._row(fleet.memory_mib[part].sum())
            if not count.any():
                continue
            self._devices[k] = self._row(count.sum())
            for n in several:
                self._together[k, n] = self._row((count // n).sum())
            whole = fleet.kinds[k].whole
            sizes = {self._milli(d, k) for d, _ in self._demands if 0 < d.parts[k] < whole}
            for size in sorted(sizes):
                self._slots[k, size] = self._row(0)

    def _milli(self, demand: Demand, k: int) -> int:
        return -(-demand.parts[k] * MILLI // self._fleet.kinds[k].whole)

    def _add_demands(self) -> None:
        for i, (demand, _) in enumerate(self._demands):
            kinds = [
                k for k in demand.kinds if k in (self._devices if demand.devices else self._cpu)
            ]
            gain = min((self._worth[k] * self._milli(demand, k) for k in kinds), default=0.0)
            for k in kinds:
                use = {
                    self._number[i]: 1.0,
                    self._cpu[k]: float(demand.cpu_milli),
                    self._memory[k]: float(demand.memory_mib),
                }
                milli = self._milli(demand, k) if demand.devices else 0
                if (k, milli) in self._slots:
                    use[self._slots[k, milli]] = float(demand.devices)
                elif demand.devices:
                    use[self._devices[k]] = float(demand.devices)
                for n in range(2, demand.devices + 1):
                    if (k, n) in self._together:
                        use[self._together[k, n]] = 1.0
                self._columns.append((i, k))
                self._add_column(demand.devices * gain, use)

    def _add_column(self, gain: float, use: Mapping[int, float]) -> None:
        index = np.array(list(use), np.int32)
        amount = np.array([*use.values()])
        self._highs.addCol(-gain, 0.0, highspy.kHighsInf, len(use), index, amount)

    def _add_pattern(self, k: int, pattern: Mapping[int, int]) -> None:
        use = {self._slots[k, size]: -float(n) for size, n in pattern.items()}
        self._add_column(0.0, {**use, self._devices[k]: 1.0})

    def _improve(self, dual: NDArray[np.float64]) -> bool:
        """Add the best pattern of each kind that is worth more than its device."""
        found = False
        for k, row in self._devices.items():
            sizes = [size for kind, size in self._slots if kind == k]
            worth, took = knapsack(sizes, [-dual[self._slots[k, s]] for s in sizes])
            if worth[MILLI] > -dual[row] + EPSILON:
                self._add_pattern(k, unpack(took))
                found = True
        return found

    def _read(self, dual: NDArray[np.float64]) -> Solution:
        kinds = self._fleet.kinds
        cpu, room = [0.0] * len(kinds), [np.zeros(MILLI + 1) for _ in kinds]
        for k in self._kind_of:
            cpu[k] = -float(dual[self._cpu[k]])
            if k in self._devices:
                sizes = [size for kind, size in self._slots if kind == k]
                worth, _ = knapsack(sizes, [-dual[self._slots[k, s]] for s in sizes])
                worth[MILLI] = max(worth[MILLI], -dual[self._devices[k]])
                room[k] = worth
        amounts = np.array(self._highs.getSolution().col_value)
        reserve: dict[Group, list[float]] = {}
        for (i, k), amount in zip(self._columns, amounts, strict=False):
            demand = self._demands[i][0]
            if demand.devices:
                own = reserve.setdefault(group_of(demand), [0.0] * len(kinds))
                own[k] += amount * demand.devices * self._milli(demand, k)
        return Solution(
            Prices(tuple(cpu), tuple(room), tuple(kind.whole for kind in kinds)),
            {group: tuple(own) for group, own in reserve.items()},
            -self._highs.getObjectiveValue(),
        )


def knapsack(sizes: list[int], values: list[float]) -> tuple[NDArray[np.float64], list[int]]:
    """Return the best worth of 0 to 1000 thousandths, and the size taken last for each.

    Only multiples of what all sizes share are looked at: nothing else can be filled.
    """
    step = gcd(MILLI, *sizes)
    items = [(s // step, v) for s, v in zip(sizes, values, strict=True) if v > EPSILON]
    worth, took = [0.0] * (MILLI // step + 1), [0] * (MILLI + 1)
    for room in range(1, len(worth)):
        best, size = worth[room - 1], 0
        for s, v in items:
            if s <= room and worth[room - s] + v > best + EPSILON:
                best, size = worth[room - s] + v, s
        worth[room], took[room * step] = best, size * step
    return np.repeat(worth, step)[: MILLI + 1], took


def unpack(took: list[int]) -> Mapping[int, int]:
    """Return the best pattern of a whole device: how many of each size."""
    pattern, room = defaultdict[int, int](int), MILLI
    while room:
        if took[room]:
            pattern[took[room]] += 1
        room -= took[room] or 1
    return pattern
