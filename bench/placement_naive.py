"""The fast way against the definition, decision by decision over a whole replay.

Here every host is scored anew for every arrival, straight from what it has free: no tables, nothing
remembered, no blocks. `python bench/placement_naive.py` replays the default list by FGD and by ours
and counts the differences in scores and in choices: there should be none. With EVERY=20 only each
20th arrival is scored twice.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement import fit
from madang.planning.placement.columns import FGD, MADANG, NOWHERE, Columns, Weights
from madang.planning.placement.demand import Demand
from madang.planning.placement.exact import on_grid
from madang.planning.placement.fleet import Board, Fleet
from madang.planning.placement.fragmentation import Fragmentation
from madang.planning.placement.mix import Mix
from madang.planning.placement.placer import Placer
from madang.planning.placement.prices import Prices
from madang.planning.placement.programme import Programme
from madang.planning.placement.reserve import Group, Reserve
from madang.twin.arrivals import shuffled
from madang.twin.policies import expected
from madang.twin.trace import Pod, read_fleet, read_pods
from openb import opened
from rows import Row, write

LIST, SEED, LOAD = "default", 1142, 1.0


@dataclass(frozen=True)
class Defined:
    """Scores as they are defined, for a fleet whose devices all have a thousand units."""

    mix: Mix
    prices: Prices
    weights: Weights

    def scores(self, board: Board, demand: Demand) -> NDArray[np.float64]:
        """[hosts] Of a demand; `NOWHERE` where it does not fit."""
        free, parts = np.sort(board.free, axis=1), fit.parts_of(board, demand)[:, None]
        kind, left_cpu = board.start.kind, board.cpu_milli - demand.cpu_milli
        fragments = self.fragments(free, kind, board.cpu_milli)
        now = self.worth(free, kind, board.cpu_milli, fragments)
        best = np.full(len(kind), NOWHERE)
        for taken in self._ways(free, parts, demand):
            after = free - np.where(taken, parts, 0)
            lost = self.fragments(after, kind, left_cpu)
            if self.weights.is_rounded:
                less = (fragments - lost) / (1000 * self.mix.total)
                score = np.floor(100 / (1 + np.exp(-less)))
            else:
                score = self.worth(after, kind, left_cpu, lost) - now
                score -= on_grid(self.weights.left_devices) * np.maximum(after, 0).sum(axis=1)
                score -= on_grid(self.weights.left_cpu) * left_cpu
            there = taken.sum(axis=1) == demand.devices
            best = np.maximum(best, np.where(there, score, NOWHERE))
        return np.where(fit.fitting(board, demand), best, NOWHERE)

    def _ways(self, free: np.ndarray, parts: np.ndarray, demand: Demand) -> list[np.ndarray]:
        """[hosts, devices] each: which devices are taken."""
        roomy = (free >= parts) & (parts > 0)
        if demand.devices == 1:
            return [roomy & (np.arange(free.shape[1]) == j) for j in range(free.shape[1])]
        return [roomy & (np.cumsum(roomy, axis=1) <= demand.devices)]

    def fragments(self, free: np.ndarray, kind: np.ndarray, cpu: np.ndarray) -> np.ndarray:
        """[hosts] Thousandths that each typical demand can't use, times how often it comes."""
        there = np.maximum(free, 0)
        out: np.ndarray = there.sum(axis=1) * self.mix.total
        for demand, count in self.mix.counts:
            parts = np.array(demand.parts)[kind][:, None]
            roomy = (free >= parts) & (parts > 0)
            can = (roomy.sum(axis=1) >= max(demand.devices, 1)) & (cpu >= demand.cpu_milli)
            out -= np.where(can, count * (there * roomy).sum(axis=1), 0)
        return out

    def worth(
        self, free: np.ndarray, kind: np.ndarray, cpu: np.ndarray, fragments: np.ndarray
    ) -> np.ndarray:
        """[hosts] At prices, less fragments, less what will be stranded."""
        weights, asked = self.weights, [(d, n) for d, n in self.mix.counts if d.devices]
        rooms = np.array(self.prices.room)[kind[:, None], np.maximum(free, 0)]
        out = weights.price * (rooms.sum(axis=1) + np.array(self.prices.cpu)[kind] * cpu)
        out -= on_grid(weights.fragmentation / self.mix.total) * fragments
        devices = sum(n * d.devices * max(d.parts) for d, n in asked)
        served = np.maximum(cpu, 0) * on_grid(devices / sum(n * d.cpu_milli for d, n in asked))
        total = np.maximum(free, 0).sum(axis=1)
        out -= weights.stranded * np.maximum(total - served, 0.0)
        return np.asarray(out)


