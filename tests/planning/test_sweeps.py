"""Sweeps, on paper: one job for each combination, and what becomes of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from madang.engines.program import launch
from madang.planning.plan import plan
from madang.planning.sweeps import GROW_MAX, sweep_course
from madang.ports import Member
from madang.resources.job import OVER, Job, JobPhase, JobSpec
from madang.resources.resource import Ref
from madang.resources.sweep import Swept, combination, combinations
from madang.testing.builders import PROJECT, job, node, snapshot
from madang.testing.examples import examples
from madang.testing.paper import Paper

CARD = {"accelerator": "nvidia", "count": 1}


def swept(*others: Job, cards: int = 8, **spec: object) -> Paper:
    wanted: dict[str, Any] = {"needs": CARD, "sweep": {"lr": [0.1, 0.2], "seed": [1, 2]}, **spec}
    return Paper(snapshot(node("n", cards=cards), job("try", **wanted), *others))


def one(paper: Paper, name: str = "try") -> Job:
    return paper.snapshot.jobs[Ref(PROJECT, name)]


def children(paper: Paper) -> list[Job]:
    return [each for each in paper.snapshot.jobs.values() if each.status.owner == "try"]


def steer(paper: Paper, name: str = "try", **wish: object) -> None:
    before = one(paper, name)
    changed = {"spec": before.spec.model_copy(update=wish), "generation": before.generation + 1}
    paper.put(before.model_copy(update=changed))
    paper.settle()


def end(paper: Paper, name: str, exit_code: int = 0) -> None:
    (attempt,) = paper.attempts(name)[-1:]
    said = {"metrics": {"loss": 0.5}}
    paper.tell(attempt, 0, exit_code=exit_code, ended_at=paper.now, pid=0, step=3, **said)
    paper.settle()


def test_each_combination_is_a_job_with_its_values_in_its_arguments() -> None:
    paper = swept(command="python t.py --lr={lr} {seed} {other} {}", env={"A": "b"})
    paper.settle()
    told = {each.name: each.spec.command[2:] for each in children(paper)}
    assert told == {
        "try-1": ("--lr=0.1", "1", "{other}", "{}"), "try-2": ("--lr=0.1", "2", "{other}", "{}"),
        "try-3": ("--lr=0.2", "1", "{other}", "{}"), "try-4": ("--lr=0.2", "2", "{other}", "{}"),
    }  # fmt: skip
    assert all(each.status.phase is JobPhase.RUNNING for each in children(paper))
    assert (one(paper).status.phase, one(paper).status.counts) == (
        JobPhase.RUNNING, {JobPhase.RUNNING: 4},
    )  # fmt: skip
    assert not paper.attempts("try"), "the sweep itself runs nothing"


def test_every_rank_finds_its_values_in_its_environment() -> None:
    paper = swept(sweep={"lr": [1e-3], "warm": [True]}, env={"MADANG_SWEEP_LR": "mine"})
    paper.settle()
    (attempt,) = paper.attempts("try-1")
    member = Member(
        uid="u", job=one(paper, "try-1"), attempt=attempt, number=0, master="127.0.0.1",
        accelerators=(), accelerator_kind="cpu", devices=(), files=(), cores=1.0, secrets={},
        mounts=(), owner=0, is_enclosed=False, progress="/p", checkpoints="/c", cwd="/w",
        library="/l", checkpoint_every_s=60.0,
    )  # fmt: skip
    env = launch(member).env
    assert (env["MADANG_SWEEP_LR"], env["MADANG_SWEEP_WARM"]) == ("0.001", "true")


def test_a_sweep_succeeds_once_all_of_its_jobs_have_and_what_comes_after_it_begins_then() -> None:
    paper = swept(job("then", after=["try"], needs=CARD))
    paper.settle()
    for number in (1, 2, 3):
        end(paper, f"try-{number}")
        assert one(paper, "then").status.phase is JobPhase.WAITING
    end(paper, "try-4")
    assert one(paper).status.phase is JobPhase.SUCCEEDED
    assert one(paper, "then").status.phase is JobPhase.RUNNING
    assert sweep_course(one(paper), paper.snapshot).jobs[0].metrics == {"loss": 0.5}


def test_a_job_that_fails_stops_no_other_and_the_sweep_says_how_many_did() -> None:
    paper = swept(resume={"attempts": 1})
    paper.settle()
    end(paper, "try-2", exit_code=1)
    assert one(paper, "try-2").status.phase is JobPhase.FAILED
    assert one(paper).status.phase is JobPhase.RUNNING
    for number in (1, 3, 4):
        end(paper, f"try-{number}")
    status = one(paper).status
    assert status.phase is JobPhase.FAILED
    assert status.reason is not None
    assert (status.reason.code, status.reason.values) == ("sweep.not-all", {"bad": 1, "count": 4})


def test_no_more_jobs_are_there_at_once_than_it_says() -> None:
    paper = swept(parallel=2)
    paper.settle()
    assert sorted(each.name for each in children(paper)) == ["try-1", "try-2"]
    end(paper, "try-1")
    assert [each.name for each in children(paper) if each.status.phase not in OVER] == [
        "try-2", "try-3",
    ]  # fmt: skip


def test_a_large_sweep_grows_by_a_number_at_a_time() -> None:
    paper = swept(cards=1, sweep={"seed": list(range(250))})
    paper.intend()
    assert len(children(paper)) == GROW_MAX
    assert not plan(paper.snapshot).actions
    paper.settle()
    assert one(paper).status.made == len(children(paper)) == 250


def test_cancel_suspend_and_delete_reach_every_job_of_it() -> None:
    paper = swept(cards=2)
    paper.settle()
    steer(paper, suspend=True)
    assert not list(paper.snapshot.holdings())
    assert one(paper).status.reason is not None
    steer(paper, suspend=False)
    assert one(paper).status.reason is None
    assert len(list(paper.snapshot.holdings())) == 2
    steer(paper, cancel=True)
    assert {each.status.phase for each in (*children(paper), one(paper))} == {JobPhase.CANCELLED}
    paper.put(one(paper).model_copy(update={"deleted_at": paper.now}))
    paper.settle()
    assert not paper.snapshot.jobs


def test_one_job_of_it_can_be_ended_alone_and_the_others_go_on() -> None:
    paper = swept()
    paper.settle()
    steer(paper, "try-3", cancel=True)
    phases = {each.name: each.status.phase for each in children(paper)}
    assert phases.pop("try-3") is JobPhase.CANCELLED
    assert set(phases.values()) == {JobPhase.RUNNING}


def test_a_name_that_another_job_has_is_not_taken_from_it() -> None:
    paper = swept(job("try-2", needs=CARD))
    paper.settle()
    reason = one(paper).status.reason
    assert reason is not None
    assert reason.code == "sweep.name-taken"
    assert not children(paper)


def test_jobs_of_a_sweep_that_is_not_over_are_kept_whatever_their_number() -> None:
    paper = swept(cards=1, parallel=1)
    paper.snapshot = replace(paper.snapshot, jobs_kept=1)
    paper.settle()
    for number in (1, 2, 3):
        end(paper, f"try-{number}")
    assert len(children(paper)) == 4
    end(paper, "try-4")
    assert one(paper).status.phase is JobPhase.SUCCEEDED
    assert not children(paper), "now they are as all others: the newest is kept, and that is it"


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"parallel": 2}, "value.parallel-alone"),
        ({"sweep": {"a": list(range(40)), "b": list(range(40))}}, "value.sweep-large"),
        ({"sweep": {"lr": [1], "LR": [2]}}, "value.sweep-names-meet"),
        ({"sweep": {"a": ["x" * 900]}, "command": ["{a}" * 10]}, "value.sweep-argument-long"),
        (
            {"sweep": {"a": [1]}, "mounts": {"/c": "volume://c"}, "resume": {"from": "/c"}},
            "value.sweep-saves-in-one",
        ),
    ],
)
def test_a_sweep_that_can_not_be_is_refused(spec: dict[str, object], code: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobSpec.model_validate({"command": "true", **spec})
    assert code in str(refused.value)


VALUES: st.SearchStrategy[list[Swept]] = st.lists(
    st.one_of(st.booleans(), st.integers(-5, 5), st.text("ab", max_size=2)),
    min_size=1, max_size=4, unique_by=repr,
)  # fmt: skip


@settings(max_examples=examples(50))
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, min_size=1))
def test_the_numbers_from_one_name_each_combination_once(sweep: dict[str, list[Swept]]) -> None:
    fixed: dict[str, tuple[Swept, ...]] = {name: tuple(each) for name, each in sweep.items()}
    found: Sequence[tuple[Swept, ...]] = [
        tuple(combination(fixed, number).values()) for number in range(1, combinations(fixed) + 1)
    ]
    assert list(map(repr, found)) == [
        repr(each) for each in product(*(fixed[name] for name in sorted(fixed)))
    ]
