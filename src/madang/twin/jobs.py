"""Traces of jobs: who asked for how many accelerators, when, and for how long it ran.

CSV with `arrival_s, tenant, gpus` and `duration_s` or `duration_v100_s` (and `job_id` where it has
one), or with `timestamp, duration, num_gpus, cluster`. Times are seconds, a timestamp may be a date
and time (ISO 8601, UTC where it names no zone). Other columns are not read. Durations are taken to
be from a second to a fortnight, as in the published replays.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite

from madang.errors import Rejected
from madang.twin.trace import bad_row, read_rows

SHORTEST_S, LONGEST_S = 1.0, 14 * 86_400.0
GANG_MAX = 1_000_000
FORMS = (
    ("arrival_s", "duration_s", "gpus", "tenant"),
    ("arrival_s", "duration_v100_s", "gpus", "tenant"),
    ("timestamp", "duration", "num_gpus", "cluster"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One job of a trace."""

    came_s: float
    """Seconds after the first."""
    runs_s: float
    """How long it runs on its accelerators where nothing stops it."""
    size: int
    project: str
    name: str


def read_jobs(lines: Iterable[str], file: str) -> list[Asked]:
    """Read a trace: who came first in front."""
    listed = list(lines)
    form = _form(next(csv.reader(listed[:1]), []), file)
    found = []
    for line, row in read_rows(listed, file, form):
        came, runs, gpus, tenant = (row[column].strip() for column in form)
        came_s, runs_s = _instant(came), _number(runs)
        size = int(gpus) if gpus.isascii() and gpus.isdigit() and len(gpus) < 8 else -1
        good = {form[0]: came_s is not None, form[1]: runs_s is not None and runs_s >= 0,
                form[2]: 0 <= size <= GANG_MAX, form[3]: bool(tenant)}  # fmt: skip
        for column, is_good in good.items():
            if not is_good:
                raise bad_row(file, line, column, row[column])
        assert came_s is not None
        assert runs_s is not None
        runs_s = min(max(runs_s, SHORTEST_S), LONGEST_S)
        found.append(Asked(came_s, runs_s, size, tenant, row.get("job_id") or f"{line:09}"))
    return _from_the_first(found)


def _form(columns: Sequence[str], file: str) -> tuple[str, ...]:
    known = {column.strip("\ufeff ") for column in columns}
    for form in FORMS:
        if known.issuperset(form):
            return form
    raise Rejected("twin.job-columns", subject=file)


def _from_the_first(jobs: Sequence[Asked]) -> list[Asked]:
    first_s = min((job.came_s for job in jobs), default=0.0)
    moved = [Asked(j.came_s - first_s, j.runs_s, j.size, j.project, j.name) for j in jobs]
    return sorted(moved, key=lambda job: (job.came_s, job.project, job.size, job.runs_s, job.name))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


def _instant(text: str) -> float | None:
    """Return seconds, from seconds or from a date and time."""
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
