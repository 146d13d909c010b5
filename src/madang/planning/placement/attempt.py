"""Trying several demands at once on some of the hosts, on a copy of the board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from madang.planning.placement import fit
from madang.planning.placement.columns import NOWHERE, Column, Floats
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Ints
from madang.planning.placement.placer import Choice, Placer


@dataclass(frozen=True, slots=True)
class Way:
    """Who found room where; perhaps not everyone."""

    score: float
    """The sum of their scores."""
    taken: tuple[tuple[int, Choice], ...]
    """(which of the distinct demands, choice)"""


class Attempts:
    """A copy of a placer's board, and what each host could do for each of the demands.

    [hosts] `node`: each demand is to have one by itself, and none that is unknown (less than 0);
    None: they may share. `bonus` is added to scores by kind.
    """

    def __init__(
        self, placer: Placer, members: Sequence[Demand], node: Ints | None, bonus: Sequence[float]
    ) -> None:
        self.board = placer.board.fleet().board()
        start, counts = self.board.start, Counter(members)
        rooms = {d: fit.rooms(self.board, d, n) for d, n in counts.items()}
        self.demands = sorted(counts, key=lambda d: (int(rooms[d].sum()), d))
        """The distinct ones; what has least room goes first."""
        self.which = [placer.demands.index(d) for d in self.demands]
        """Their numbers among the demands of the placer."""
        self.need = np.array([counts[d] for d in self.demands], np.int64)[:, None]
        """[demands, 1] How many of each there are."""
        self._placer, self._node = placer, node
        self._bonus = np.array(bonus)[start.kind] if bonus else np.zeros(len(start.kind))
        self.scores: Floats = placer.scores[self.which] + self._bonus
        """[demands, hosts] Of the first on each host."""
        self.rooms = np.stack([rooms[d] for d in self.demands])
        """[demands, hosts] For how many each host has room, if there were nothing else."""
        if node is not None:
            self.scores[:, node < 0] = NOWHERE
            self.rooms = np.stack([_best_of_node(node, each, start.rank) for each in self.scores])

    def attempt(self, hosts: Ints) -> Way:
        """Try it: one after the other gets the host with the best score, of equal ones the first.

        What was taken stays taken until `undo`.
        """
        board, scores, total = self.board, self.scores[:, hosts], 0.0
        at, taken = {int(host): i for i, host in enumerate(hosts)}, list[tuple[int, Choice]]()
        columns = dict[int, Column]()
        for number, demand in enumerate(self.demands):
            for _ in range(int(self.need[number, 0]) if at else 0):
                best = int(scores[number].argmax())
                if scores[number, best] == NOWHERE:
                    break
                total += float(scores[number, best])
                host = int(hosts[best])
                column = columns.get(host) or self._placer.column(host)
                level = int(column.levels[self.which[number]])
                choice = Choice(host, board.devices(host, demand, level))
                board.take(host, demand, choice.devices)
                taken.append((number, choice))
                for each in board.start.of_node(host):
                    columns[each] = column = self._placer.look(each, board)
                    if each in at:
                        scores[:, at[each]] = column.scores[self.which] + self._bonus[each]
                if self._node is not None:
                    scores[:, self._node[hosts] == self._node[host]] = NOWHERE
        return Way(total, tuple(taken))

    def undo(self, way: Way) -> None:
        """Give back what an attempt took."""
        for number, choice in way.taken:
            self.board.give(choice.host, self.demands[number], choice.devices)


def _best_of_node(node: Ints, scores: Floats, rank: Ints) -> Ints:
    """[hosts] 1 for the best host with room of each node, else 0."""
    order = np.lexsort((rank, -scores))
    order = order[scores[order] > NOWHERE]
    _, first = np.unique(node[order], return_index=True)
    out = np.zeros(len(scores), np.int64)
    out[order[first]] = 1
    return out
