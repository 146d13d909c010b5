"""How much pools with a limit draw, and how many devices more may come to work in them.

The model of PWR (see `placement.power`): a device draws its idle power until anything runs on it,
and then its full power. So what joins others on a device that works costs nothing. Accelerators
alone are counted: processors only where somebody has said what they draw. Those whose figure nobody
knows count as nothing; nothing is placed on them where there is a limit.

Whole thousandths of watts, so that a sum does not depend on how it came about.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from madang.planning.ask import NO_CAP
from madang.planning.layout import Layout
from madang.planning.placement.demand import Demand
from madang.planning.placement.fit import enough, fitting
from madang.planning.placement.fleet import Board, Bools, Fleet, Ints
from madang.planning.placement.placer import Choice

MANY = 2**31
"""Devices, where nothing holds back how many may work."""


class Draw:
    """What works, by stock, kept in step with a board; without any limit it counts nothing."""

    def __init__(self, layout: Layout) -> None:
        fleet, self._stocks = layout.fleet, layout.stocks
        self.caps = {s.pool: s.cap_mw for s in self._stocks if s.cap_mw != NO_CAP}
        """What each pool with a limit may draw."""
        self._whole, self._kind = fleet.free, fleet.kind
        self._beside: Counter[str] = Counter()
        """What draws in these pools beside what is laid out, and all that is idle."""
        self._of_pool: dict[str, list[int]] = {pool: [] for pool in self.caps}
        for k, stock in enumerate(self._stocks):
            if stock.pool in self.caps and stock.more_mw > 0:
                self._of_pool[stock.pool].append(k)
        if self.caps:
            for stock, devices in zip(self._stocks, fleet.capacity, strict=True):
                self._beside[stock.pool] += max(0, stock.idle_mw) * int(devices)
        self.count(fleet)

    def count(self, free: Fleet | Board) -> None:
        """Count anew what works."""
        if self.caps:
            self._busy = (free.free < self._whole).sum(axis=1)
            used = np.bincount(self._kind, self._busy, len(self._stocks))
            self._used = [int(devices) for devices in used]

    def note(self, host: int, board: Board) -> None:
        """Count anew what works on one host."""
        if self.caps:
            now = int((board.free[host] < self._whole[host]).sum())
            self._used[self._kind[host]] += now - int(self._busy[host])
            self._busy[host] = now

    def join(self, other: Draw) -> None:
        """Count what draws elsewhere in the same pools."""
        self._beside.update({pool: other.mw(pool) for pool in self.caps if pool in other.caps})

    def mw(self, pool: str) -> int:
        """Return what a pool with a limit draws now."""
        works = (self._stocks[k].more_mw * self._used[k] for k in self._of_pool[pool])
        return self._beside[pool] + sum(works)

    def is_within(self) -> bool:
        """Tell whether no pool draws more than it may."""
        return all(self.mw(pool) <= cap for pool, cap in self.caps.items())

    def fresh(self, kind: int) -> int:
        """Return how many devices of a kind more may begin to work."""
        stock = self._stocks[kind]
        cap = self.caps.get(stock.pool)
        if cap is None or stock.more_mw <= 0:
            return MANY
        return max(0, cap - self.mw(stock.pool)) // stock.more_mw

    def tight(self, demand: Demand) -> dict[int, int]:
        """Return the kinds of which fewer may begin to work than a demand has devices."""
        left = {k: self.fresh(k) for k in demand.kinds} if self.caps else {}
        return {k: count for k, count in left.items() if count < demand.devices}

    def allowed(self, board: Board, demand: Demand) -> Bools | None:
        """[hosts] Whether a demand takes no pool above its limit there; None: it nowhere does."""
        tight = self.tight(demand)
        if not tight:
            return None
        left = np.array([tight.get(k, MANY) for k in range(len(self._stocks))])
        return np.asarray(self._begins(board, demand) <= left[self._kind])

    def _begins(self, board: Board, demand: Demand) -> Ints:
        """[hosts] How many devices would begin to work there, if as few as can be did."""
        working = enough(board, demand) & (board.free < self._whole)
        return np.asarray(np.maximum(demand.devices - working.sum(axis=1), 0))

    def may_follow(self, board: Board, demand: Demand, left: Choice, gone: Demand) -> bool:
        """Tell whether a demand may begin on a host once another has left devices there."""
        host, kind = left.host, int(self._kind[left.host])
        if self._stocks[kind].pool not in self.caps:
            return True
        row = board.free[host].copy()
        row[list(left.devices)] += gone.parts[kind]
        works = row < self._whole[host]
        joins = int((works & (row >= demand.parts[kind])).sum())
        return demand.devices - joins <= self.fresh(kind) + int(self._busy[host] - works.sum())

    def devices(self, board: Board, host: int, demand: Demand) -> tuple[int, ...]:
        """Return devices of a host for a demand, first those that work, of these the fullest."""
        row, part = board.free[host], demand.parts[self._kind[host]]
        order = np.lexsort((row, row >= self._whole[host]))
        return tuple(int(i) for i in order[row[order] >= part][: demand.devices])

    def within(self, board: Board) -> Ints:
        """[hosts, devices] What is free where no more begin to work than their pool may draw."""
        if not self.caps:
            return board.free
        left = np.array([self.fresh(k) for k in range(len(self._stocks))])[self._kind]
        rests = board.free >= self._whole
        beyond = rests & (rests.cumsum(axis=1) > left[:, None])
        return np.asarray(np.where(beyond, np.minimum(board.free, 0), board.free))

    def least_mw(self, pool: str, board: Board, demand: Demand) -> int | None:
        """Return the least that a demand would add to what a pool draws; None: it fits nowhere."""
        more = np.array([s.more_mw if s.pool == pool else -1 for s in self._stocks])[self._kind]
        adds = (self._begins(board, demand) * more)[fitting(board, demand) & (more >= 0)]
        return int(adds.min()) if len(adds) else None
