"""Jobs: what survives, how soon, and what they cost; `--quick` tries all of it in small.

Real ranks on this machine for what a user waits for; simulated ones where there must be thousands,
or months. Timings are those of a machine that other work may share.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping

import jobs_logs
import jobs_many
import jobs_months
import jobs_ranks
import jobs_restart
from rows import Row, write

PARTS: Mapping[str, Callable[[], list[Row]]] = {
    "ranks": jobs_ranks.rows,
    "restart": jobs_restart.rows,
    "many": jobs_many.rows,
    "starts": lambda: asyncio.run(jobs_logs.started()),
    "logs": lambda: asyncio.run(jobs_logs.printed()),
    "months": jobs_months.rows,
}
QUICK: Mapping[str, Callable[[], list[Row]]] = {
    "ranks": jobs_ranks.rows,
    "restart": lambda: jobs_restart.rows(10, 2, 1),
    "many": lambda: jobs_many.rows(200, 100),
    "starts": lambda: asyncio.run(jobs_logs.started(10)),
    "logs": lambda: asyncio.run(jobs_logs.printed(5)),
    "months": lambda: jobs_months.rows(2),
}


def main(asked: list[str]) -> None:
    """Measure the parts that are named; all where none is."""
    parts = QUICK if "--quick" in asked else PARTS
    named = [name for name in asked if name in parts] or list(parts)
    found = list[Row]()
    for name in named:
        print(f"· {name}", file=sys.stderr, flush=True)
        found += parts[name]()
    write("jobs" if named == list(parts) else "-".join(["jobs", *named]), found)


if __name__ == "__main__":
    main(sys.argv[1:])
