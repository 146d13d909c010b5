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


def rooms(board: Board, demand: Demand, most: int) -> Ints:
    """[hosts] How many of the demand, up to `most`, each host has room for.

    Exact for demands of whole devices, of one device, or of none; else what can't be exceeded.
    Hosts of one node share its room: what the first has, the others have not.
    """
    out = np.full(len(board.cpu_milli), most, np.int64)
    for free, asked in ((board.cpu_milli, demand.cpu_milli), (board.memory_mib, demand.memory_mib)):
        out = np.minimum(out, free // asked if asked else np.where(free < 0, 0, most))
    of_node = out.copy()
    if demand.devices:
        out = np.minimum(out, _device_rooms(board, demand, most))
    for host, group in board.start.siblings.items():
        if host == group[0]:
            left = of_node[host]
            for each in group:
                out[each] = min(out[each], left)
                left -= out[each]
    return np.maximum(out, 0)


def _device_rooms(board: Board, demand: Demand, most: int) -> Ints:
    """[hosts] For how many of the demand there are devices."""
    parts = parts_of(board, demand)[:, None]
    slots = np.where(parts > 0, np.maximum(board.free, 0) // np.maximum(parts, 1), 0)
    if demand.devices == 1:
        return np.asarray(np.minimum(slots.sum(axis=1), most))
    out = np.zeros(len(slots), np.int64)
    for times in range(1, min(most, int(slots.sum(axis=1).max(initial=0)) // demand.devices) + 1):
        out[np.minimum(slots, times).sum(axis=1) >= times * demand.devices] = times
    return out
