"""`madang submit`: what stands before -- is Madang's, what stands behind it is the program's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest

from madang.cli.options import Options


class Applied:
    """A client that keeps what it was told to apply."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def apply(self, documents: list[dict[str, Any]], dry_run: bool) -> dict[str, Any]:
        assert not dry_run
        self.documents += documents
        return {}


@pytest.fixture
def submit(run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run `madang submit`, and return the job that came of it."""
    applied = Applied()
    monkeypatch.setattr(Options, "client", lambda _: applied)

    def submit(*arguments: str) -> dict[str, Any]:
        done = run("submit", "--no-code", *arguments)
        assert done.status == 0, done.err
        return applied.documents.pop()

    return submit


def test_all_behind_the_two_dashes_is_the_programs(submit) -> None:
    job = submit("--name", "train", "--", "python3", "train.py", "--name", "x", "-f", "--lr=1")
    assert job == {
        "kind": "job", "name": "train",
        "command": ["python3", "train.py", "--name", "x", "-f", "--lr=1"],
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [("--nosuch", "3", "--"), ("python3", "--lr", "3")])
def test_an_option_that_is_none_is_refused_and_no_part_of_the_command(run, wrong) -> None:
    done = run("submit", *wrong, "python3")
    assert (done.status, done.out) == (2, "")
    assert "Unknown option" in done.err


def test_needs_are_written_as_in_a_file(submit) -> None:
    said = "--needs", "accelerator=nvidia/h100,count=8", "--needs", "host_memory=64GB,cores=1.5"
    assert submit(*said, "--", "python3")["needs"] == {
        "accelerator": "nvidia/h100", "count": 8, "host_memory": "64GB", "cores": 1.5,
    }  # fmt: skip
    assert submit("--count", "2", "--needs", "memory=8GB", "--", "x")["needs"] == {
        "count": 2, "memory": "8GB",
    }  # fmt: skip


def test_needs_without_a_value_say_how_they_are_written(run) -> None:
    done = run("submit", "--needs", "memory", "--", "python3")
    assert "memory is no variable" in done.err
    assert done.status != 0
