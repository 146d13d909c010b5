"""The thinking itself: what free devices are worth to what is expected, and who should use which.

Not for the loop: it takes its time, and the solver its memory. It is done apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from madang.planning.forecast import Question
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Fleet, Host, Kind
from madang.planning.placement.outlook import Outlook, outlook_of
from madang.planning.placement.programme import Programme

ENOUGH = 10**7
"""In place of what is not known: numbers that are too large are hard to reckon with."""


def reprice(asked: Question) -> Outlook:
    """Solve the programme for a fleet that is asked for as a whole."""
    hosts = [
        Host(f"{number}.{i}", min(cpu, ENOUGH), min(memory, ENOUGH), k,
             (asked.kinds[k].whole,) * devices)
        for number, ((k, cpu, memory, devices), count) in enumerate(asked.hosts)
        for i in range(count)
    ]  # fmt: skip
    fleet = Fleet.of(asked.kinds, hosts)
    largest = max(kind.size for kind in asked.kinds)
    worth = [kind.size / largest for kind in asked.kinds]
    devices = fleet.capacity
    taken = sum(count * least(demand, asked.kinds, worth) for demand, count in asked.mix)
    scale = sum(n * w for n, w in zip(devices, worth, strict=True)) / max(taken, 1e-9)
    expected = {demand: count * scale for demand, count in asked.mix}
    solution = Programme(fleet, expected, worth).solve()
    return outlook_of(asked.kinds, devices, asked.mix, solution)


def least(demand: Demand, kinds: Sequence[Kind], worth: Sequence[float]) -> float:
    """Return what a demand takes where it takes least, in the largest devices."""
    return demand.devices * min(
        (worth[k] * demand.parts[k] / kinds[k].whole for k in demand.kinds), default=0.0
    )
