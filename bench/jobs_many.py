"""Thousands of jobs whose ranks are simulated: what one costs control, and what of it stays."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from jobs_yard import Yard, cpu_s, resident_mb, running
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.resources.job import Job, JobPhase
from madang.testing.builders import job, node, snapshot
from rows import Row

FLEET = {
    "accelerators": {"nvidia/h100": {"memory": "80GB"}},
    "sites": [{"name": "s", "pools": [{"name": "p", "nodes": [
        {"name": "n", "count": 32, "cores": 128, "memory": "1TB",
         "accelerators": {"nvidia/h100": 8}},
    ]}]}],
}  # fmt: skip
DRILL = {"steps": 10, "step_s": 0.1, "starts_s": 0.1}
AT_ONCE = 50
"""Jobs of one `apply`, as of a sweep."""
JOBS, FEWER = 2_000, 500
ENDED = 10_000
TURNS = 20


def simulated(name: str) -> dict[str, Any]:
    """Return a job of one accelerator, which takes a second."""
    command = ["madang-drill", json.dumps(DRILL)]
    needs = {"accelerator": "nvidia/h100"}
    return {"kind": "job", "name": name, "command": command, "needs": needs}


def round_of(yard: Yard, first: int, count: int, at_once: int = AT_ONCE) -> tuple[float, float]:
    """Have so many jobs done; return processor seconds of control, and MB resident at the end."""
    control = yard.pid("control")
    before_s = cpu_s(control)
    for start in range(first, first + count, at_once):
        names = [f"j{number}" for number in range(start, min(start + at_once, first + count))]
        yard.apply(*map(simulated, names))
    for number in (first + count // 2, first + count - 1):  # in line who came first is first
        yard.until(f"job {number} is done", partial(_is_done, yard, f"j{number}"), 600)
    yard.until("all are done", lambda: _is_quiet(yard), 600)
    return cpu_s(control) - before_s, resident_mb(control)


def _is_done(yard: Yard, name: str) -> bool:
    time.sleep(0.5)
    return bool(yard.job(name)["phase"] == "succeeded")


def _is_quiet(yard: Yard) -> bool:
    time.sleep(1)
    found = yard.client.list("job")["items"]
    return all(each["status"]["phase"] == "succeeded" for each in found)


def rows(count: int = JOBS, fewer: int = FEWER) -> list[Row]:
    """Return what jobs cost, and whether memory stays as it is."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), FLEET) as yard:
        single_s, _ = round_of(yard, 0, fewer // 5, at_once=1)
        _, few_mb = round_of(yard, fewer // 5, fewer - fewer // 5)
        first_s, first_mb = round_of(yard, fewer, count)
        second_s, second_mb = round_of(yard, fewer + count, count)
    many = f"{count:,} simulated jobs, {AT_ONCE} an apply"
    unit, rate = "jobs/CPU s", partial(Row, lower_is_better=False)
    return [
        rate(f"{many}: from submit to succeeded", round(count / first_s, 1), unit, 50.0),
        rate(f"{many}, once more", round(count / second_s, 1), unit, 50.0),
        rate("the same, submitted one by one", round(fewer / 5 / single_s, 1), unit),
        Row(f"control resident after {fewer:,} jobs", round(few_mb, 1), "MB"),
        Row(f"control resident after {fewer + count:,} jobs", round(first_mb, 1), "MB"),
        Row(
            f"control resident after {fewer + 2 * count:,} jobs, to that",
            round(second_mb / first_mb, 3), "", 1.1, 1.02,
        ),
        Row(
            f"turn of planning with {ENDED:,} ended jobs, CPU",
            round(asyncio.run(ended_turn_ms()), 2), "ms", 20.0, 5.0,
        ),
    ]  # fmt: skip


async def ended_turn_ms(count: int = ENDED) -> float:
    """Return the processor milliseconds of a turn with so many jobs that are over, and nothing."""
    over: list[Job] = [
        job(f"j{number}").with_status(phase=JobPhase.SUCCEEDED, ended_at=float(number))
        for number in range(count)
    ]
    moment, memo = snapshot(*(node(f"n{i}", cards=8) for i in range(32)), *over), Memo()
    plan(moment, memo)
    before_s = time.process_time()
    for _ in range(TURNS):
        fresh = moment.after(())  # each turn has a snapshot of its own
        assert not plan(fresh, memo).actions
    return (time.process_time() - before_s) / TURNS * 1000
