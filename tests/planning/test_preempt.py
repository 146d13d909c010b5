"""Who makes room for whom: only for what counts for more, where it helps, seldom, at least cost."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from madang.planning.action import Verb, assume
from madang.planning.plan import plan
from madang.planning.queue.waiting import PER_HOUR_MAX
from madang.resources.attempt import Attempt, AttemptPhase, Outcome
from madang.resources.job import Job, JobPhase, Priority
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, job, model, node, service, snapshot
from madang.testing.paper import Paper

LIVING = {AttemptPhase.STARTING, AttemptPhase.RUNNING}


def a_job(name: str, count: int = 1, priority: str = "low", **spec: object) -> Job:
    needs = {"accelerator": "nvidia", "count": count}
    return job(name, needs=needs, priority=priority, **spec)


def on(paper: Paper) -> set[str]:
    """Return the jobs that run."""
    attempts = paper.snapshot.attempts.values()
    return {a.spec.job for a in attempts if a.status.phase in LIVING}


def made_room(paper: Paper) -> set[str]:
    attempts = paper.snapshot.attempts.values()
    return {a.spec.job for a in attempts if a.status.room_for}


def world(*jobs: Job, cards: int = 4, nodes: int = 1) -> Paper:
    """Return a world in which these run."""
    paper = Paper(snapshot(*(node(f"n{i}", cards=cards) for i in range(nodes)), *jobs))
    paper.settle()
    assert on(paper) == {each.name for each in jobs}
    return paper


def test_a_job_that_counts_for_less_saves_makes_room_and_goes_on_afterwards() -> None:
    paper = world(a_job("low", 4))
    (first,) = paper.attempts("low")
    paper.tell(first, 0, step=7)
    paper.put(a_job("urgent", 2, "normal"))
    planned = paper.turn()
    told = {a.verb: a.reason.values for a in planned.actions}
    assert told[Verb.SAVE_ATTEMPT]["for"] == "job/urgent"
    assert told[Verb.MAKE_ROOM]["jobs"] == "job/low"
    paper.settle()
    assert on(paper) == {"urgent"}
    status = paper.snapshot.jobs[Ref(PROJECT, "low")].status
    assert (status.phase, status.preempted, len(status.preempted_at)) == (JobPhase.WAITING, 1, 1)
    assert paper.attempts("low")[0].status.outcome is Outcome.PREEMPTED
    (urgent,) = paper.attempts("urgent")
    for rank in (0, 1):
        paper.tell(urgent, rank, exit_code=0, ended_at=paper.now, pid=0)
    paper.settle()
    assert on(paper) == {"low"}
    assert paper.attempts("low")[1].spec.first_step == 7


@pytest.mark.parametrize(("running", "waiting"), [
    ("low", "low"), ("normal", "normal"), ("normal", "low"), ("high", "normal"), ("high", "high"),
])  # fmt: skip
def test_nobody_makes_room_for_what_counts_no_more(running: str, waiting: str) -> None:
    paper = world(a_job("first", 4, running))
    paper.put(a_job("second", 2, waiting))
    paper.settle()
    assert on(paper) == {"first"}
    assert not made_room(paper)


def test_nobody_makes_room_where_it_would_not_help() -> None:
    paper = world(a_job("low", 4))
    paper.put(a_job("huge", 8, "high"))
    paper.settle()
    assert on(paper) == {"low"}
    assert not made_room(paper)


def test_who_has_least_at_stake_goes_best_just_after_a_checkpoint() -> None:
    paper = world(a_job("a", 2), a_job("b", 2))
    (fresh,) = paper.attempts("b")
    paper.wait(600)
    paper.tell(fresh, 0, step=9, checkpoint="step-9")
    paper.settle()
    paper.put(a_job("urgent", 2, "normal"))
    paper.settle()
    assert on(paper) == {"a", "urgent"}


def test_one_large_job_stays_where_small_ones_have_less_at_stake() -> None:
    paper = world(a_job("large", 8), *(a_job(f"small{i}", 1) for i in range(4)), cards=12)
    paper.wait(600)
    paper.put(a_job("urgent", 4, "normal"))
    paper.settle()
    assert on(paper) == {"large", "urgent"}


def test_no_more_make_room_than_must() -> None:
    paper = world(*(a_job(f"j{i}", 1) for i in range(4)), a_job("big", 4), cards=8)
    for name in ("j0", "j1", "j2", "j3"):
        known = paper.snapshot.jobs[Ref(PROJECT, name)]
        assert known.status.phase is JobPhase.RUNNING
    paper.put(a_job("urgent", 2, "normal"))
    paper.settle()
    assert len(made_room(paper)) == 2


def test_what_several_let_go_of_is_free_at_once_and_nobody_behind_takes_a_part() -> None:
    paper = world(a_job("a", 2), a_job("b", 2))
    slow = paper.attempts("b")[0]
    paper.put(a_job("urgent", 4, "normal"), a_job("behind", 2))
    paper.deaf.add(f"{slow.uid}-0")
    for _ in range(8):
        paper.turn()
        paper.wait(1)
        assert "behind" not in on(paper)
    paper.deaf.clear()
    paper.settle(120)
    assert on(paper) == {"urgent"}


def test_a_service_takes_room_from_low_jobs_and_from_no_others() -> None:
    for priority, makes_way in (("low", True), ("normal", False)):
        paper = Paper(snapshot(node("n", cards=2), model(), a_job("train", 2, priority)))
        paper.settle()
        paper.put(service("bot", needs={"accelerator": "nvidia"}))
        paper.settle()
        assert (made_room(paper) == {"train"}) is makes_way
        assert bool([r for r in paper.replicas("bot") if r.status.accelerators]) is makes_way


def test_a_job_makes_room_three_times_an_hour_at_most() -> None:
    paper = world(a_job("low", 4))
    for number in range(6):
        paper.put(a_job(f"urgent{number}", 4, "normal"))
        paper.settle(30)
        for attempt in list(paper.snapshot.attempts.values()):
            if attempt.spec.job.startswith("urgent") and attempt.status.phase in LIVING:
                for rank in range(4):
                    paper.tell(attempt, rank, exit_code=0, ended_at=paper.now, pid=0)
        paper.settle(30)
    own = paper.attempts("low")
    assert sum(bool(a.status.room_for) for a in own) == PER_HOUR_MAX
    assert "low" in on(paper)
    paper.wait(3600)
    paper.settle()
    assert "urgent3" in on(paper), "the first of those that wait still"


def test_what_will_be_free_soon_is_waited_for() -> None:
    paper = world(a_job("leaving", 2), a_job("staying", 2))
    leaving = paper.snapshot.jobs[Ref(PROJECT, "leaving")]
    paper.deaf.add(f"{paper.attempts('leaving')[0].uid}-0")
    spec = leaving.spec.model_copy(update={"cancel": True})
    paper.put(leaving.model_copy(update={"spec": spec}))
    paper.turn()
    paper.put(a_job("urgent", 2, "normal"))
    paper.turn()
    assert not made_room(paper)


def test_a_project_is_not_told_whose_work_it_makes_room_for() -> None:
    paper = world(a_job("low", 4))
    paper.put(a_job("secret", 2, "normal", project="acme/other"))
    told = {a.verb: a.reason for a in paper.turn().actions}
    assert told[Verb.SAVE_ATTEMPT].code == "attempt.makes-room-elsewhere"
    assert "secret" not in str(told[Verb.SAVE_ATTEMPT].values)
    assert told[Verb.MAKE_ROOM].values["jobs"] == "-"


JOBS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(list(Priority)), st.integers(0, 900)), min_size=2,
    max_size=8,
)  # fmt: skip


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(JOBS)
@example([(1, Priority.HIGH, 401), (4, Priority.LOW, 186), (4, Priority.HIGH, 127),
          (2, Priority.LOW, 0), (2, Priority.LOW, 83), (2, Priority.HIGH, 0)])  # fmt: skip
@example([(4, Priority.HIGH, 341), (1, Priority.LOW, 204), (3, Priority.NORMAL, 472),
          (2, Priority.HIGH, 173), (3, Priority.HIGH, 162), (3, Priority.LOW, 288)])  # fmt: skip
def test_nobody_is_chased_to_and_fro(wanted: list[tuple[int, Priority, int]]) -> None:
    paper = Paper(snapshot(node("n0", cards=4), node("n1", cards=2)))
    for number, (count, priority, pause_s) in enumerate(wanted):
        paper.put(a_job(f"j{number}", count, priority, created_at=float(number)))
        before = snapshot_of(paper)
        paper.settle(10)
        assert plan(assume(paper.snapshot, plan(paper.snapshot))).actions == ()
        for left in made_room_since(paper, before):
            height = paper.snapshot.jobs[left.job].spec.priority.height
            gained = [a for a in paper.snapshot.living if a.uid not in before]
            heights = [paper.snapshot.jobs[a.job].spec.priority.height for a in gained]
            by_turn = left.status.reason.code.startswith("attempt.yields-")
            assert max(heights) >= height + (not by_turn), (
                "of one class only by a turn of the queue"
            )
        paper.wait(pause_s)
    for known in paper.snapshot.jobs.values():
        own = [a for a in paper.attempts(known.name) if a.status.room_for]
        assert len(own) <= PER_HOUR_MAX or paper.now > 1000 + 3600
        assert known.status.phase in {JobPhase.RUNNING, JobPhase.WAITING}


def snapshot_of(paper: Paper) -> set[str]:
    return {each.uid for each in paper.snapshot.living}


def made_room_since(paper: Paper, before: set[str]) -> list[Attempt]:
    attempts = paper.snapshot.attempts.values()
    return [a for a in attempts if a.uid in before and a.status.room_for]


def test_whoever_waits_is_told_the_same_in_any_order() -> None:
    paper = world(a_job("a", 2), a_job("b", 2))
    paper.put(a_job("urgent", 2, "normal"))
    now = paper.snapshot
    turned = {k: dict(reversed(list(v.items()))) for k, v in reversed(list(now.kept.items()))}
    assert plan(now) == plan(replace(now, kept=turned))
