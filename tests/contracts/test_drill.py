"""The drill that simulated ranks run: what it tells when, and that a fleet carries it out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from madang.engines import fake_gang
from madang.engines.fake_gang import PROGRAM
from madang.errors import Rejected
from madang.launchers.simulated import Simulated
from madang.supervisor.protocol import LaunchPlan, Mount, Patience, Rank, RankPlan, Sandbox

from .test_launcher import SimulatedPlace, until


def plan(*ranks: int, env: dict[str, str] | None = None, **drill: Any) -> LaunchPlan:
    said = json.dumps({"steps": 10, "step_s": 2, "starts_s": 1, **drill})
    each = tuple(RankPlan(number) for number in ranks or (0, 1))
    return LaunchPlan("a", 3, (PROGRAM, said), env or {}, ranks=each, patience=Patience(least_s=60))


def at(made: LaunchPlan, age_s: float) -> tuple[Rank, ...]:
    return fake_gang.read(made).ranks(age_s, 1000.0, 7)


def events(drill: fake_gang.Drill) -> list[float]:
    found, age_s = [], 0.0
    while (age_s := drill.next_s(age_s)) < float("inf"):
        found.append(age_s)
    return found


def test_steps_go_by_the_clock_and_all_ranks_end_well():
    made = plan()
    assert [at(made, age_s)[1].step for age_s in (0, 2.9, 3, 4.9, 5, 20.9)] == [-1, -1, 1, 1, 2, 9]
    assert {rank.exit_code for rank in at(made, 20.9)} == {None}
    assert [(rank.step, rank.exit_code, rank.pid) for rank in at(made, 21)] == [(10, 0, 0)] * 2
    assert fake_gang.read(made).exit_code() == 0
    assert events(fake_gang.read(made)) == [3, 21]


def test_rank_0_tells_of_checkpoints_as_they_are_due():
    made = plan(save_every=4)
    told = [[rank.checkpoint for rank in at(made, age_s)] for age_s in (8.9, 9, 17)]
    assert told == [["", ""], ["step-000004", ""], ["step-000008", ""]]
    assert events(fake_gang.read(made)) == [3, 9, 17, 21]


def test_it_goes_on_after_the_step_that_it_resumes_from():
    made = plan(env={"MADANG_RESUME_FROM": "/somewhere/step-000008"}, save_every=4)
    assert [at(made, age_s)[0].step for age_s in (1, 3, 5)] == [-1, 9, 10]
    assert fake_gang.read(made).end_s == 5
    assert at(made, 3)[0].checkpoint == ""


def test_a_rank_that_fails_ends_first_and_the_others_lose_it():
    made = plan(fail={"rank": 1, "step": 5, "exit_code": -9})
    first, second = at(made, 11)
    assert (first.exit_code, second.exit_code) == (1, -9)
    assert second.ended_at < first.ended_at
    assert fake_gang.read(made).exit_code() == 137
    resumed = plan(env={"MADANG_RESUME_FROM": "step-000005"}, fail={"rank": 1, "step": 5})
    assert {rank.exit_code for rank in at(resumed, 99)} == {0}, "it fails once"


def test_a_rank_that_halts_is_found_stalled_and_ends_never():
    made = plan(fail={"rank": 1, "step": 5, "halts": True})
    drill = fake_gang.read(made)
    assert events(drill) == [3, 71]
    assert {(rank.stalled, rank.step) for rank in at(made, 70.9)} == {(False, 5)}
    assert [(rank.stalled, rank.halted) for rank in at(made, 71)] == [(True, False), (True, True)]


@pytest.mark.parametrize(
    "drill",
    [{"steps": 0}, {"steps": "x"}, {"step_s": 0}, {"step_s": -1}, {"starts_s": -1},
     {"save_every": -1}, {"fail": 1}, {"fail": {"rank": 0, "step": "5"}},
        {"fail": {"rank": 0, "step": 5, "exit_code": "x"}}, {"steps": 10**9}],
)  # fmt: skip
def test_a_drill_that_makes_no_sense_is_refused(drill):
    with pytest.raises((ValueError, LookupError, TypeError)):
        fake_gang.read(plan(**drill))


@pytest.fixture
async def fleet(tmp_path):
    place = SimulatedPlace(tmp_path / "home")
    yield place.launcher()
    await place.close()


async def ended(fleet: Simulated) -> Any:
    return (await until(fleet, lambda found: found["a"].state == "exited"))["a"]


async def test_a_fleet_carries_it_out_and_its_checkpoints_are_there(fleet, tmp_path):
    env = {"MADANG_CHECKPOINTS": str(tmp_path), "MADANG_JOB_UID": "job-1"}
    await fleet.start(plan(env=env, steps=4, step_s=0.05, starts_s=0, save_every=2))
    process = await ended(fleet)
    assert (process.exit_code, [rank.step for rank in process.ranks]) == (0, [4, 4])
    assert process.ranks[0].checkpoint == "step-000004"
    manifest = json.loads((tmp_path / "step-000004" / "manifest.json").read_text())
    assert (manifest["job"], manifest["epoch"], manifest["step"]) == ("job-1", 3, 4)
    content = (tmp_path / "step-000004" / "step.txt").read_bytes()
    told = manifest["files"]["step.txt"]
    assert told == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert await fleet.progress("a", 3, 0, 0) == ((), 0)


async def test_a_warning_lets_it_save_and_end(fleet, tmp_path):
    env = {"MADANG_CHECKPOINTS": str(tmp_path), "MADANG_JOB_UID": "job-1"}
    await fleet.start(plan(env=env, steps=10**6, step_s=0.05, starts_s=0))
    await until(fleet, lambda found: found["a"].ranks[0].step > 0)
    await fleet.signal("a", 3, "SIGTERM")
    process = await ended(fleet)
    assert (process.exit_code, {rank.exit_code for rank in process.ranks}) == (75, {75})
    step = process.ranks[0].step
    assert process.ranks[0].checkpoint == f"step-{step:06d}"
    assert (tmp_path / f"step-{step:06d}" / "manifest.json").exists()


async def test_a_stop_ends_it_after_its_grace_even_where_it_hears_nothing(fleet):
    halting = plan(steps=10, step_s=0.01, starts_s=0, fail={"rank": 0, "step": 2, "halts": True})
    await fleet.start(halting)
    await until(fleet, lambda found: found["a"].ranks[0].step == 2)
    await fleet.stop("a", 3, 0.05)
    await until(fleet, lambda found: not found)


async def test_no_other_program_is_simulated(fleet):
    with pytest.raises(Rejected) as refused:
        await fleet.start(LaunchPlan("a", 1, ("train",), ranks=(RankPlan(0),)))
    assert refused.value.code == "supervisor.spawn-failed"
    assert PROGRAM in str(refused.value.values["cause"])


def test_simulated_ranks_save_in_the_volume_and_not_where_their_sandbox_would_show_it(tmp_path):
    env = {"MADANG_CHECKPOINTS": "/ckpt/run", "MADANG_JOB_UID": "job-1"}
    box = Sandbox(mounts=(
        Mount("/nowhere", "/ck"), Mount(str(tmp_path), "/ckpt", is_writable=True),
    ))  # fmt: skip
    fake_gang.save(LaunchPlan("a", 1, ("true",), env, ranks=(RankPlan(0),), sandbox=box), 4)
    assert (tmp_path / "run" / "step-000004" / "manifest.json").exists()
    assert not Path("/ckpt").exists()
