"""The public list of jobs that the bench of the queue replays, as it lies in `traces/gavel`."""

from __future__ import annotations

import gzip
from dataclasses import replace
from functools import cache
from pathlib import Path

from madang.twin.jobs import Asked, read_jobs

TRACE = Path(__file__).parent / "traces" / "gavel" / "gavel_philly_jobs.csv.gz"
DAY_S = 86_400.0


@cache
def jobs() -> list[Asked]:
    """Return all of its jobs."""
    with gzip.open(TRACE, "rt", encoding="utf-8") as lines:
        return read_jobs(lines, TRACE.name)


def window(first_day: int, last_day: int) -> list[Asked]:
    """Return those that come from one day on, up to another."""
    found = [job for job in jobs() if first_day * DAY_S <= job.came_s < last_day * DAY_S]
    return [replace(job, came_s=job.came_s - found[0].came_s) for job in found]


def sized(listed: list[Asked], days: int, load: float) -> int:
    """Return how many accelerators make that load of these jobs: whole nodes of eight."""
    work = sum(job.runs_s * job.size for job in listed)
    return max(1, round(work / (days * DAY_S) / load / 8)) * 8
