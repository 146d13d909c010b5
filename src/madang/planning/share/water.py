"""What each project is entitled to of what there is now.

First what it is guaranteed, as far as it has use for it; then the rest by weight, as far as each
has use for its part: water into vessels of unlike width and height, which all stand at one level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from madang.planning.share.line import Floats


@dataclass(frozen=True, slots=True)
class Claims:
    """What projects may ask of a pool, in accelerators; an entry each, in the order of names."""

    weight: Floats
    """Above nought."""
    guaranteed: Floats
    """Quota that it has whenever it has use for it."""
    most: Floats
    """It never holds more; infinite where nobody says."""

    @classmethod
    def even(cls, projects: int) -> Claims:
        """Return those of projects that count for the same, and are promised nothing."""
        return cls(np.ones(projects), np.zeros(projects), np.full(projects, np.inf))

    def entitled(self, demand: Floats, capacity: float) -> Floats:
        """Return what each is entitled to, given what each could use."""
        could, sure = np.minimum(demand, self.most), self.sure(demand, capacity)
        return sure + poured(could - sure, self.weight, capacity - float(sure.sum()))

    def sure(self, demand: Floats, capacity: float) -> Floats:
        """Return what of that it is guaranteed."""
        sure = np.minimum(np.minimum(demand, self.most), self.guaranteed)
        return poured(sure, np.maximum(self.guaranteed, 1e-9), capacity) if sure.any() else sure


def poured(room: Floats, width: Floats, amount: float) -> Floats:
    """Pour an amount into vessels: none above its room, the others at one level.

    >>> poured(np.array([1.0, 9.0, 9.0]), np.array([1.0, 1.0, 2.0]), 10.0).tolist()
    [1.0, 3.0, 6.0]
    """
    height = room / width
    order = np.argsort(height, kind="stable")
    filled = np.cumsum(room[order])
    left = np.cumsum(width[order][::-1])[::-1]
    level = (amount - filled + room[order]) / left
    over = height[order] > level
    if not over.any():
        return room
    at = max(0.0, float(level[np.argmax(over)]))
    return np.minimum(room, width * at)
