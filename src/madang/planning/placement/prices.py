"""What free parts of devices, and processors, are worth to the demands that are expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.exact import on_grid
from madang.planning.placement.fleet import Ints, Kind


@dataclass(frozen=True, slots=True)
class Prices:
    """Data, made by the linear programme now and then."""

    cpu: tuple[float, ...]
    """By kind: of one thousandth of a processor, in thousandths of a device."""
    room: tuple[NDArray[np.float64], ...]
    """By kind: worth of a device with so many thousandths free, 0 to 1000."""
    whole: tuple[int, ...]
    """By kind: units of one device."""

    def __post_init__(self) -> None:
        """Put all prices on the grid."""
        object.__setattr__(self, "cpu", tuple(map(float, on_grid(self.cpu))))
        object.__setattr__(self, "room", tuple(map(on_grid, self.room)))

    @classmethod
    def none(cls, whole: Ints) -> Prices:
        """Return prices at which nothing is worth anything."""
        nothing = np.zeros(1001)
        units = tuple(int(w) for w in whole)
        return cls((0.0,) * len(units), (nothing,) * len(units), units)

    @classmethod
    def by_size(cls, kinds: Sequence[Kind]) -> Prices:
        """Return prices with no forecast: what is taken costs as much as its memory.

        So a small demand leaves the large devices to those that need them. The largest costs as
        many thousandths as it has.
        """
        largest = max((kind.size for kind in kinds), default=1)
        room = tuple(np.linspace(0, 1000 * kind.size / largest, 1001) for kind in kinds)
        return cls((0.0,) * len(room), room, tuple(kind.whole for kind in kinds))

    def worth(self, kind: int, free: Ints) -> NDArray[np.float64]:
        """[states] Worth of all devices of hosts with [states, devices] free units."""
        milli = np.maximum(free, 0) * 1000 // self.whole[kind]
        return np.asarray(self.room[kind][milli].sum(axis=1))
