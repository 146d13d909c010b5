"""Few moves of what runs already, so that more fits: the larger part of what packing can gain.

A move is worth what the states of both hosts are worth after it, less what they are worth before:
`Column.value`, and our scores are its gains (FGD's are not, so nothing is moved by FGD). Two kinds
of move, both needed: `improve` tidies up when nothing is wrong, `make_room` helps one demand in
that fits nowhere by moving one other away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from madang.planning.placement.columns import NOWHERE, Column
from madang.planning.placement.placer import Choice, Placer

WORTH_MIN = 5.0
"""Thousandths of a device that a move must gain."""

Room = Callable[[int, int], bool]
"""Whether one of the demands may be moved to a kind: the reserve has room for it there."""


def _anywhere(_which: int, _kind: int) -> bool:
    return True


Way = tuple[float, int, int, Choice, int]
"""A move that would make room: what it gains, key, number of the demand, from where, to which."""


@dataclass(frozen=True, slots=True)
class Move:
    """One running demand, from a host to another."""

    key: int
    which: int
    source: Choice
    goal: Choice


class Mover:
    """What runs and may be moved, and the gain of each way to do so."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        shape = placer.scores.shape
        self._kind = placer.board.start.kind
        self._slices = [s for s in placer.board.start.slices() if s.stop > s.start]
        self._here: list[dict[int, tuple[int, Choice]]] = [{} for _ in range(shape[1])]
        self._leave = np.full(shape, NOWHERE)
        """[demands, hosts] What a host gains when its best such demand leaves."""
        self._join = np.full(shape, NOWHERE)
        """[demands, hosts] What a host gains when such a demand comes."""
        self._opens = np.zeros(shape, np.bool_)
        """[demands, hosts] Whether such a demand would fit if one that is there left."""
        self._dirty = set(range(shape[1]))
        self._hopeless = set[int]()
        """Demands for which no move made room, and nothing has left a host since."""

    def add(self, key: int, which: int, choice: Choice) -> None:
        """Note what runs now and may be moved."""
        self._here[choice.host][key] = which, choice
        self._dirty.add(choice.host)

    def remove(self, key: int, choice: Choice) -> None:
        """Note that it has gone."""
        self._hopeless.clear()
        self._here[choice.host].pop(key, None)
        self._dirty.add(choice.host)

    def restart(self) -> None:
        """Look at everything anew: worth has changed."""
        self._dirty = set(range(len(self._here)))
        self._hopeless.clear()

    def improve(self, moves_max: int, room: Room) -> Iterator[Move]:
        """Make the best moves, one after the other, while they gain enough; each is carried out."""
        for _ in range(moves_max):
            self._refresh()
            found = self._best(room)
            if not found:
                return
            which, source, goal = found
            key, choice = self._who(which, source)
            level = int(self._placer.column(goal).levels[which])
            demand = self._placer.demands[which]
            target = Choice(goal, self._placer.board.devices(goal, demand, level))
            yield self._carry(Move(key, which, choice, target))

    def make_room(self, which: int, room: Room) -> Move | None:
        """Move one away, if that lets one of the demands in that fits nowhere; carried out."""
        ways = [] if which in self._hopeless else self.ways(which, room)
        if not ways:
            self._hopeless.add(which)
            return None
        _, key, other, choice, goal = ways[0]
        placer = self._placer
        level = int(placer.column(goal).levels[other])
        devices = placer.board.devices(goal, placer.demands[other], level)
        return self._carry(Move(key, other, choice, Choice(goal, devices)))

    def ways(self, which: int, room: Room = _anywhere) -> list[Way]:
        """Return the moves that would make room, best first; of those that are alike, the first."""
        self._refresh()
        placer, found = self._placer, list[Way]()
        alike: dict[tuple[int, int, int], Column] = {}
        for host, key, other, choice, without in self._leaving(which):
            column = placer.column(host)
            mark = id(column), id(without), other
            target = None if mark in alike else self._elsewhere(other, host, room)
            if target is not None:
                alike[mark] = without
                own = without.value - column.value + without.scores[which]
                found.append((own + float(self._join[other, target]), key, other, choice, target))
        return sorted(found, key=lambda way: -way[0])

    def _leaving(self, which: int) -> Iterator[tuple[int, int, int, Choice, Column]]:
        """Return every running demand without which there would be room on its host."""
        board = self._placer.board
        may_go = self._join.max(axis=1) > NOWHERE
        for host in np.flatnonzero(self._opens[which]):
            seen = set[tuple[int, ...]]()
            for key, (other, choice) in self._here[host].items():
                mark = (other, *(int(board.free[host, d]) for d in choice.devices))
                if mark in seen or not may_go[other]:
                    continue
                seen.add(mark)
                without = self._placer.column_without(int(host), other, choice.devices)
                if without.scores[which] > NOWHERE:
                    yield int(host), key, other, choice, without

    def _elsewhere(self, which: int, host: int, room: Room) -> int | None:
        """Return the best other host for one of the demands."""
        best, found, own = NOWHERE, None, int(self._kind[host])
        for part in self._slices:
            kind = int(self._kind[part.start])
            if kind != own and not room(which, kind):
                continue
            row = self._join[which, part]
            if part.start <= host < part.stop:
                row = row.copy()
                row[host - part.start] = NOWHERE
            i = int(row.argmax())
            if row[i] > best:
                best, found = row[i], part.start + i
        return found

    def _best(self, room: Room) -> tuple[int, int, int] | None:
        """Return the best move: (demand, from, to)."""
        leave, join = self._peaks(self._leave), self._peaks(self._join)
        best, found = WORTH_MIN, None
        for a, (from_host, loss) in enumerate(leave):
            for b, (to_host, gain) in enumerate(join):
                total = np.where(from_host != to_host, loss + gain, NOWHERE)
                for which in np.argsort(-total)[:8]:
                    if total[which] <= best:
                        break
                    kind = int(self._kind[self._slices[b].start])
                    if a == b or room(int(which), kind):
                        best = total[which]
                        found = int(which), int(from_host[which]), int(to_host[which])
                        break
        return found

    def _peaks(self, matrix: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """By kind: for each demand the host with the largest entry, and that entry."""
        out = []
        rows = np.arange(matrix.shape[0])
        for part in self._slices:
            at = matrix[:, part].argmax(axis=1) + part.start
            out.append((at, matrix[rows, at]))
        return out

    def _who(self, which: int, host: int) -> tuple[int, Choice]:
        placer = self._placer
        mine = [(k, c) for k, (w, c) in self._here[host].items() if w == which]
        return max(
            mine, key=lambda kc: (placer.column_without(host, which, kc[1].devices).value, -kc[0])
        )

    def _carry(self, move: Move) -> Move:
        self._placer.give(move.which, move.source)
        self._placer.take(move.which, move.goal)
        self.remove(move.key, move.source)
        self.add(move.key, move.which, move.goal)
        return move

    def _refresh(self) -> None:
        for host in self._dirty:
            column = self._placer.column(host)
            self._join[:, host] = column.scores
            self._leave[:, host] = NOWHERE
            self._opens[:, host] = False
            seen = set[tuple[int, ...]]()
            free = self._placer.board.free[host]
            for which, choice in self._here[host].values():
                mark = (which, *(int(free[d]) for d in choice.devices))
                if mark not in seen:
                    seen.add(mark)
                    without = self._placer.column_without(host, which, choice.devices)
                    self._opens[:, host] |= without.scores > NOWHERE
                    gain = without.value - column.value
                    self._leave[which, host] = max(self._leave[which, host], gain)
        self._dirty.clear()
