"""How much of the devices that are free will have no processors left: what fragmentation can't see.

Fragmentation asks of each typical demand whether *one* more fits. A host with eight free devices
and processors for three such demands looks whole to it, though five of its devices will stay empty.
So this measure fills a host to the end, with demands that ask on average for as many processors by
device as all expected ones together do: devices for which none are left are *stranded*. What needs
many processors then goes where there are many for each free device, and what needs none, to hosts
whose devices are full. The fluid limit of packing in two dimensions; it has no constant to choose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.exact import on_grid
from madang.planning.placement.fleet import Ints
from madang.planning.placement.mix import Mix


class Stranding:
    """The measure for one mix."""

    def __init__(self, mix: Mix, whole: Sequence[int]) -> None:
        cpu = devices = 0
        for demand, count in mix.counts:
            if demand.devices:
                cpu += demand.cpu_milli * count
                devices += demand.milli(whole) * count
        self._devices_by_cpu = float(on_grid(devices / cpu if cpu else 0.0))
        """Thousandths of devices that a thousandth of a processor serves; 0: it is not known."""

    def of(self, free_milli: Ints, cpu_milli: Ints) -> NDArray[np.float64]:
        """[states] Thousandths of devices that will be stranded, of those free on hosts."""
        if not self._devices_by_cpu:
            return np.zeros(free_milli.shape)
        return np.maximum(free_milli - np.maximum(cpu_milli, 0) * self._devices_by_cpu, 0.0)
