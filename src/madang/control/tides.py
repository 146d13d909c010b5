"""What is called for, as gateways tell it: how much now, and the most of it for a while back.

Kept in memory alone: a control that has just started has seen nothing, and says for how long it
has. What a gateway told counts until it tells again, or has not been heard for its lease. Times
are seconds that only go forward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from madang.planning.snapshot import Demand
from madang.resources.resource import Ref
from madang.settings import GATEWAY_LEASE_S
from madang.traffic.table import Demand as Told


@dataclass(slots=True)
class _Crests:
    """The highest levels of one endpoint, each with when it was last as high; falling."""

    levels: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, at_s: float, level: int) -> None:
        while self.levels and self.levels[-1][1] <= level:
            self.levels.pop()
        if level:
            self.levels.append((at_s, level))

    def highest(self, since_s: float) -> int:
        """Return the highest since then, and forget what was before."""
        while self.levels and self.levels[0][0] < since_s:
            self.levels.popleft()
        return self.levels[0][1] if self.levels else 0


class Tides:
    """The demand of all endpoints, over all gateways."""

    def __init__(self, now_s: float) -> None:
        self._known_from_s = now_s + GATEWAY_LEASE_S
        """By then every gateway has spoken that there is."""
        self._told: dict[str, tuple[float, Mapping[Ref, Told]]] = {}
        self._crests: dict[Ref, _Crests] = {}

    def note(self, gateway: str, told: Mapping[str, Told], now_s: float) -> bool:
        """Take in what a gateway tells, by `project/name`; True: it is not what it was."""
        fresh = {Ref(*name.rsplit("/", 1)): each for name, each in told.items() if "/" in name}
        _, before = self._told.get(gateway, (0.0, {}))
        for ref in {**before, **fresh}:
            others = self._level(ref) - (before[ref].busy if ref in before else 0)
            now = fresh[ref].peak if ref in fresh else 0
            highest = others + max(now, before[ref].busy if ref in before else 0)
            self._crests.setdefault(ref, _Crests()).add(now_s, highest)
        self._told[gateway] = (now_s, fresh)
        return _levels(before) != _levels(fresh)

    def drop(self, now_s: float) -> None:
        """Forget gateways that have not been heard for their lease."""
        for gateway in [g for g, (at_s, _) in self._told.items() if now_s - at_s > GATEWAY_LEASE_S]:
            self.note(gateway, {}, now_s)
            del self._told[gateway]

    def demand(self, idle_s: Mapping[Ref, float], now_s: float) -> dict[Ref, Demand]:
        """Return what is called for of these, each with the most of it in so many seconds."""
        self.drop(now_s)
        self._crests = {ref: each for ref, each in self._crests.items() if ref in idle_s}
        return {ref: self._demand(ref, idle, now_s) for ref, idle in idle_s.items()}

    def _demand(self, ref: Ref, idle_s: float, now_s: float) -> Demand:
        told = [(at_s, each[ref]) for at_s, each in self._told.values() if ref in each]
        crests = self._crests.get(ref)
        busy = sum(each.busy for _, each in told)
        return Demand(
            busy=busy,
            waiting=sum(each.waiting for _, each in told),
            wait_s=max((e.wait_s + now_s - at_s for at_s, e in told if e.waiting), default=0.0),
            peak=max(busy, crests.highest(now_s - idle_s) if crests else 0),
            known_s=max(0.0, now_s - self._known_from_s),
        )

    def _level(self, ref: Ref) -> int:
        return sum(each[ref].busy for _, each in self._told.values() if ref in each)


def _levels(told: Mapping[Ref, Told]) -> dict[Ref, tuple[int, int]]:
    return {ref: (each.busy, each.waiting) for ref, each in told.items()}