def differences(fleet: Fleet, pods: list[Pod], *, is_ours: bool) -> tuple[int, int, int, float]:
    """Return (decisions, scores that differ, choices that differ, decisions per CPU-second)."""
    counts = Counter(pod.demand for pod in pods)
    demands, mix, weights = sorted(counts), Mix.of(counts), MADANG if is_ours else FGD
    prices = Prices.none(fleet.whole)
    plan: Mapping[Group, tuple[float, ...]] = {}
    if is_ours:
        solution = Programme(fleet, expected(fleet, counts)).solve()
        prices, plan = solution.prices, solution.reserve
    measure = Fragmentation(mix, fleet.kinds)
    placer = Placer(fleet, demands, Columns(demands, fleet.kinds, measure, prices, weights))
    reserve = Reserve(demands, [kind.whole for kind in fleet.kinds], plan)
    defined, index = Defined(mix, prices, weights), {d: i for i, d in enumerate(demands)}
    every = int(os.environ.get("EVERY", "1"))
    compared = scores = choices = 0
    began_s = time.process_time()
    arrivals = shuffled(pods, int((fleet.free > 0).sum()) * 1000, LOAD, SEED)
    for number, pod in enumerate(arrivals):
        which = index[pod.demand]
        bonus = reserve.bonus(which) if is_ours else []
        choice = placer.choose(which, bonus)
        if number % every == 0:
            slow, fast = defined.scores(placer.board, pod.demand), placer.scores[which]
            fits = slow > NOWHERE
            compared, scores = compared + 1, scores + int(((fast > NOWHERE) != fits).sum())
            scores += int((fast[fits] != slow[fits]).sum())
            choices += _is_wrong(slow, fleet, bonus, choice.host if choice else None)
        if choice:
            placer.take(which, choice)
            reserve.count(which, int(fleet.kind[choice.host]))
    took_s = time.process_time() - began_s
    return compared, scores, choices, compared / took_s


def _is_wrong(slow: np.ndarray, fleet: Fleet, bonus: list[float], host: int | None) -> bool:
    """Tell whether a host is not the first by name of those with the best score."""
    total = slow + np.array(bonus)[fleet.kind] if bonus else slow
    best = np.flatnonzero((total == total.max()) & (total > NOWHERE))
    if host is None or not len(best):
        return host is not None or len(best) > 0
    return bool(host != best[fleet.rank[best].argmin()])


def rows() -> list[Row]:
    fleet = read_fleet(opened("node_list_gpu_node"), "nodes")
    pods = read_pods(opened(f"pod_list_{LIST}"), LIST, fleet.kinds)
    out = []
    for name, is_ours in (("ours", True), ("FGD", False)):
        count, scores, choices, rate = differences(fleet, pods, is_ours=is_ours)
        at = f"{LIST}, {name}: fast way against the definition"
        out += [
            Row(f"{at}, decisions compared", count, ""),
            Row(f"{at}, scores that differ", scores, "", 0),
            Row(f"{at}, choices that differ", choices, "", 0),
            Row(f"{at}, the definition's decisions", round(rate), "1/CPU-s"),
        ]
    return out


if __name__ == "__main__":
    write("placement_naive", rows())
