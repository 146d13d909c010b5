"""Traces of jobs: who asked for how many accelerators, when, and for how long it ran.

CSV with `arrival_s, tenant, gpus` and `duration_s` or `duration_v100_s` (and `job_id` where it has
one), or with `timestamp, duration, num_gpus, cluster`. Times are seconds, a timestamp may be a date
and time (ISO 8601, UTC where it names no zone). Other columns are not read. Durations are taken to
be from a second to a fortnight, as in the published replays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from math import isfinite, nan

from madang.errors import Rejected
from madang.twin.trace import MORE, read_rows

SHORTEST_S, LONGEST_S = 1.0, 14 * 86_400.0
GANG_MAX = 1_000_000
JOBS_MAX, PROJECTS_MAX = 1_000_000, 1_000
INSTANT_MAX_S = 253_402_300_800.0
"""The year 10000, as seconds since 1970."""
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
    rest = iter(lines)
    head = next(rest, "")
    form = _form(head, file)
    found: list[Asked] = []
    projects: set[str] = set()
    for line, row in read_rows(chain([head], rest), file, form):
        if len(found) == JOBS_MAX:
            raise Rejected("twin.too-many-jobs", file=file, line=line, limit=JOBS_MAX)
        found.append(_job(row, line, file, form))
        projects.add(found[-1].project)
        if len(projects) > PROJECTS_MAX:
            raise Rejected("twin.too-many-projects", file=file, line=line, limit=PROJECTS_MAX)
    if not found:
        raise Rejected("twin.empty", subject=file)
    return _from_the_first(found)


def _form(head: str, file: str) -> tuple[str, ...]:
    """Return the columns to read, of those that the first line names."""
    known = {column.strip() for column in head.removeprefix("\ufeff").split(",")}
    known |= {column.strip('"') for column in known}
    if known == {""}:
        raise Rejected("twin.empty", subject=file)
    nearest = max(FORMS, key=lambda form: len(known.intersection(form)))
    if missing := [column for column in nearest if column not in known]:
        raise Rejected("twin.job-columns", subject=file, columns=", ".join(missing))
    return nearest


def _job(row: Mapping[str, str], line: int, file: str, form: Sequence[str]) -> Asked:
    """Read one row: times in seconds, none of it taken for another."""
    if MORE in row:
        raise Rejected("twin.long-row", file=file, line=line, columns=len(row) - 1)
    written = [row[column].strip() for column in form]
    came, runs, gpus, project = written
    came_s, runs_s = instant_s(came), _number(runs)
    size = int(gpus) if gpus.isascii() and gpus.isdigit() and len(gpus) < 8 else -1
    good = (came_s is not None, runs_s is not None and runs_s >= 0, 0 <= size <= GANG_MAX,
            bool(project))  # fmt: skip
    for column, value, is_good in zip(form, written, good, strict=True):
        if not is_good:
            raise Rejected("twin.bad-job", file=file, line=line, column=column, value=value[:40])
    assert came_s is not None
    assert runs_s is not None
    runs_s = min(max(runs_s, SHORTEST_S), LONGEST_S)
    return Asked(came_s, runs_s, size, project, row.get("job_id") or f"{line:09}")


def _from_the_first(jobs: Sequence[Asked]) -> list[Asked]:
    first_s = min((job.came_s for job in jobs), default=0.0)
    moved = [Asked(j.came_s - first_s, j.runs_s, j.size, j.project, j.name) for j in jobs]
    return sorted(moved, key=lambda job: (job.came_s, job.project, job.size, job.runs_s, job.name))


def _number(text: str) -> float | None:
    try:
        value = float(text) if text.isascii() and "_" not in text else nan
    except ValueError:
        return None
    return value if isfinite(value) else None


def instant_s(text: str) -> float | None:
    """Return seconds, from seconds or from a date and time."""
    if (seconds := _number(text)) is None:
        try:
            at = datetime.fromisoformat(text)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    return seconds if abs(seconds) <= INSTANT_MAX_S else None
