"""What lanes are told: who is in them, what they may have, and when those that run save."""

from __future__ import annotations

import random
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest

from madang.errors import Rejected
from madang.planning.explain import explain
from madang.planning.memo import Memo
from madang.planning.queue.queues import LEAST_S, PROJECTS_MAX, _bounded
from madang.planning.share.rule import RULE
from madang.planning.snapshot import Snapshot
from madang.resources.job import Checkpoint, Job
from madang.resources.queue import Queue, Standing
from madang.resources.resource import Ref
from madang.settings import fairness_budget
from madang.testing.builders import PROJECT, job, node, quota, snapshot
from madang.testing.paper import Paper

ONE, TWO = "acme/one", "acme/two"
HOUR_S = 3600.0


def a_job(name: str, project: str = ONE, count: int = 1, **spec: Any) -> Job:
    made = job(name, project=project, needs={"accelerator": "nvidia", "count": count}, **spec)
    return made.model_copy(update={"uid": f"job-{project}-{name}"})


def on(paper: Paper) -> set[str]:
    """Return the jobs that hold something."""
    return {attempt.spec.job for attempt in paper.snapshot.living}


def queue(paper: Paper) -> Queue:
    return paper.snapshot.queues[Ref("", "nvidia-h100")]


def saved(paper: Paper, name: str, *ago_s: float) -> None:
    """Let a job have saved so long ago, what is newest last."""
    own = paper.snapshot.jobs[Ref(ONE, name)]
    made = [
        Checkpoint(
            name=f"{name}-{ago}", step=1, at=paper.now - ago, size_bytes=1,
            attempt=own.status.attempt, digest="sha256:" + "0" * 64,
        )
        for ago in ago_s
    ]  # fmt: skip
    paper.put(own.with_status(checkpoints=tuple(made)))


def test_who_saves_soon_is_asked_to_make_room_just_after_and_not_before() -> None:
    paper = Paper(snapshot(node("n", cards=2), a_job("one"), a_job("two")))
    paper.settle()
    paper.wait(3 * HOUR_S)
    paper.settle()
    for name in ("one", "two"):
        saved(paper, name, 1.9 * HOUR_S, 0.9 * HOUR_S)
    paper.put(a_job("small", TWO, created_at=paper.now))
    paper.settle(10)
    assert on(paper) == {"one", "two"}, "it would lose 54 minutes of work, and saves in 6"
    wake_s = paper.turn().wake_s
    assert wake_s is not None
    assert wake_s <= 0.1 * HOUR_S
    saved(paper, "two", 1.0 * HOUR_S, 0.0)
    paper.settle(10)
    told = [a for a in paper.snapshot.attempts.values() if a.status.room_for]
    assert [a.spec.job for a in told] == ["two"], "it has just saved, and the other has not"


@pytest.mark.parametrize("late_h", [1.1, 0.3])
def test_nobody_waits_for_who_does_not_save_when_it_should_or_not_soon(late_h: float) -> None:
    paper = Paper(snapshot(node("n", cards=1), a_job("runs")))
    paper.settle()
    paper.wait(3 * HOUR_S)
    paper.settle()
    saved(paper, "runs", late_h * HOUR_S)
    paper.put(a_job("small", TWO, created_at=paper.now))
    paper.settle(10)
    assert [a.spec.job for a in paper.snapshot.attempts.values() if a.status.room_for] == ["runs"]


def test_nobody_is_entitled_to_more_than_its_quota_and_the_others_have_the_rest() -> None:
    limit = quota(ONE, accelerators={"nvidia": 1})
    paper = Paper(snapshot(node("n", cards=4), limit, a_job("first", count=1)))
    paper.settle()
    paper.put(*(a_job(f"j{n}", project) for n in range(6) for project in (ONE, TWO)))
    paper.settle(8)
    stands = queue(paper).status.projects
    assert (stands[ONE].entitled, stands[TWO].entitled) == (1.0, 3.0)


