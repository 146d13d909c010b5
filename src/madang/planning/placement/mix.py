"""What usually comes: the demands that fragmentation is measured by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from madang.planning.placement.demand import Demand

COVERED = 0.95
"""Typical demands make up this part of all (the published setting)."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Typical demands and how often each comes: exact counts, so that no rounding enters."""

    counts: tuple[tuple[Demand, int], ...]

    @property
    def total(self) -> int:
        """How many there were in all."""
        return sum(count for _, count in self.counts)

    @classmethod
    def of(cls, demands: Iterable[Demand] | Mapping[Demand, int], covered: float = COVERED) -> Mix:
        """Return the most frequent demands that cover that part of all, memory aside."""
        seen: Counter[Demand] = Counter()
        for demand, count in Counter(demands).items():
            seen[Demand(demand.cpu_milli, 0, demand.devices, demand.parts)] += count
        kept, total, so_far = [], seen.total(), 0
        order = sorted(seen.items(), key=lambda item: (item[1], item[0]), reverse=True)
        for demand, count in order:
            if so_far >= covered * total:
                break
            kept.append((demand, count))
            so_far += count
        return cls(tuple(kept))
