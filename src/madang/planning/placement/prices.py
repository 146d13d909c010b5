"""What free parts of devices, and processors, are worth to the demands that are expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.fleet import Ints


@dataclass(frozen=True, slots=True)
class Prices:
    """Data, made by the linear programme now and then."""

    cpu: tuple[float, ...]
    """By kind: of one thousandth of a processor, in thousandths of a device."""
    room: tuple[NDArray[np.float64], ...]
    """By kind: worth of a device with so many thousandths free, 0 to 1000."""
    whole: tuple[int, ...]
    """By kind: units of one device."""

    @classmethod
    def none(cls, whole: Ints) -> Prices:
        """Return prices at which nothing is worth anything."""
        nothing = np.zeros(1001)
        units = tuple(int(w) for w in whole)
        return cls((0.0,) * len(units), (nothing,) * len(units), units)

    def worth(self, kind: int, free: Ints) -> NDArray[np.float64]:
        """[states] Worth of all devices of hosts with [states, devices] free units."""
        milli = np.maximum(free, 0) * 1000 // self.whole[kind]
        return np.asarray(self.room[kind][milli].sum(axis=1))