def test_what_is_kept_of_a_line_tells_as_much_as_what_is_made_anew() -> None:
    chance = random.Random(11)
    paper, memo = Paper(snapshot(*(node(f"n{n}", cards=4) for n in range(2)))), Memo()
    for turn in range(40):
        name, project = f"j{turn}", chance.choice((ONE, TWO))
        paper.put(a_job(name, project, chance.choice((1, 1, 2)), created_at=paper.now,
                        after=[f"j{chance.randrange(turn)}"] if turn % 7 == 6 else ()))  # fmt: skip
        if turn == 20:
            paper.put(quota(ONE, accelerators={"nvidia": 3}, queued=4))
        if turn % 5 == 4:
            waits = chance.choice([j for j in paper.snapshot.open_jobs if not j.spec.after])
            spec = waits.spec.model_copy(update={chance.choice(("suspend", "cancel")): True})
            paper.put(waits.model_copy(update={"spec": spec}))
        for attempt in list(paper.snapshot.living)[: turn % 3]:
            for rank in range(4):
                paper.tell(attempt, rank, exit_code=0, ended_at=paper.now, pid=0)
        for _ in range(3):
            paper.turn()
            paper.wait(chance.choice((1, 30, 400)))
            warm, cold = memo.order(paper.snapshot), Memo().order(paper.snapshot)
            assert warm.waiting == cold.waiting
            assert warm.door == cold.door
            assert {kind: lane.members for kind, lane in warm.lanes.items()} == {
                kind: lane.members for kind, lane in cold.lanes.items()
            }
            for kind, lane in warm.lanes.items():
                for one, other in zip(astuple(lane.line), astuple(cold.lanes[kind].line),
                                      strict=True):  # fmt: skip
                    assert np.array_equal(one, other)


@pytest.mark.parametrize(("budget", "due"), [(0.04, 1.0), (0.5, 0.0)])
def test_the_less_a_project_may_go_short_of_the_sooner_its_share_is_its_own(
    budget: float, due: float
) -> None:
    paper = Paper(replace(snapshot(node("n", cards=2)), fairness_budget=budget))
    paper.put(*(a_job(f"runs{n}", priority="high") for n in range(2)))
    paper.settle()
    paper.put(a_job("waits", TWO))
    paper.settle(5)
    stored = queue(paper)
    standing = stored.status.projects[TWO]
    short = standing.model_copy(update={"entitled_s": 1e6, "short_s": 5e4})
    paper.put(stored.with_status(projects={**stored.status.projects, TWO: short}))
    lane = Memo().order(paper.snapshot).lanes["nvidia/h100"]
    assert lane.due[lane.index[TWO]] == pytest.approx(due, abs=0.01)
    found = {each.code: each for each in explain(
        paper.snapshot.jobs[Ref(TWO, "waits")], paper.snapshot
    ).findings}  # fmt: skip
    assert found["queue.project"].values["budget"] == pytest.approx(100 * budget)


@pytest.mark.parametrize("given", ["2", "0.6", "0.009", "-0.1", "much", "0.1e1", "13 %"])
def test_a_budget_that_is_none_is_refused_with_what_is_meant(given: str) -> None:
    assert fairness_budget({}) == RULE.budget == Snapshot(0.0, 0, {}, {}).fairness_budget
    with pytest.raises(Rejected) as refused:
        fairness_budget({"MADANG_FAIRNESS_BUDGET": given})
    assert refused.value.code == "setting.fairness"


def test_of_kinds_that_would_all_do_one_waits_for_that_of_which_there_is_most() -> None:
    few, many = node("few", cards=2, kind="nvidia/a100"), node("many", cards=4, kind="nvidia/l40s")
    busy = [job(f"r{n}", needs={"accelerator": "nvidia", "count": 2}) for n in range(3)]
    paper = Paper(snapshot(few, many, *busy))
    paper.settle()
    paper.put(job("waits", needs={"accelerator": "nvidia", "count": 2}, created_at=1.0))
    paper.settle()
    line = paper.snapshot.jobs[Ref(PROJECT, "waits")].status.line
    assert line is not None
    assert line.queue == "nvidia-l40s"


def test_a_queue_forgets_who_has_no_use_for_it_and_was_entitled_to_next_to_nothing() -> None:
    known = {
        "a/uses": Standing(demand=1.0), "a/holds": Standing(held=1.0),
        "a/was": Standing(entitled_s=LEAST_S), "a/taught": Standing(ended={0: {3: 1}}),
        "a/passed": Standing(entitled_s=LEAST_S - 1),
    }  # fmt: skip
    assert sorted(_bounded(known)) == ["a/holds", "a/taught", "a/uses", "a/was"]
    crowd = {f"a/p{n}": Standing(entitled_s=LEAST_S + n) for n in range(PROJECTS_MAX)}
    kept = _bounded({**crowd, "a/uses": Standing(demand=1.0)})
    assert len(kept) == PROJECTS_MAX
    assert "a/uses" in kept
    assert "a/p0" not in kept, "who was entitled to least of late goes first"
