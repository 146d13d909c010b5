"""What a job that waits is told when somebody asks: by the world as it is now."""

from __future__ import annotations

from typing import Any

from madang.planning.explain import Explanation, explain
from madang.resources.job import Job
from madang.resources.resource import Reason, Ref
from madang.testing.builders import PROJECT, job, node, snapshot
from madang.testing.paper import Paper

TWO: dict[str, Any] = {"needs": {"accelerator": "nvidia", "count": 2}}


def asked(paper: Paper, name: str) -> Explanation:
    return explain(paper.snapshot.jobs[Ref(PROJECT, name)], paper.snapshot)


def in_turn(*jobs: Job) -> list[Job]:
    return [each.model_copy(update={"created_at": float(n)}) for n, each in enumerate(jobs)]


def test_a_job_in_line_is_told_how_many_are_before_it_and_who_counts_for_more() -> None:
    jobs = in_turn(
        job("runs", **TWO), job("same", **TWO), job("asks", **TWO), job("behind", **TWO),
        job("high", priority="high", nodes=2, **TWO), job("held", suspend=True, **TWO),
        job("low", priority="low", **TWO),
    )  # fmt: skip
    paper = Paper(snapshot(node("n", cards=2), node("ill", cards=2), *jobs))
    paper.lose("ill")
    paper.turn()
    paper.find("ill")
    told = {name: asked(paper, name) for name in ("runs", "same", "asks", "high", "held", "low")}
    places = {name: (each.ahead, each.ahead_higher) for name, each in told.items()}
    assert places == {
        "runs": (None, 0), "high": (0, 0), "same": (1, 1), "asks": (2, 1), "held": (None, 0),
        "low": (4, 4),
    }  # fmt: skip


def test_the_reason_is_that_of_now_and_not_the_one_written_down() -> None:
    paper = Paper(snapshot(node("n", cards=2), *in_turn(job("runs", **TWO), job("asks", **TWO))))
    paper.turn()
    before = paper.snapshot.jobs[Ref(PROJECT, "asks")]
    stale = before.with_status(reason=Reason(code="placement.no-such-kind"))
    told = explain(stale, paper.snapshot)
    assert told.reason is not None
    assert (told.reason.code, told.reason.values["fell_busy"]) == ("placement.nowhere-whole", 1)
    paper.put(*node("more", cards=2))
    paper.find("more")
    now = asked(paper, "asks").reason
    assert now is not None
    assert now.code == "job.starts-next"


def test_who_lacks_a_secret_is_told_so_and_is_ahead_of_nobody() -> None:
    jobs = in_turn(
        job("runs", **TWO), job("lacks", secrets={"TOKEN": "token"}, **TWO), job("asks", **TWO)
    )
    paper = Paper(snapshot(node("n", cards=2), *jobs))
    paper.turn()
    lacks = asked(paper, "lacks")
    assert lacks.reason is not None
    assert (lacks.reason.code, lacks.ahead) == ("job.no-secret", None)
    assert asked(paper, "asks").ahead == 0
