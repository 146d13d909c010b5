"""How much of what is free nobody will be able to use: the measure of FGD.

Source: "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient
Descent", Weng et al., USENIX ATC 2023. For one host and one typical demand, what is free and
can't serve that demand is a fragment: all of it if the demand can't run there, else the devices
too small for it. A host's fragmentation is the sum over the mix, by how often each comes. Demands
without a device can use no device, so all is a fragment to them, as in the published program.

Everything is exact: devices in thousandths, demands by their counts. So two ways to compute the
same score can't differ, and a floor can't flip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from madang.planning.placement.fleet import Ints, Kind
from madang.planning.placement.mix import Mix

MILLI = 1000


class Fragmentation:
    """The measure for one mix, by kind, what devices have free, and free processors.

    Processors count only by which typical demands they are enough for: the *bucket* of a host is
    the number of distinct processor demands, in order, that it could meet.
    """

    def __init__(self, mix: Mix, kinds: Sequence[Kind]) -> None:
        with_devices = [(d, count) for d, count in mix.counts if d.devices]
        with_devices.sort(key=lambda item: item[0].cpu_milli)
        cpu = np.array([d.cpu_milli for d, _ in with_devices], np.int64)
        self.thresholds, starts = np.unique(cpu, return_index=True)
        """[buckets] The distinct processor demands."""
        self.mix, self.total = mix, mix.total
        self._starts = starts
        self._counts = np.array([count for _, count in with_devices], np.int64)
        self._devices = np.array([d.devices for d, _ in with_devices], np.int64)
        self._whole = [kind.whole for kind in kinds]
        self._parts, self._which, self._may = [], [], []
        for k in range(len(kinds)):
            parts = np.array([d.parts[k] for d, _ in with_devices], np.int64)
            distinct, which = np.unique(parts, return_inverse=True)
            self._parts.append(distinct)
            self._which.append(which)
            self._may.append(parts > 0)

    def bucket(self, cpu_milli: Ints) -> Ints:
        """Return the buckets of that many free processors."""
        return self.thresholds.searchsorted(cpu_milli, side="right")

    def table(self, kind: int, free: Ints) -> Ints:
        """[states, buckets + 1] The fragmentation of hosts with [states, devices] free units.

        In thousandths of a device, times the mix's total.
        """
        there = np.maximum(free, 0) * MILLI // self._whole[kind]
        total = there.sum(axis=1)
        out = np.repeat(total[:, None] * self.total, len(self.thresholds) + 1, axis=1)
        if not len(self._counts):
            return out
        fits = free[:, :, None] >= self._parts[kind]
        many = fits.sum(axis=1)[:, self._which[kind]]
        useful = (there[:, :, None] * fits).sum(axis=1)[:, self._which[kind]]
        can = (many >= self._devices) & self._may[kind]
        gain = np.where(can, useful * self._counts, 0)
        out[:, 1:] -= np.cumsum(np.add.reduceat(gain, self._starts, axis=1), axis=1)
        return out
