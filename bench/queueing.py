"""How long jobs take and who goes short, by our queue and by others, on windows of a public list.

`make bench-queue`. No duration is told to ours. `srtf` is told all of them: an oracle, in the same
run. Constants are the same everywhere; the windows beside G1 and G2 were cut by the calendar, every
five days while there are jobs for more than a few nodes, and later ones too. The last rows take one
turn over 10,000 jobs that wait. Not `queue.py`: the standard library has a module of that name.
"""

from __future__ import annotations

import random
import sys
import time

import numpy as np

from madang.answers import Json
from madang.planning.share.ledger import Ledger, Shares
from madang.planning.share.line import Line
from madang.planning.share.lives import Lives
from madang.planning.share.turn import Pool, turn
from madang.planning.share.water import Claims
from madang.twin.queue import Yard
from madang.twin.waits import compare
from philly import jobs, sized, window
from queueing_control import measured
from rows import Row, write

PUBLISHED = (
    ("G1", (10, 25), 344, (47.0, 43.5), (0.13, 0.09), 1.2),
    ("G1", (10, 25), 456, (38.5, 37.0), (0.10, 0.075), 0.9),
    ("G2", (25, 45), 208, (26.5, 23.5), (0.14, 0.115), 1.2),
    ("G2", (25, 45), 272, (16.4, 15.4), (0.11, 0.09), 0.9),
)
"""Name, days, accelerators, floor and target of the mean hours to the end, and of the worst
project's shortfall, load."""
OTHERS = ((0, 15), (5, 20), (10, 20), (15, 30), (20, 30), (20, 35), (30, 40), (30, 45), (35, 50),
          (40, 60), (60, 80))  # fmt: skip
RATIO = {1.2: (1.40, 1.20), 0.9: (1.10, 1.03)}
"""Floor and target of ours over the oracle's, by load."""
WORST, WAIT_H, REDONE = (0.15, 0.12), (130.0, 100.0), (0.015, 0.007)
POLICIES = ("madang", "srtf", "las", "wfs", "easy", "fifo")
MEASURES = {
    "mean_jct_h": ("mean time to the end", "h"), "worst_project": ("worst project", ""),
    "max_wait_h": ("longest wait", "h"), "redone_share": ("work done twice", ""),
}  # fmt: skip
Limits = tuple[float | None, float | None]
NONE: Limits = (None, None)
WAITING, NODES, ACCELERATORS, PROJECTS = 10_000, 1_213, 6_212, 40
TURN_MS = 300.0


def played(days: tuple[int, int], gpus: int, policies: tuple[str, ...]) -> dict[str, Json]:
    """Replay one window, with lost work."""
    print(f"queue: days {days}, {gpus} accelerators", file=sys.stderr, flush=True)
    return compare(window(*days), Yard(gpus), policies, lambda *_: None)


def published() -> list[Row]:
    """Return the rows of the windows that have floors of their own."""
    rows = []
    for name, days, gpus, jct, worst, load in PUBLISHED:
        found = played(days, gpus, POLICIES)
        where = f"{name}, {gpus} accelerators, load {load}"
        rows += [_row(where, found, "mean_jct_h", jct), _row(where, found, "worst_project", worst),
                 *_limits(where, found, load)]  # fmt: skip
        for peer in POLICIES[2:]:
            rows += [_row(where, found, key, NONE, peer) for key in ("mean_jct_h", "worst_project")]
    return rows


def others() -> list[Row]:
    """Return the rows of windows on which nothing was chosen, against the oracle."""
    rows = []
    for days in OTHERS:
        for load, (floor, target) in RATIO.items():
            gpus = sized(window(*days), days[1] - days[0], load)
            found = played(days, gpus, POLICIES[:2])
            where = f"days {days[0]} to {days[1]}, {gpus} accelerators, load {load}"
            own, oracle = (found[name]["mean_jct_h"] for name in POLICIES[:2])
            rows += [
                Row(f"{where}: mean time, ours over the oracle's", round(own / oracle, 3), "",
                    floor, target, "srtf", oracle, round(own / oracle, 3)),
                _row(where, found, "worst_project", WORST),
                *_limits(where, found, load),
            ]  # fmt: skip
    return rows


def _limits(where: str, found: dict[str, Json], load: float) -> list[Row]:
    return [_row(where, found, "max_wait_h", WAIT_H if load > 1 else NONE),
            _row(where, found, "redone_share", REDONE)]  # fmt: skip


def _row(
    where: str, found: dict[str, Json], key: str, limits: Limits, peer: str = "srtf"
) -> Row:  # fmt: skip
    own, theirs = found["madang"][key], found[peer][key]
    what, unit = MEASURES[key]
    against = "" if peer == "srtf" else f", {peer}"
    ratio = round(own / theirs, 3) if theirs else None
    return Row(f"{where}: {what}{against}", own, unit, *limits, peer, theirs, ratio)


def a_line(chance: random.Random) -> tuple[Line, int]:
    """Return jobs that wait, and jobs that fill the fleet; and how many accelerators these hold."""
    sizes: list[int] = []
    while sum(sizes) + 8 <= ACCELERATORS:
        sizes.append(chance.choice((1, 1, 2, 4, 8)))
    runs = [True] * len(sizes) + [False] * WAITING
    size = sizes + [chance.choice((1, 1, 1, 2, 4, 8, 16, 64)) for _ in range(WAITING)]
    order = chance.sample(range(len(runs)), len(runs))
    count = len(runs)
    line = Line(
        np.array([chance.randrange(PROJECTS) for _ in order]),
        np.array([size[i] for i in order]),
        np.array([chance.uniform(0, 3e5) for _ in order]),
        np.array([chance.uniform(0, 4e5) for _ in order]),
        np.array([chance.random() for _ in order]),
        np.array([runs[i] for i in order]),
        np.zeros(count, bool),
        np.ones(count, np.int64),
    )
    return line, sum(sizes)


def a_turn() -> list[Row]:
    """Return how long one turn takes, with all that is learnt made anew."""
    line, held = a_line(random.Random(6))
    claims, ledger = Claims.even(PROJECTS), Ledger.blank(PROJECTS)
    demand = line.demand(PROJECTS)
    entitled = claims.entitled(demand, ACCELERATORS)
    ledger = ledger.after(1e5, Shares(demand, entitled, 0.9 * entitled))
    took = []
    for _ in range(7):
        began_s = time.process_time()
        worth = Lives.blank(PROJECTS).worth(line)
        entitled = claims.entitled(line.demand(PROJECTS), ACCELERATORS)
        pool = Pool(ACCELERATORS, claims, ledger.guarantees(entitled))
        made = turn(line, pool, worth)
        took.append(1000 * (time.process_time() - began_s))
        assert made.starts
    where = f"{WAITING:,} jobs wait, {len(line) - WAITING:,} hold {held:,} accelerators of {NODES:,} nodes"  # noqa: E501
    return [Row(f"a turn: {where}", round(sorted(took)[3], 1), "ms of CPU", TURN_MS)]


if __name__ == "__main__":
    assert jobs()
    write("queue", [*published(), *others(), *a_turn(), *measured()])
