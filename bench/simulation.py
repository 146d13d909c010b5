"""A million steps of whole histories on a virtual clock, each from a seed of its own.

`python bench/simulation.py [STEPS]` plays as many; a step is one thing that happens: a line that
arrives or is lost, a commit, a process that begins or ends, a plan, a request, a fault. After each
of them everything that was promised is checked.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from madang.testing.simulation.run import storm
from rows import Row, write

STEPS = 1_000_000
STEPS_EACH = 2_000
FIRST_SEED = 1_000
"""Beyond those that the tests play."""
TELL_S = 10.0


def run(steps: int = STEPS) -> list[Row]:
    """Play until there were that many steps; what did not hold is told with its seed."""
    began_s = told_s = time.monotonic()
    done, virtual_s, seed, broken = 0, 0.0, FIRST_SEED, 0
    counts: Counter[str] = Counter()
    while done < steps:
        outcome = storm(seed, STEPS_EACH)
        done += outcome.steps
        virtual_s += outcome.virtual_s
        counts += outcome.counts
        seed += 1
        if outcome.violations:
            broken += len(outcome.violations)
            print(outcome.told(), file=sys.stderr, flush=True)
        if time.monotonic() - told_s > TELL_S:
            told_s = time.monotonic()
            print(f"simulation: {done:,} of {steps:,} steps, {broken} violations", file=sys.stderr)
    took_s = time.monotonic() - began_s
    kills = sum(counts[what] for what in KILLS)
    return [
        Row("simulation: violations", broken, "violations", 0, 0),
        Row("simulation: steps", done, "steps", steps, lower_is_better=False),
        Row("simulation: seeds", seed - FIRST_SEED, "seeds"),
        Row("simulation: virtual time", round(virtual_s / 3600, 1), "h"),
        Row("simulation: kills, crashes and partitions", kills, "faults", lower_is_better=False),
        Row("simulation: steps per second", round(done / took_s), "1/s", lower_is_better=False),
    ]


KILLS = ("control-killed", "control-deposed", "supervisor-killed", "machine-down", "cut-off")


if __name__ == "__main__":
    write("simulation", run(int(sys.argv[1]) if sys.argv[1:] else STEPS))
