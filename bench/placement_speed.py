"""Decisions per second of processor time at 90 % fill, from 1.2 to 100 thousand nodes.

The public trace's nodes, once, 8 and 83 times; its default list. The policy itself fills the fleet
to 90 %, and holds it there: before each decision as many running ones leave, drawn at random, as
the next asks for. What leaves costs about as much as a decision, and is counted in the time but not
as a decision. `python bench/placement_speed.py [COPIES…]`.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from madang.planning.placement.columns import FGD, MADANG, Columns
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Fleet, Host
from madang.planning.placement.fragmentation import Fragmentation
from madang.planning.placement.mix import Mix
from madang.planning.placement.placer import Choice, Placer
from madang.planning.placement.prices import Prices
from madang.planning.placement.programme import Programme
from madang.planning.placement.reserve import Reserve
from madang.twin.policies import expected
from madang.twin.trace import read_fleet, read_pods
from openb import opened
from rows import Row, write

COPIES = (1, 8, 83)
FILL, DECISIONS, SEED = 0.9, 20_000, 3
FLOOR, TARGET, START_S = 3_000, 7_000, 1.0


def repeated(fleet: Fleet, copies: int) -> Fleet:
    """Return a fleet so many times as large."""
    hosts = [
        Host(f"{name}-{copy:02}", int(fleet.cpu_milli[i]), int(fleet.memory_mib[i]),
             int(fleet.kind[i]), tuple(int(f) for f in fleet.free[i] if f >= 0))
        for copy in range(copies)
        for i, name in enumerate(fleet.names)
    ]  # fmt: skip
    return Fleet.of(fleet.kinds, hosts)


@dataclass
class Pool:
    """A fleet, its placer, and what runs."""

    placer: Placer
    reserve: Reserve | None
    demands: list[Demand]
    running: list[tuple[int, Choice]]
    used_milli: int = 0

    def milli(self, which: int) -> int:
        """Return how many thousandths of devices one of the demands takes."""
        demand = self.demands[which]
        return demand.devices * max(demand.parts)

    def arrive(self, which: int) -> bool:
        """Place one of the demands."""
        choice = self.placer.choose(which, self.reserve.bonus(which) if self.reserve else ())
        if choice is None:
            return False
        self.placer.take(which, choice)
        self._note(which, choice, 1)
        self.running.append((which, choice))
        return True

    def leave(self, chance: random.Random) -> None:
        """Let any running one go."""
        at = chance.randrange(len(self.running))
        self.running[at], self.running[-1] = self.running[-1], self.running[at]
        which, choice = self.running.pop()
        self.placer.give(which, choice)
        self._note(which, choice, -1)

    def _note(self, which: int, choice: Choice, times: int) -> None:
        self.used_milli += times * self.milli(which)
        if self.reserve:
            self.reserve.count(which, int(self.placer.board.start.kind[choice.host]), times)


def pool(fleet: Fleet, seen: Counter[Demand], *, is_ours: bool) -> tuple[Pool, float]:
    """Return a pool, and the seconds that it took to be ready once prices are known."""
    demands = sorted(seen)
    whole = [kind.whole for kind in fleet.kinds]
    prices, reserve = Prices.none(fleet.whole), None
    if is_ours:
        solution = Programme(fleet, expected(fleet, seen)).solve()
        prices, reserve = solution.prices, Reserve(demands, whole, solution.reserve)
    began_s = time.process_time()
    measure = Fragmentation(Mix.of(seen), fleet.kinds)
    columns = Columns(demands, fleet.kinds, measure, prices, MADANG if is_ours else FGD)
    placer = Placer(fleet, demands, columns)
    return Pool(placer, reserve, demands, []), time.process_time() - began_s


def speed(fleet: Fleet, seen: Counter[Demand], *, is_ours: bool) -> tuple[float, float, float]:
    """Return (decisions per second at 90 % fill, start-up in seconds, fill held)."""
    chance = random.Random(SEED)
    held, start_s = pool(fleet, seen, is_ours=is_ours)
    capacity = int((fleet.free > 0).sum()) * 1000
    index = {demand: i for i, demand in enumerate(held.demands)}
    arrivals = [index[d] for d, n in seen.items() for _ in range(n)]
    while held.used_milli < FILL * capacity:
        held.arrive(chance.choice(arrivals))
    began_s, done = time.process_time(), 0
    while done < DECISIONS:
        which = chance.choice(arrivals)
        while held.used_milli + held.milli(which) > FILL * capacity:
            held.leave(chance)
        held.arrive(which)
        done += 1
    took_s = time.process_time() - began_s
    return done / took_s, start_s, held.used_milli / capacity


def rows(copies: int, fleet: Fleet, seen: Counter[Demand], base: float) -> list[Row]:
    large = repeated(fleet, copies)
    fgd, _, _ = speed(large, seen, is_ours=False)
    ours, start_s, fill = speed(large, seen, is_ours=True)
    floor = FLOOR if not base else base / 2
    at = f"{len(large.names):,} nodes"
    return [
        Row(f"decisions at 90 % fill, {at}", round(ours), "1/CPU-s", round(floor), TARGET, "FGD",
            round(fgd), round(ours / fgd, 3), lower_is_better=False),
        Row(f"fill held, {at}", round(fill, 4), ""),
        Row(f"start-up, {at}", round(start_s, 3), "CPU-s", START_S),
    ]  # fmt: skip


def measured(sizes: Sequence[int] = COPIES) -> list[Row]:
    fleet = read_fleet(opened("node_list_gpu_node"), "nodes")
    pods = read_pods(opened("pod_list_default"), "default", fleet.kinds)
    seen = Counter(pod.demand for pod in pods)
    out: list[Row] = []
    for copies in sizes:
        out += rows(copies, fleet, seen, out[0].value if out else 0.0)
    return out


if __name__ == "__main__":
    write("placement_speed", measured([int(copies) for copies in sys.argv[1:]] or COPIES))
