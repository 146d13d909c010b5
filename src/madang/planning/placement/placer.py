"""Choosing a host: one row of a matrix of scores, and its largest entry.

The matrix has a row for each demand and a column for each host. Taking or giving back changes one
host, so it rewrites one column, mostly from memory; a choice is one `argmax` for each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from madang.planning.placement.columns import NOWHERE, Column, Columns
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Board, Fleet


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

    def choose(self, which: int, bonus: Sequence[float] = ()) -> Choice | None:
        """Choose for one of the demands; `bonus` is added by kind. None: it fits nowhere."""
        row, best, host = self.scores[which], NOWHERE, -1
        for part in self._slices:
            first = part.start + int(row[part].argmax())
            score = row[first] + (bonus[self._kind[first]] if bonus else 0.0)
            is_tie = score == best and score > NOWHERE and self._rank[first] < self._rank[host]
            if score > best or is_tie:
                best, host = score, first
        if host < 0:
            return None
        level = int(self._column[host].levels[which])
        return Choice(host, self.board.devices(host, self.demands[which], level))

    def take(self, which: int, choice: Choice) -> None:
        """Carry a choice out."""
        self.board.take(choice.host, self.demands[which], choice.devices)
        self.refresh(choice.host)

    def give(self, which: int, choice: Choice) -> None:
        """Undo a choice: its demand has gone."""
        self.board.give(choice.host, self.demands[which], choice.devices)
        self.refresh(choice.host)

    def sync(self, fleet: Fleet) -> None:
        """Go on from another state of the same hosts: only those that differ are scored anew."""
        board = self.board
        differs = (board.free != fleet.free).any(axis=1)
        differs |= board.cpu_milli != fleet.cpu_milli
        differs |= board.memory_mib != fleet.memory_mib
        board.cpu_milli[:], board.memory_mib[:] = fleet.cpu_milli, fleet.memory_mib
        board.free[:] = fleet.free
        for host in np.flatnonzero(differs):
            self.refresh(int(host))

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
            self._column[each] = column = self.look(each, self.board)
            self.scores[:, each] = column.scores
