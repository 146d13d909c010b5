"""A sweep as people see it: how many of its jobs are where, and what each has come to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from madang.answers import SweepCourse, SweptCourse
from madang.cli.output import phase, reason, word
from madang.errors import Rejected, Value

TOLD_MAX = 20
"""So many of its jobs are listed."""
METRICS_TOLD = 4
NEAR = {"running": 0, "failed": 1, "succeeded": 2, "cancelled": 3, "waiting": 4}
"""What people look for first."""


def swept(written: Sequence[str]) -> dict[str, list[str]]:
    """Read NAME=VALUE,VALUE; raises `Rejected`.

    >>> swept(["lr=1e-3,3e-4", "seed=1"])
    {'lr': ['1e-3', '3e-4'], 'seed': ['1']}
    """
    found: dict[str, list[str]] = {}
    for each in written:
        name, equals, values = each.partition("=")
        if not (equals and name and values) or name in found:
            raise Rejected("sweep.bad", written=each)
        found[name] = values.split(",")
    return found


def lines(now: SweepCourse, best: str = "") -> Iterator[str]:
    """Say how many of its jobs are where, and list some: the best, or those under way first."""
    told = ", ".join(f"{phase(name)} {count}" for name, count in now["counts"].items())
    yield word(
        "sweep.line", job=now["name"], phase=phase(now["phase"]), made=now["made"],
        count=now["count"], told=told,
    )  # fmt: skip
    if why := reason(now["reason"], f"job/{now['name']}"):
        yield f"  {why}"
    jobs = ranked(now["jobs"], best)
    for job in jobs[:TOLD_MAX]:
        yield f"  {_line(job)}"
    if len(jobs) > TOLD_MAX:
        yield "  " + word("sweep.more", count=len(jobs) - TOLD_MAX, job=now["name"])


def ranked(jobs: Sequence[SweptCourse], best: str = "") -> list[SweptCourse]:
    """Return jobs in order: by a metric, lowest first, or highest with `max:` before its name."""
    if not best:
        return sorted(jobs, key=lambda job: NEAR.get(job["phase"], len(NEAR)))
    way, _, named = best.rpartition(":")
    if way not in {"", "min", "max"} or not named:
        raise Rejected("sweep.bad-best", written=best)
    sign = -1 if way == "max" else 1
    having = [job for job in jobs if named in job["metrics"]]
    return sorted(having, key=lambda job: sign * job["metrics"][named])


def _line(job: SweptCourse) -> str:
    values = " ".join(f"{name}={_text(value)}" for name, value in job["values"].items())
    steps = str(job["step"]) if job["step"] >= 0 else ""
    steps += f"/{job['total']}" if steps and job["total"] else ""
    last = sorted(job["metrics"].items())[:METRICS_TOLD]
    metrics = " ".join(f"{name} {value:.4g}" for name, value in last)
    parts = (job["name"], values, phase(job["phase"]), steps, metrics)
    return "  ".join(filter(None, parts))


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
