"""Where a demand could go: the hard rules, host by host."""

from __future__ import annotations

import numpy as np

from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Board, Bools, Ints

FITS = 0
WRONG_KIND = 1
CPU = 2
MEMORY = 3
DEVICES = 4
"""The filters in the order in which they are asked."""


def parts_of(board: Board, demand: Demand) -> Ints:
    """[hosts] What the demand takes of each device there; 0: nothing, or not on that kind."""
    return np.array(demand.parts, np.int64)[board.start.kind]


def enough(board: Board, demand: Demand) -> Bools:
    """[hosts, devices] Whether each device has room for the demand's part of it."""
    parts = parts_of(board, demand)[:, None]
    return (board.free >= parts) & (parts > 0)


def fitting(board: Board, demand: Demand) -> Bools:
    """[hosts] Whether the demand could go there."""
    fits = (board.cpu_milli >= demand.cpu_milli) & (board.memory_mib >= demand.memory_mib)
    if demand.devices:
        fits &= enough(board, demand).sum(axis=1) >= demand.devices
    return fits


def first_filter(board: Board, demand: Demand) -> Ints:
    """[hosts] The first filter that each host falls to; `FITS` for those that fit."""
    fell = np.full(len(board.cpu_milli), FITS, np.int64)
    if demand.devices:
        fell[enough(board, demand).sum(axis=1) < demand.devices] = DEVICES
    fell[board.memory_mib < demand.memory_mib] = MEMORY
    fell[board.cpu_milli < demand.cpu_milli] = CPU
    if demand.devices:
        fell[parts_of(board, demand) == 0] = WRONG_KIND
    return fell
