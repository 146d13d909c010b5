"""What `madang watch` and `madang explain` say of a job: where it is, what it lost, why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from madang.answers import Course, RankCourse
from madang.cli.course import Series, body, chart, lines
from madang.cli.output import width_of

KILLED = {"code": "job.killed", "values": {"rank": 1, "signal": 9, "exit_code": -9}}

WHY = "Rank 1 was killed (signal 9): perhaps the machine ran out of memory."


CADENCE = (
    "asked to save every 8 min 30 s: a checkpoint takes 1.25 s; "
    "pool default has failed 3 times in 2,500.0 accelerator hours"
)


def rank(number: int = 0, **more: Any) -> RankCourse:
    said: Any = {
        "rank": number, "node": "box", "step": 81, "phase": "", "quiet_s": 0.4, "exit_code": None,
        "metrics": {},
    }  # fmt: skip
    return said | more


def course(**more: Any) -> Course:
    said: Any = {
        "name": "train", "phase": "running", "attempt": 2, "attempts": 20, "step": 81,
        "total": 100, "step_s": 0.3, "left_s": 5.7, "saved_step": 80, "saved": "step-000080",
        "saved_bytes": 21_900_000, "run_s": 26.0, "lost_s": 3.0, "goodput": 0.885,
        "save_every_s": 510.0, "write_s": 1.25, "pool": "default", "pool_faults": 3,
        "pool_run_s": 2_500 * 3600.0,
        "reason": None, "cause": KILLED, "ranks": [rank(0), rank(1, step=80)], "history": [],
    }  # fmt: skip
    return said | more


def test_where_it_is_what_it_lost_and_why_stand_on_one_screen() -> None:
    past = {
        "number": 1, "outcome": "fault", "nodes": ["box"], "first_step": 0, "step": 72,
        "run_s": 65.0, "cause": KILLED,
    }  # fmt: skip
    assert list(lines(course(history=[past]))) == [
        "train: running, attempt 2 of 20  box",
        "  ████████████████████████░░░░░░ 81/100  about 6 s left",
        "  saved: step 80 (step-000080, 21.9MB)  lost: 3 s of 26 s (goodput 88.5%)",
        f"  {CADENCE}",
        "  ranks: 2 of 2 run, at step 80–81",
        f"  attempt 1 on box: from step 0 to 72 in 1 min 5 s: {WHY}",
    ]


def test_why_the_last_attempt_ended_is_said_once() -> None:
    past: Any = {
        "number": 2, "outcome": "error", "nodes": ["box"], "first_step": 0, "step": 3,
        "run_s": 1.0, "cause": KILLED,
    }  # fmt: skip
    assert sum(WHY in each for each in lines(course(history=[past]))) == 1
    failed = course(phase="failed", reason=KILLED, history=[past])
    assert sum(WHY in each for each in lines(failed)) == 1


def test_a_job_that_has_not_begun_says_why() -> None:
    waiting = course(
        phase="waiting", attempt=0, step=-1, total=0, left_s=None, saved_step=-1, saved="",
        save_every_s=0.0, goodput=None, ranks=[],
        reason={"code": "job.after", "values": {"job": "text"}},
    )  # fmt: skip
    assert list(lines(waiting)) == [
        "train: waiting, attempt 0 of 20",
        "  It comes after job text, which is not done yet.",
    ]


def test_ranks_that_stand_out_are_named_and_never_a_thousand_of_them() -> None:
    found = [
        rank(0), rank(1, exit_code=-9), rank(2, exit_code=3), rank(3, quiet_s=75.0),
        rank(4, quiet_s=12.0, phase="evaluation"),
    ]  # fmt: skip
    told = list(body(course(ranks=found)))[3:]
    assert told == [
        "ranks: 3 of 5 run, at step 81",
        "rank 1 on box: ended by signal 9, after step 81",
        "rank 2 on box: ended with code 3, after step 81",
        "rank 3 on box: nothing new for 1 min 15 s, after step 81",
        "rank 4 on box: nothing new for 12 s, after step 81 evaluation",
    ]
    many = course(ranks=[rank(n, exit_code=1) for n in range(1000)])
    assert len(list(body(many))) == 13
    assert list(body(many))[-1] == "and 992 more ranks like these"


def test_how_often_it_is_asked_to_save_is_said_while_that_matters() -> None:
    first = course(write_s=0.0)
    assert any("what a checkpoint takes is not known yet" in each for each in body(first))
    assert not any("asked to save" in each for each in body(course(phase="succeeded")))


def test_a_phase_stands_beside_the_bar() -> None:
    evaluating = course(ranks=[rank(phase="evaluation")])
    assert next(body(evaluating)).endswith("81/100  about 6 s left  evaluation")
    assert next(body(course(total=0, left_s=None))) == "step 81"


class Told:
    """A client that has told so much of a job's progress."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)

    def progress(self, _job: str, _rank: int, after: int) -> Any:
        if len(self.answers) > 1 and self.answers[0]["next"] <= after:
            self.answers.pop(0)
        told = self.answers[0]
        return told | {"lines": []} if told["next"] <= after else told


def line(**metrics: float) -> str:
    return json.dumps({"step": 1, "metrics": metrics})


def test_all_that_was_said_is_drawn_at_once_however_long_it_goes_already() -> None:
    parts = [
        {"attempt": 1, "rank": 0, "lines": [line(loss=n)], "next": 10 * (n + 1)} for n in range(9)
    ]
    series = Series(Told(*parts), "train")  # type: ignore[arg-type]
    series.look()
    assert list(series.charts()) == ["  loss  ▁▂▃▄▅▅▆▇█  8  (0 to 8)"]


def test_a_later_attempt_is_drawn_behind_the_one_before() -> None:
    first = {"attempt": 1, "rank": 0, "lines": [line(loss=4)], "next": 10}
    series = Series(Told(first), "train")  # type: ignore[arg-type]
    series.look()
    told = Told({"attempt": 2, "rank": 0, "lines": [line(loss=2)], "next": 10})
    series._client = told  # type: ignore[assignment]
    series.look()
    assert list(series.charts()) == ["  loss  █▁  2  (2 to 4)"]


def test_names_in_any_script_stand_in_columns_and_nothing_is_kept_without_end() -> None:
    said = [line(손실=n, rate=1) for n in range(10_000)] + ["torn", '{"metrics": 7}']
    series = Series(Told({"attempt": 1, "rank": 0, "lines": said, "next": 10}), "train")  # type: ignore[arg-type]
    series.look()
    drawn = list(series.charts())
    assert {width_of(each.partition("█")[0].partition("▁")[0]) for each in drawn} == {8}
    assert max(map(len, series._values.values())) <= 4096


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], list(range(1000))])
def test_a_chart_is_never_wider_than_it_may_be(values: list[float]) -> None:
    assert 0 < len(chart(values)) <= 48
