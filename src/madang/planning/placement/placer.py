"""Choosing a host: one row of a matrix of scores, and its largest entry.

The matrix has a row for each demand and a column for each host. Taking or giving back changes one
host, so it rewrites one column, mostly from memory; a choice compares the largest of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from madang.planning.placement.columns import NOWHERE, Column, Columns
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Board, Fleet
from madang.planning.placement.peaks import Peaks


@dataclass(frozen=True, slots=True)
class Choice:
    """A host, and which of its devices."""

    host: int
    devices: tuple[int, ...]


class Placer:
    """A board and its matrix, kept in step."""

    def __init__(self, fleet: Fleet, demands: Sequence[Demand], columns: Columns) -> None:
        self.board, self.demands, self._columns = fleet.board(), demands, columns
        self._slices = [s for s in fleet.slices() if s.stop > s.start]
        self._rank, self._kind = fleet.rank, fleet.kind
        self._column: list[Column] = []
        self.scores = np.empty((len(demands), len(fleet.names)))
        self.restart(columns)

    def restart(self, columns: Columns) -> None:
        """Score everything anew: prices or the mix have changed."""
        self._columns = columns
        self._column = [self.look(host, self.board) for host in range(len(self._rank))]
        alike: dict[int, tuple[Column, list[int]]] = {}
        for host, column in enumerate(self._column):
            alike.setdefault(id(column), (column, []))[1].append(host)
        for column, hosts in alike.values():
            self.scores[:, hosts] = column.scores[:, None]
        self._peaks = Peaks(self.scores, self._slices)

    def choose(self, which: int, bonus: Sequence[float] = ()) -> Choice | None:
        """Choose for one of the demands; `bonus` is added by kind. None: it fits nowhere."""
        best, host = NOWHERE, -1
        for part, (score, block) in zip(self._slices, self._peaks.highest(which), strict=True):
            more = score + (bonus[self._kind[part.start]] if bonus else 0.0)
            if more > best or (more == best and more > NOWHERE):
                first = self._peaks.first(which, block)
                if more > best or self._rank[first] < self._rank[host]:
                    best, host = more, first
        if host < 0:
            return None
        level = int(self._column[host].levels[which])
        return Choice(host, self.board.devices(host, self.demands[which], level))

    def choose_but(self, which: int, bonus: Sequence[float], hosts: Sequence[int]) -> Choice | None:
        """Choose as if these hosts weren't there."""
        nowhere = np.full(len(self.demands), NOWHERE)
        for host in hosts:
            self._peaks.rewrite(host, self._column[host].scores, nowhere)
        try:
            return self.choose(which, bonus)
        finally:
            for host in hosts:
                self._peaks.rewrite(host, nowhere, self._column[host].scores)

    def take(self, which: int, choice: Choice) -> None:
        """Carry a choice out."""
        self.board.take(choice.host, self.demands[which], choice.devices)
        self.refresh(choice.host)

    def give(self, which: int, choice: Choice) -> None:
        """Undo a choice: its demand has gone."""
        self.board.give(choice.host, self.demands[which], choice.devices)
        self.refresh(choice.host)

    def sync(self, fleet: Fleet) -> bool:
        """Go on from another state of the same hosts; tell whether any of them differs.

        Only those that do are scored anew.
        """
        board = self.board
        differs = (board.free != fleet.free).any(axis=1)
        differs |= board.cpu_milli != fleet.cpu_milli
        differs |= board.memory_mib != fleet.memory_mib
        board.cpu_milli[:], board.memory_mib[:] = fleet.cpu_milli, fleet.memory_mib
        board.free[:] = fleet.free
        for host in np.flatnonzero(differs):
            self.refresh(int(host))
        return bool(differs.any())

    def column(self, host: int) -> Column:
        """Return what a host is worth as it is."""
        return self._column[host]

    def column_without(self, host: int, which: int, devices: Sequence[int]) -> Column:
        """Return what a host would be worth without one that runs there."""
        board, demand, kind = self.board, self.demands[which], int(self._kind[host])
        free = board.free[host].copy()
        for device in devices:
            free[device] += demand.parts[kind]
        cpu = int(board.cpu_milli[host]) + demand.cpu_milli
        memory = int(board.memory_mib[host]) + demand.memory_mib
        return self._columns.column(kind, cpu, memory, free)

    def look(self, host: int, board: Board) -> Column:
        """Return what a host is worth as it is on a board."""
        return self._columns.column(
            int(self._kind[host]),
            int(board.cpu_milli[host]),
            int(board.memory_mib[host]),
            board.free[host],
        )

    def refresh(self, host: int) -> None:
        """Score a host anew, and those that share with it."""
        for each in self.board.start.of_node(host):
            old, column = self._column[each], self.look(each, self.board)
            if column is not old:
                self._column[each] = column
                self._peaks.rewrite(each, old.scores, column.scores)
