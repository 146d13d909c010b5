"""Figures on a grid, so that what is added up of them is exact, in whatever order.

Equal scores go to the first name. Two hosts that are worth the same must then score the same to the
last bit, though their scores were added up along different ways; in any fractions they would not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

GRID = 2.0**-32
"""In thousandths of a device. Whole multiples of a quarter of it are exact up to half a million."""


def on_grid(figures: ArrayLike) -> NDArray[np.float64]:
    """Return the nearest figures that are whole multiples of the grid."""
    return np.round(np.asarray(figures, np.float64) / GRID) * GRID
