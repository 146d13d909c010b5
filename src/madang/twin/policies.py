"""The ways to place that a replay compares, each from the very code that plans.

`madang` is ours; `fgd` is the best that is published; the others are what is common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from madang.planning.placement.baselines import RULES, SIZES, Rule, size_of
from madang.planning.placement.columns import FGD, MADANG, Columns
from madang.planning.placement.demand import Demand
from madang.planning.placement.fit import fitting
from madang.planning.placement.fleet import Board, Fleet
from madang.planning.placement.fragmentation import MILLI, Fragmentation
from madang.planning.placement.mix import Mix
from madang.planning.placement.moves import Mover
from madang.planning.placement.placer import Choice, Placer
from madang.planning.placement.prices import Prices
from madang.planning.placement.programme import Programme
from madang.planning.placement.reserve import Reserve

MOVES_EVERY = 100
"""Arrivals between two times to tidy up."""
REFIT_EVERY = 800
REFITS = (100, 200, 400, 800, 1200)
"""Arrivals after which a mix that is learnt is taken anew; then every `REFIT_EVERY`."""


class Policy(Protocol):
    """One way to place, on a fleet of its own."""

    board: Board
    moves: int

    def arrive(self, which: int) -> bool:
        """Place one of the demands, or turn it away."""
        ...


class Ruled:
    """One of the published rules, asked of every host each time."""

    def __init__(self, fleet: Fleet, demands: Sequence[Demand], rule: Rule) -> None:
        self.board, self.moves = fleet.board(), 0
        self._demands, self._rule, self._rank = demands, rule, fleet.rank
        self._sizes = np.zeros((len(fleet.names), SIZES), np.int64)

    def arrive(self, which: int) -> bool:
        """Place it on the host with the best score."""
        demand, board = self._demands[which], self.board
        fits = fitting(board, demand)
        if not fits.any():
            return False
        scores = np.where(fits, self._rule(board, demand, self._sizes), -np.inf)
        best = np.flatnonzero(scores == scores.max())
        host = int(best[self._rank[best].argmin()])
        board.take(host, demand, board.devices(host, demand) if demand.devices else ())
        if demand.devices:
            self._sizes[host, size_of(demand, board)] += 1
        return True


class Drawn:
    """Any host with room, by lot, and the fullest of its devices."""

    def __init__(self, fleet: Fleet, demands: Sequence[Demand], seed: int) -> None:
        self.board, self.moves, self._demands = fleet.board(), 0, demands
        self._draw = np.random.default_rng(seed)

    def arrive(self, which: int) -> bool:
        """Place it on a host drawn at random."""
        demand, board = self._demands[which], self.board
        fits = np.flatnonzero(fitting(board, demand))
        if not len(fits):
            return False
        host = int(self._draw.choice(fits))
        board.take(host, demand, board.devices(host, demand) if demand.devices else ())
        return True


@dataclass(frozen=True, slots=True)
class Foresight:
    """What a policy is told of what will come."""

    known: Counter[Demand] | None
    """The whole list; None: it learns from what has come."""


@dataclass(frozen=True, slots=True)
class Ours:
    """What is set of our own way to place."""

    moves_per_100: int = 0
    """Running ones that may be moved for every 100 arrivals."""
    watts: float = 0.0
    """Thousandths of a device that a watt less is worth."""


AS_IT_IS = Ours()


class Scored:
    """FGD, or ours: a matrix of scores, with prices, a reserve and moves where they are wanted."""

    def __init__(
        self, fleet: Fleet, demands: Sequence[Demand], foresight: Foresight,
        ours: Ours | None,
    ) -> None:  # fmt: skip
        self._fleet, self._demands, self._is_ours = fleet, demands, ours is not None
        self._weights = replace(MADANG, watts=ours.watts) if ours else FGD
        self._foresight, self._seen, self.moves = foresight, Counter[Demand](), 0
        self._count = 0
        whole = [kind.whole for kind in fleet.kinds]
        self._reserve = Reserve(demands, whole, {})
        first = foresight.known or Counter(_made_up(fleet))
        self._placer = Placer(fleet, demands, self._fit(first, has_prices=bool(foresight.known)))
        self.board = self._placer.board
        self._moves_per_100 = moves_per_100 = ours.moves_per_100 if ours else 0
        self._tokens = float(moves_per_100)
        self._mover = Mover(self._placer) if moves_per_100 else None

    def arrive(self, which: int) -> bool:
        """Place it where it does least harm; where it fits nowhere, a move may make room."""
        choice = self._choose(which)
        if choice is None and self._mover and self._tokens >= 1 and self._demands[which].devices:
            move = self._mover.make_room(which, self._reserve.takes)
            if move:
                self._moved(move.which, move.source, move.goal)
                choice = self._choose(which)
        if choice:
            self._placer.take(which, choice)
            self._reserve.count(which, self._kind(choice))
            if self._mover:
                self._mover.add(self._count, which, choice)
        self._seen[self._demands[which]] += 1
        self._count += 1
        self._look_back()
        return choice is not None

    def _choose(self, which: int) -> Choice | None:
        return self._placer.choose(which, self._reserve.bonus(which) if self._is_ours else ())

    def _look_back(self) -> None:
        """Tidy up, and learn, each at its time."""
        if self._mover and self._count % MOVES_EVERY == 0:
            self._tokens = float(self._moves_per_100)
            for move in self._mover.improve(self._moves_per_100, self._reserve.takes):
                self._moved(move.which, move.source, move.goal)
        if self._foresight.known is None and _is_refit(self._count):
            self._placer.restart(self._fit(self._seen, has_prices=True))
            if self._mover:
                self._mover.restart()

    def _moved(self, which: int, source: Choice, goal: Choice) -> None:
        self._reserve.count(which, self._kind(source), -1)
        self._reserve.count(which, self._kind(goal))
        self.moves += 1
        self._tokens -= 1

    def _kind(self, choice: Choice) -> int:
        return int(self._fleet.kind[choice.host])

    def _fit(self, seen: Counter[Demand], *, has_prices: bool) -> Columns:
        """Take the mix, and for ours the prices and the reserve, from what was seen."""
        fleet, prices = self._fleet, Prices.none(self._fleet.whole)
        if self._is_ours and has_prices:
            solution = Programme(fleet, expected(fleet, seen)).solve()
            prices = solution.prices
            self._reserve.adopt(solution.reserve)
        measure = Fragmentation(Mix.of(seen), fleet.kinds)
        return Columns(self._demands, fleet.kinds, measure, prices, self._weights)


def expected(fleet: Fleet, seen: Counter[Demand]) -> dict[Demand, float]:
    """Scale what was seen so that it asks for all devices of a fleet."""
    capacity = int((fleet.free >= 0).sum()) * MILLI
    whole = [kind.whole for kind in fleet.kinds]
    asked = sum(demand.milli(whole) * count for demand, count in seen.items())
    return {demand: count * capacity / max(asked, 1) for demand, count in seen.items()}


def _made_up(fleet: Fleet) -> list[Demand]:
    """Return what is expected before anything has come: a device, and half of one."""
    whole = tuple(kind.whole for kind in fleet.kinds)
    return [Demand(0, 0, 1, whole), Demand(0, 0, 1, tuple(w // 2 for w in whole))]


def _is_refit(count: int) -> bool:
    return count in REFITS or (count > REFITS[-1] and count % REFIT_EVERY == 0)


NAMES = ("madang", "fgd", *RULES, "random")


def policy(
    name: str, fleet: Fleet, demands: Sequence[Demand], foresight: Foresight,
    *, seed: int, ours: Ours,
) -> Policy:  # fmt: skip
    """Return a policy by its name."""
    if name in RULES:
        return Ruled(fleet, demands, RULES[name])
    if name == "random":
        return Drawn(fleet, demands, seed)
    return Scored(fleet, demands, foresight, ours if name == "madang" else None)
