"""What is to be placed, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Demand:
    """One replica, rank or pod. Two demands that are equal have equal choices."""

    cpu_milli: int
    memory_mib: int
    devices: int
    """On one node; 0: none."""
    parts: tuple[int, ...]
    """For each kind of the fleet, how much of each device, in the units of that kind; 0: not on
    that kind. Whatever people may say of vendor, model and memory has become this."""

    @property
    def kinds(self) -> tuple[int, ...]:
        """Return the kinds that it may run on; all of them if it needs no device."""
        return tuple(k for k, part in enumerate(self.parts) if part or not self.devices)

    def milli(self, wholes: Iterable[int]) -> int:
        """Return thousandths of devices that it takes, where that is most; units by kind."""
        shares = (part * 1000 // whole for part, whole in zip(self.parts, wholes, strict=True))
        return self.devices * max(shares, default=0)
