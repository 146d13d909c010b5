"""Sweeps in words: what is written on the command line, and how their jobs are listed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from madang.answers import SweepCourse, SweptCourse
from madang.cli import job
from madang.cli.sweep import TOLD_MAX, lines, ranked, swept
from madang.errors import Rejected


def one(number: int, phase: str = "succeeded", **metrics: float) -> SweptCourse:
    return SweptCourse(
        name=f"try-{number}", phase=phase, values={"lr": f"{number}e-3", "warm": True}, step=4,
        total=9, metrics=metrics, reason=None,
    )  # fmt: skip


def test_the_best_come_first_and_what_has_no_such_metric_is_left_out() -> None:
    jobs = [one(1, loss=2.0), one(2, loss=1.0), one(3), one(4, loss=3.0)]
    assert [each["name"] for each in ranked(jobs, "loss")] == ["try-2", "try-1", "try-4"]
    assert [each["name"] for each in ranked(jobs, "max:loss")] == ["try-4", "try-1", "try-2"]


def test_without_a_metric_those_under_way_come_first() -> None:
    jobs = [one(1, "waiting"), one(2), one(3, "running"), one(4, "failed")]
    assert [each["name"] for each in ranked(jobs)] == ["try-3", "try-4", "try-2", "try-1"]


def test_a_large_sweep_is_told_in_a_screen() -> None:
    now = SweepCourse(
        name="try", phase="running", count=1000, made=1000, counts={"running": 1000}, reason=None,
        jobs=[one(number, "running", loss=0.25) for number in range(1, 1001)],
    )  # fmt: skip
    told = list(lines(now))
    assert len(told) == TOLD_MAX + 2
    assert "lr=1e-3 warm=true" in told[1]
    assert "4/9" in told[1]
    assert "loss 0.25" in told[1]
    assert "980" in told[-1]


@pytest.mark.parametrize("written", ["lr", "=1", "lr=", "--"])
def test_what_is_no_sweep_is_refused(written: str) -> None:
    with pytest.raises(Rejected):
        swept([written])
    with pytest.raises(Rejected):
        swept(["lr=1", "lr=2"])


def test_what_is_no_metric_is_refused() -> None:
    for written in ("most:loss", "max:"):
        with pytest.raises(Rejected):
            ranked([one(1)], written)


class OneSweep:
    """What `watch` asks of a client, whose sweep goes on with each look."""

    def __init__(self, *looks: SweepCourse) -> None:
        self.looks = list(looks)

    def get(self, kind: str, name: str) -> dict[str, object]:
        return {"kind": kind, "name": name, "spec": {"sweep": {"lr": [1]}}}

    def sweep(self, _name: str) -> SweepCourse:
        return self.looks.pop(0)


def at(phase: str, **counts: int) -> SweepCourse:
    return SweepCourse(
        name="try", phase=phase, count=2, made=2, counts=counts, reason=None,
        jobs=[one(1, loss=2.0), one(2, loss=1.0)],
    )  # fmt: skip


def test_a_sweep_is_watched_until_it_is_over_and_its_end_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "LOOK_S", 0)
    client: Any = OneSweep(at("running", running=2), at("running", running=2), at("succeeded"))
    assert job._follow(client, "try", as_json=False, best="loss") == 0
    told = capsys.readouterr().out.splitlines()
    assert len([line for line in told if line.startswith("sweep try")]) == 2, "only what is news"
    assert told[1].startswith("  try-2")
    client = OneSweep(at("failed", failed=1, succeeded=1))
    assert job._follow(client, "try", as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["counts"] == {"failed": 1, "succeeded": 1}
