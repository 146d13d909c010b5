"""How full each policy makes the openb fleet, how fast it decides, and what a move is worth.

`python bench/placement.py [LIST,LIST…]`: means over seeds that nothing was tuned on, as many as the
variable SEEDS says; FGD that knows the whole list is the peer, in the same run. The linear
programme's bound is computed here, for each list. With no list named, all of them, and then the
fast way against the definition, the speed at each size, and a turn of control over the same fleet.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter

import control
import placement_naive
import placement_speed
from madang.answers import Json
from madang.planning.placement.fleet import Fleet
from madang.planning.placement.programme import Programme
from madang.twin.placement import Question, Replay, report
from madang.twin.policies import AS_IT_IS, Ours, expected
from madang.twin.trace import Pod, read_fleet, read_pods
from openb import opened
from rows import Row, write

LISTS = ("default", "cpu100", "cpu250", "gpushare40", "gpushare80", "gpuspec10", "gpuspec25",
         "multigpu20", "multigpu40")  # fmt: skip
FIRST_SEED, SEEDS, MOVES = 1142, 3, 5
KNOWN = {"default": 95.3, "gpushare80": 89.5, "gpuspec25": 94.6, "cpu250": 93.3}
"""Floors: no moves, the whole list known."""
MOVED = {"default": (95.8, 96.3), "gpuspec25": (95.5, 96.0), "cpu250": (93.3, 94.7)}
"""Floors and targets: five moves per hundred, learning as it goes."""
SAVING, WATTS = ("default", "gpuspec25", "multigpu20"), 1.0
"""Lists replayed with watts that count, and how much: one device more in use costs about a fifth of
what a device is worth."""
TIMED = {"default": (95.5, 96.0), "cpu250": (92.5, 93.5)}
PUBLISHED = {"default": 95.23, "multigpu20": 95.53, "multigpu40": 96.91, "gpushare40": 93.96,
             "gpushare80": 89.08, "gpuspec10": 94.66, "gpuspec25": 93.91, "cpu100": 95.21,
             "cpu250": 93.20}  # fmt: skip
"""FGD at 100 %, from the published per-seed results: means of seeds 42 to 51."""


def tell(policy: str, seed: int, done: int, _total: int) -> None:
    if not done:
        print(f"placement: {policy}, seed {seed}", file=sys.stderr, flush=True)


class Bench:
    """One fleet, many lists."""

    def __init__(self, seeds: int) -> None:
        self._fleet: Fleet = read_fleet(opened("node_list_gpu_node"), "nodes")
        self._seeds = tuple(range(FIRST_SEED, FIRST_SEED + seeds))

    def rows(self, name: str) -> list[Row]:
        """Return the rows of one list."""
        pods = read_pods(opened(f"pod_list_{name}"), name, self._fleet.kinds)
        known = self._at(pods, ("fgd", "best-fit", "madang"))
        fgd = known["fgd"]["allocated_at_100"]["mean"]
        least = max(KNOWN.get(name, 0.0), round(fgd - 0.1, 3), PUBLISHED[name] - 0.2)
        online = self._at(pods, ("madang",), mix="online")["madang"]
        moved = self._at(pods, ("madang",), mix="online", ours=Ours(MOVES))["madang"]
        floor, target = MOVED.get(name, (0.0, None))
        part = 100 * moved["moves"]["mean"] / moved["arrivals"]["mean"]
        out = [
            Row(f"{name}: bound of the linear programme", self._bound(pods), "%"),
            self._row(f"{name}: FGD, mix known", known["fgd"], None, None, PUBLISHED[name]),
            self._row(f"{name}: best-fit", known["best-fit"], None, None, fgd),
            self._row(f"{name}: ours, mix known", known["madang"], least, None, fgd),
            self._row(f"{name}: ours, learning", online, round(fgd - 0.25, 3), None, fgd),
            self._row(f"{name}: ours, learning, moves", moved,
                      max(floor, round(fgd + 0.4, 3)), target, fgd),
            Row(f"{name}: moved, of all that came", round(part, 2), "%", None, 4.0),
        ]  # fmt: skip
        if name in TIMED:
            out += self._timed(name, pods)
        if name in SAVING:
            out += self._saving(name, pods, known["fgd"])
        for row in out:
            print(f"placement: {row.metric}: {row.value} {row.unit}", file=sys.stderr, flush=True)
        return out

    def _timed(self, name: str, pods: list[Pod]) -> list[Row]:
        fgd = self._at(pods, ("fgd",), order="time")["fgd"]["allocated_at_100"]["mean"]
        ours = self._at(pods, ("madang",), "online", "time", Ours(MOVES))["madang"]
        row = self._row(f"{name}: in order of time, learning, moves", ours, *TIMED[name], fgd)
        return [row]

    def _saving(self, name: str, pods: list[Pod], fgd: Json) -> list[Row]:
        """Return what FGD draws, and we when a watt counts; up to these loads both place all."""
        ours = self._at(pods, ("madang",), ours=Ours(watts=WATTS))["madang"]
        out = [self._row(f"{name}: ours, mix known, watts count", ours, None, None,
                         fgd["allocated_at_100"]["mean"])]  # fmt: skip
        for load in (60, 80):
            own, theirs = (each["power_kw"][str(load)]["mean"] for each in (ours, fgd))
            out.append(Row(f"{name}: power at a load of {load} %, watts count", own, "kW",
                           round(0.97 * theirs, 1), None, "FGD", theirs,
                           round(own / theirs, 4)))  # fmt: skip
        return out

    def _at(
        self, pods: list[Pod], policies: tuple[str, ...],
        mix: str = "known", order: str = "shuffled", ours: Ours = AS_IT_IS,
    ) -> Json:  # fmt: skip
        question = Question(policies, self._seeds, 1.3, mix, order, ours)
        return report(Replay(self._fleet, pods, question, time.process_time, tell).run())

    def _bound(self, pods: list[Pod]) -> float:
        seen = Counter(pod.demand for pod in pods)
        solution = Programme(self._fleet, expected(self._fleet, seen)).solve()
        return round(float(solution.bound / (self._fleet.free > 0).sum()) / 10, 2)

    def _row(
        self, metric: str, found: Json, floor: float | None, target: float | None, peer: float
    ) -> Row:
        mean = found["allocated_at_100"]["mean"]
        return Row(metric, mean, "%", floor, target, "FGD", peer, round(mean / peer, 4),
                   lower_is_better=False)  # fmt: skip


def main() -> None:
    lists = sys.argv[1].split(",") if sys.argv[1:] else LISTS
    bench = Bench(int(os.environ.get("SEEDS", SEEDS)))
    out = [row for name in lists for row in bench.rows(name)]
    if not sys.argv[1:]:
        out += [*placement_naive.rows(), *placement_speed.measured()]
        out += asyncio.run(control.measured(control.ON_OPENB))
    write("placement", out)


if __name__ == "__main__":
    main()
