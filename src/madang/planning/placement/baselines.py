"""The rules that others place by, written anew from their published code to be measured against.

Source of all but `random_host`'s draws: the simulator of "Beware of Fragmentation" (Weng et al.,
USENIX ATC 2023), repository hkust-adsl/kubernetes-scheduler-simulator at 8f3d6417. A rule returns
a score for each host, 0 to 100, more is better; equal scores go to the host whose name comes first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.demand import Demand
from madang.planning.placement.fit import enough, parts_of
from madang.planning.placement.fleet import Board, Ints

CPU_MOST_MILLI = 128_000
DEVICES_MOST = 8
"""The largest node of the published fleet: the rules' unit."""

Rule = Callable[[Board, Demand, Ints], NDArray[np.float64]]
"""Of the board, a demand, and for each host how many running demands of each size it has."""


def _free_and_asked(board: Board, demand: Demand) -> tuple[NDArray[np.float64], ...]:
    """[hosts] Free and asked devices, counted in whole ones."""
    whole = board.start.whole[board.start.kind]
    free = np.where(board.free > 0, board.free, 0).sum(axis=1) / whole
    return free, parts_of(board, demand) * demand.devices / whole


def best_fit(board: Board, demand: Demand, _sizes: Ints) -> NDArray[np.float64]:
    """Prefer the host that is fullest once the demand is there."""
    free, asked = _free_and_asked(board, demand)
    left_cpu = (board.cpu_milli - demand.cpu_milli) / CPU_MOST_MILLI
    return np.floor(100 * (1 - 0.5 * left_cpu - 0.5 * (free - asked) / DEVICES_MOST))


def dot_product(board: Board, demand: Demand, _sizes: Ints) -> NDArray[np.float64]:
    """Prefer the host whose free resources point least along the demand (Tetris, with its sign)."""
    free, asked = _free_and_asked(board, demand)
    dot = board.cpu_milli / CPU_MOST_MILLI * demand.cpu_milli / CPU_MOST_MILLI
    dot = dot + free / DEVICES_MOST * asked / DEVICES_MOST
    return np.floor(100 * (1 - dot / 2))


def packing(board: Board, demand: Demand, _sizes: Ints) -> NDArray[np.float64]:
    """Prefer devices in use over free devices of a host in use over an empty host."""
    hosts = np.arange(len(board.cpu_milli))
    if not demand.devices:
        return np.zeros(len(hosts))
    whole = board.start.whole[board.start.kind]
    real = board.free >= 0
    unused = (board.free == whole[:, None]) & real
    count, unused_count = real.sum(axis=1), unused.sum(axis=1)
    room = np.where(enough(board, demand), board.free, np.iinfo(np.int64).max)
    tightest = np.sort(room, axis=1)[:, : demand.devices]
    fresh = (tightest == whole[:, None]).sum(axis=1)
    shares = (np.where(tightest <= whole[:, None], tightest, 0) * 100 // whole[:, None]).sum(axis=1)
    shared = np.maximum(100 - shares // 10, 50)
    score = np.where(fresh > 0, np.maximum(50 - fresh, 33), shared)
    empty = np.maximum(33 - unused_count, unused_count)
    return np.asarray(np.where(unused_count == count, empty, score), np.float64)


def clustering(board: Board, demand: Demand, sizes: Ints) -> NDArray[np.float64]:
    """Prefer hosts that run demands of the same size, best nothing else."""
    if not demand.devices:
        return np.zeros(len(board.cpu_milli))
    free, _ = _free_and_asked(board, demand)
    fullness = np.floor(25 * (DEVICES_MOST - free) / DEVICES_MOST)
    variety = (sizes > 0).sum(axis=1)
    own = sizes[:, size_of(demand, board)] > 0
    step = np.where(own, np.where(variety == 1, 75, 50), np.where(variety == 0, 25, 0))
    return fullness + step


SIZES = 2 + 2 * DEVICES_MOST
"""None, a share of one, and whole ones: 1, 2, …"""


def size_of(demand: Demand, board: Board) -> int:
    """Return which size a demand has for `clustering`."""
    is_share = any(0 < p < k.whole for p, k in zip(demand.parts, board.start.kinds, strict=True))
    return demand.devices and (1 if is_share else min(demand.devices + 1, SIZES - 1))


RULES: dict[str, Rule] = {
    "best-fit": best_fit,
    "dot-product": dot_product,
    "packing": packing,
    "clustering": clustering,
}
