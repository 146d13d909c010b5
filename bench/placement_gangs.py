"""How long it takes to find room for a gang of 64 ranks, in the public trace's 1,213 nodes.

The fleet is filled by the policy itself, with the default list. The trace says nothing of racks:
here 32 nodes in the order of their names are one, and eight racks a zone. A rank is one whole
device of any model, with processors and memory as large demands of the list have. What is counted
is the first answer, to which the states of hosts are as new as they are in practice; asking changes
nothing, so the same fleet is asked for every shape. `python bench/placement_gangs.py`.
"""

from __future__ import annotations

import random
import time
from collections import Counter

import numpy as np

from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Fleet
from madang.planning.placement.gang import Gang, GangPlacement, place_gang
from madang.planning.placement.topology import Topology
from madang.twin.trace import read_fleet, read_pods
from openb import opened
from placement_speed import pool
from rows import Row, write

RANKS, CPU_MILLI, MEMORY_MIB = 64, 8_000, 32_768
FILLS, SEED, FLOOR_MS = (0.0, 0.5, 0.9), 3, 20.0
RACK, ZONE = 32, 256


def topology(fleet: Fleet) -> Topology:
    """Put nodes into racks and racks into zones."""
    return Topology(
        ("zone", "rack", "node"), np.stack([fleet.rank // ZONE, fleet.rank // RACK, fleet.rank])
    )


def shapes(rank: Demand) -> dict[str, Gang]:
    """Return what is asked for."""
    ranks = (rank,) * RANKS
    return {
        "anywhere": Gang(ranks),
        "one rack": Gang(ranks, "rack", is_required=True),
        "few racks": Gang(ranks, "rack"),
        "few nodes": Gang(ranks, "node"),
        "one zone, a node each": Gang(ranks, "zone", is_required=True, is_apart=True),
    }


def main() -> None:
    fleet = read_fleet(opened("node_list_gpu_node"), "nodes")
    pods = read_pods(opened("pod_list_default"), "default", fleet.kinds)
    rank = Demand(CPU_MILLI, MEMORY_MIB, 1, tuple(kind.whole for kind in fleet.kinds))
    seen, chance, rows = Counter(pod.demand for pod in pods), random.Random(SEED), list[Row]()
    held, _ = pool(fleet, seen + Counter([rank]), is_ours=True)
    capacity_milli = int((fleet.free > 0).sum()) * 1000
    index = {demand: i for i, demand in enumerate(held.demands)}
    arrivals = [index[demand] for demand, n in seen.items() for _ in range(n)]
    for fill in FILLS:
        while held.used_milli < fill * capacity_milli:
            held.arrive(chance.choice(arrivals))
        for what, gang in shapes(rank).items():
            began_s = time.process_time()
            answer = place_gang(held.placer, gang, topology(fleet))
            took_ms = 1000 * (time.process_time() - began_s)
            came = "placed" if isinstance(answer, GangPlacement) else "refused"
            said = f"{RANKS} ranks, {what}, {fill:.0%} full: {came}"
            rows.append(Row(said, round(took_ms, 2), "CPU-ms", FLOOR_MS))
    write("placement_gangs", rows)


if __name__ == "__main__":
    main()
