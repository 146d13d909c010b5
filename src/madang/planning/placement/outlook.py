"""What is expected to come, and what follows from it: data, made now and then, and then read.

Plain numbers, so that it can be written down with the snapshot it is part of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Ints, Kind
from madang.planning.placement.prices import Prices
from madang.planning.placement.reserve import Group

if TYPE_CHECKING:  # the solver is heavy, and only who thinks needs it
    from madang.planning.placement.programme import Solution

LARGE = 1e-2
"""How much the size of a device counts beside what the programme says it is worth."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """For one fleet: a fleet of other kinds has none yet."""

    kinds: tuple[Kind, ...]
    capacity: tuple[int, ...]
    """Devices of each kind."""
    mix: tuple[tuple[Demand, int], ...]
    """What was counted on: each demand, and how often it was there."""
    cpu: tuple[float, ...]
    room: tuple[tuple[float, ...], ...]
    reserve: tuple[tuple[Group, tuple[float, ...]], ...]
    """As in `Solution`."""

    def prices(self) -> Prices:
        """Return the prices, with a little for size, so that small demands leave large devices."""
        size = Prices.by_size(self.kinds)
        room = tuple(
            np.array(own) + LARGE * by_size
            for own, by_size in zip(self.room, size.room, strict=True)
        )
        return Prices(self.cpu, room, tuple(kind.whole for kind in self.kinds))


def outlook_of(
    kinds: tuple[Kind, ...], capacity: Ints, mix: tuple[tuple[Demand, int], ...], found: Solution
) -> Outlook:
    """Write down what the programme found."""
    return Outlook(
        kinds, tuple(int(count) for count in capacity), mix,
        tuple(float(price) for price in found.prices.cpu),
        tuple(tuple(float(worth) for worth in room) for room in found.prices.room),
        tuple(sorted(found.reserve.items())),
    )  # fmt: skip
