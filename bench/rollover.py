"""Roll-over under load: ten thousand requests while a service changes its model all the time.

Real processes, fake engines; each of `RUNS` twice, once with control killed in the midst of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from madang.testing.ordeal import FAILURES_MAX
from madang.testing.rollover import Rolled, roll
from rows import Row, write

REQUESTS = 10_000
RUNS = 3
SEED = 20261127


def rows_of(name: str, runs: list[Rolled], requests: int) -> list[Row]:
    """Count over all runs, and show what failed."""
    failed = [each for run in runs for each in run.failed]
    wrong = [each for run in runs for each in run.wrong]
    for each in (*failed[:20], *wrong[:20]):
        print(f"{name}: {each}", file=sys.stderr)
    took_s = sorted(each for run in runs for each in run.took_s)
    slowest_s = max(run.slowest_s for run in runs)
    least = min(len(run.answers) for run in runs)
    return [
        Row(f"{name}: runs", len(runs), "", lower_is_better=False),
        Row(f"{name}: requests, the shortest run", least, "requests", requests,
            lower_is_better=False),
        Row(f"{name}: requests, all runs", sum(len(run.answers) for run in runs), "requests"),
        Row(f"{name}: failed", len(failed), "requests", 0.0),
        Row(f"{name}: wrong in the end, or in the account", len(wrong), "", 0.0),
        Row(f"{name}: roll-overs under load", len(took_s), "", lower_is_better=False),
        Row(f"{name}: a roll-over, p50", round(took_s[len(took_s) // 2], 2), "s"),
        Row(f"{name}: the slowest answer", round(slowest_s, 2), "s"),
        Row(f"{name}: control killed", sum(run.kills for run in runs), "kills"),
    ]  # fmt: skip


def main() -> None:
    """Run all, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    given, rows = parser.parse_args(), list[Row]()
    for name, kills in (("roll-over", 0), ("roll-over, control killed", FAILURES_MAX)):
        runs = []
        for number in range(given.runs):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(roll(Path(folder), given.requests, SEED + number, kills))
        rows += rows_of(name, runs, given.requests)
    write("rollover", rows)


if __name__ == "__main__":
    main()
