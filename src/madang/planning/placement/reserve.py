"""Which kinds each group of demands should use, while there is room for it in the plan.

A demand that runs anywhere should not take the only kind that another runs on. The linear
programme says how much of each kind each group should have; as long as a group has less, that kind
comes before all others. A group may have its largest part at once, and of its other kinds no more
than of the whole plan is in use: early plans know little, and what they give away is lost to those
who run nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from madang.planning.placement.demand import Demand

BONUS = 1e5
"""More than any two scores differ."""

Group = tuple[int, ...]
"""The kinds that a demand may run on."""


def group_of(demand: Demand) -> Group:
    """Return the group of a demand."""
    return tuple(k for k, part in enumerate(demand.parts) if part)


class Ledger:
    """The plan by group and kind, in thousandths of devices, and what of it is used."""

    def __init__(self, plan: Mapping[Group, Sequence[float]]) -> None:
        self._used: Counter[tuple[Group, int]] = Counter()
        self._used_milli = 0
        self.adopt(plan)

    def adopt(self, plan: Mapping[Group, Sequence[float]]) -> None:
        """Go on by another plan."""
        self._plan = plan
        self._planned_milli = sum(map(sum, plan.values()))

    def has_room(self, group: Group, kind: int, milli: int) -> bool:
        """Tell whether the plan has room for so much more of a group on a kind."""
        plan = self._plan.get(group)
        if plan is None:
            return False
        part = 1.0 if plan[kind] == max(plan) else self._used_milli / self._planned_milli
        return self._used[group, kind] + milli <= plan[kind] * min(part, 1.0)

    def note(self, group: Group, kind: int, milli: int) -> None:
        """Note that so much more of a group is on a kind, or (negative) less."""
        self._used[group, kind] += milli
        self._used_milli += milli


class Reserve(Ledger):
    """A ledger for a list of demands, told of by their numbers."""

    def __init__(
        self, demands: Sequence[Demand], whole: Sequence[int], plan: Mapping[Group, Sequence[float]]
    ) -> None:
        super().__init__(plan)
        self._kinds = range(len(whole))
        self._group = [group_of(demand) for demand in demands]
        self._milli = [
            [d.devices * part * 1000 // size for part, size in zip(d.parts, whole, strict=True)]
            for d in demands
        ]

    def takes(self, which: int, kind: int) -> bool:
        """Tell whether the plan has room for one of the demands on a kind."""
        group = self._group[which]
        return not group or self.has_room(group, kind, self._milli[which][kind])

    def bonus(self, which: int) -> list[float]:
        """Return what is added to each kind's scores for one of the demands."""
        if not self._group[which]:
            return []
        return [BONUS if self.takes(which, kind) else 0.0 for kind in self._kinds]

    def count(self, which: int, kind: int, times: int = 1) -> None:
        """Note that one of the demands has come to a kind, or (-1) has left it."""
        if self._group[which]:
            self.note(self._group[which], kind, times * self._milli[which][kind])
