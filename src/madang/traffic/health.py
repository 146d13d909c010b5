"""Which targets are left alone: by what requests met there, never by asking.

A target that failed is left alone for a while, then one request tries it: a half-open door. Time is
an argument, in seconds that only go forward.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from madang.traffic.limits import Limits
from madang.traffic.table import Target

Identity = tuple[str, int]


def identity(target: Target) -> Identity:
    """A replica that was placed anew starts with a clean record."""
    return target.uid, target.epoch


class _Record(Struct):
    """What is remembered of a target that failed last."""

    failures: int
    out_until: float
    trying: bool = False
    """One request is on its way to see whether the target is back."""


class Health:
    """The failures of one gateway's targets; nothing is kept of one that does well."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.failing: dict[Identity, _Record] = {}
        """Most often none at all."""

    def is_open(self, target: Target, now: float) -> bool:
        """Tell whether a target may be asked."""
        record = self.failing.get(identity(target))
        return record is None or (now >= record.out_until and not record.trying)

    def try_out(self, target: Target) -> None:
        """Note that a request goes there: if it failed before, it is the only one for now."""
        if record := self.failing.get(identity(target)):
            record.trying = True

    def end(self, target: Target) -> None:
        """Note that a request has left: whether it did well is told separately."""
        if record := self.failing.get(identity(target)):
            record.trying = False

    def praise(self, target: Target) -> None:
        """Remember that a target answered."""
        self.failing.pop(identity(target), None)

    def blame(self, target: Target, now: float) -> None:
        """Leave a target alone for a while, twice as long each time it fails in a row."""
        record = self.failing.setdefault(identity(target), _Record(0, now))
        record.failures += 1
        doubled = self._limits.out_s * 2 ** min(record.failures - 1, 16)
        record.out_until = now + min(doubled, self._limits.out_s_max)

    def wait_s(self, targets: Iterable[Target], now: float) -> float:
        """Return how long until the first of these failing targets may be tried again."""
        outs = [each.out_until for t in targets if (each := self.failing.get(identity(t)))]
        return max(0.0, min(outs, default=now) - now)

    def keep(self, known: set[Identity]) -> None:
        """Forget all others."""
        self.failing = {each: self.failing[each] for each in self.failing if each in known}
