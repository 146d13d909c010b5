"""Which kinds each group of demands should use, while there is room for it in the plan.

A demand that runs anywhere should not take the only kind that another runs on. The linear
programme says how much of each kind each group should have; as long as a group has less, that kind
comes before all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from madang.planning.placement.demand import Demand

BONUS = 1e5
"""More than any two scores differ."""

Group = tuple[int, ...]
"""The kinds that a demand may run on."""


def group_of(demand: Demand) -> Group:
    """Return the group of a demand."""
    return tuple(k for k, part in enumerate(demand.parts) if part)


class Reserve:
    """The plan by group and kind, in thousandths of devices, and what of it is used."""

    def __init__(
        self, demands: Sequence[Demand], whole: Sequence[int], plan: Mapping[Group, Sequence[float]]
    ) -> None:
        self._kinds = range(len(whole))
        self._group = [group_of(demand) for demand in demands]
        self._milli = [
            [d.devices * part * 1000 // size for part, size in zip(d.parts, whole, strict=True)]
            for d in demands
        ]
        self._used: dict[Group, list[int]] = {group: [0] * len(whole) for group in self._group}
        self.plan = plan

    def has_room(self, which: int, kind: int) -> bool:
        """Tell whether the plan has room for one of the demands on a kind."""
        group, milli = self._group[which], self._milli[which][kind]
        if not group:
            return True
        plan = self.plan.get(group)
        return plan is not None and self._used[group][kind] + milli <= plan[kind]

    def bonus(self, which: int) -> list[float]:
        """Return what is added to each kind's scores for one of the demands."""
        if not self._group[which]:
            return []
        return [BONUS if self.has_room(which, kind) else 0.0 for kind in self._kinds]

    def note(self, which: int, kind: int, times: int = 1) -> None:
        """Note that one of the demands has come to a kind, or (-1) has left it."""
        if self._group[which]:
            self._used[self._group[which]][kind] += times * self._milli[which][kind]
