"""How much power hosts draw: the model of PWR.

Source: "A Power- and Fragmentation-aware Online Scheduler for GPU Datacenters" (CCGrid 2025, arXiv
2412.17484) and its repository Fr4nz83/PWR-plugin-kubernetes at 3bfd53fe: a device draws its idle
power until anything runs on it, and then its full power; processors are counted by whole packages.
Idle and full watts are data, by kind; a kind that is not known draws nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from madang.planning.placement.fleet import Ints, Kind
from madang.resources.power import PUBLISHED, Watts

MODELS = ("T4", "A10", "G2", "P100", "V100M16", "V100M32", "G3", "A100")
DEVICES = {model: PUBLISHED[f"nvidia/{model.lower()}"] for model in MODELS}
"""By the model names of the openb trace."""
PACKAGE = Watts(idle=120, full=205)
"""Of a 32-core package, of which the trace does not say the model."""
PACKAGE_MILLI = 64_000
"""Threads of one package, in thousandths."""


def extra_watts(kinds: Sequence[Kind]) -> list[float]:
    """By kind: what one device draws more once anything runs on it."""
    known = [DEVICES.get(kind.name) for kind in kinds]
    return [each.full - each.idle if each else 0.0 for each in known]


def watts(
    kinds: Sequence[Kind], kind: Ints, free: Ints, cpu_used_milli: Ints, cpu_milli: Ints
) -> float:
    """Return what a fleet draws: [hosts] kinds, [hosts, devices] free units, [hosts] processors."""
    idle = np.array([DEVICES[k.name].idle if k.name in DEVICES else 0.0 for k in kinds])[kind]
    full = np.array([DEVICES[k.name].full if k.name in DEVICES else 0.0 for k in kinds])[kind]
    whole = np.array([k.whole for k in kinds])[kind]
    count = (free >= 0).sum(axis=1)
    used = ((free >= 0) & (free < whole[:, None])).sum(axis=1)
    packages = -(-cpu_milli // PACKAGE_MILLI)
    busy = np.minimum(-(-cpu_used_milli // PACKAGE_MILLI), packages)
    devices = (count - used) * idle + used * full
    return float((devices + busy * PACKAGE.full + (packages - busy) * PACKAGE.idle).sum())
