"""Rounds in words: what operators type, what is asked of the API for it, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from madang.cli.options import Options
from madang.control import granting, rounding
from madang.control.rounding import RoundAsked
from madang.planning.grants import Around
from madang.planning.rounds.calls import outcome
from madang.planning.snapshot import Snapshot
from madang.resources.grant import Grant
from madang.resources.resource import Ref
from madang.resources.rights import RIGHTS, Principal, Role
from madang.testing.builders import grant, node, round_, snapshot

from .conftest import Run

LEE = Principal(actor="key/lee", role=Role.OPERATOR, rights=RIGHTS[Role.OPERATOR], user="x/lee")
PLENTY = Around((), ("nvidia/h100",) * 100)


def asked(name: str, count: int, effect: float) -> Grant:
    made = grant(name, f"{name}/lab", count=count, round="first", sector="academia")
    said = granting.Asked(what="review", points={"effect": effect})
    return granting.act(LEE, made, said, 1_000.0, PLENTY)


class Desk:
    """What stands where the API would: the real decisions, on a world on paper."""

    def __init__(self) -> None:
        call = round_(title="봄 공모", floors={"academia": 1})
        self.now: Snapshot = snapshot(
            node("one", cards=4), call, asked("a", 3, 30), asked("b", 3, 20), now=call.closes
        )
        self.said: list[dict[str, Any]] = []

    def act(self, kind: str, name: str, what: str, **said: Any) -> Any:
        self.said.append({"kind": kind, "name": name, "what": what, **said})
        found = self.now.rounds[Ref("", name)]
        moved, grants = rounding.act(LEE, found, RoundAsked(what=what, **said), self.now)  # type: ignore[arg-type]
        now = self.now.after([moved, *grants])
        self.now = self.now if said.get("dry_run") else now
        return self.told(now)

    def calls(self, name: str = "") -> list[Any]:
        assert name in {"", "first"}
        return [self.told(self.now)]

    def told(self, now: Snapshot) -> Any:
        (found,) = now.rounds.values()
        return outcome(found, now, lambda _: True).model_dump(mode="json")

    def apply(self, documents: list[Any]) -> None:
        self.said += documents

    def get(self, kind: str, name: str) -> Any:
        return {"kind": kind, "name": name, "spec": self.said[-1],
                "status": {"phase": "requested", "count": 0}}  # fmt: skip


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk()
    client: Callable[[Options], Any] = lambda _: nullcontext(made)  # noqa: E731
    monkeypatch.setattr(Options, "client", client)
    return made


def test_an_award_is_tried_told_and_asked_for(run: Run, desk: Desk) -> None:
    tried = run("round", "award", "first", "--dry-run")
    assert (tried.status, desk.said[-1]["dry_run"]) == (0, True)
    assert tried.out.startswith("Nothing was changed.")
    done = run("round", "award", "first", "--note", "as called")
    assert desk.said[-1] == {
        "kind": "round", "name": "first", "what": "award", "text": "as called", "dry_run": False,
        "again": False, "overcommit": False,
    }  # fmt: skip
    assert done.out.splitlines()[0] == "round/first  awarded  봄 공모"
    assert "4 accelerators, 4 given, 0 left" in done.out
    assert "academia  2         6      4      1" in done.out
    assert "1     a/lab/a  academia  30     3      3      All 3: rank 1 of 2, 30 points" in done.out
    assert (
        "2     b/lab/b  academia  20     3      1      1 of 3: rank 2 of 2, 20 points" in done.out
    )
    assert "Its note: as called" in done.out
    assert "the same." in done.out


def test_a_second_award_is_a_conflict_with_the_next_step(run: Run, desk: Desk) -> None:
    run("round", "award", "first")
    again = run("round", "award", "first")
    assert (again.status, again.out) == (5, "")
    assert "madang round award first --again" in again.err


@pytest.mark.parametrize("arguments", [
    ("explain", "first"), ("award", "first"), ("award", "first", "--dry-run"),
])  # fmt: skip
def test_json_is_the_whole_answer_and_nothing_else(
    run: Run, desk: Desk, arguments: tuple[str, ...]
) -> None:
    told = json.loads(run("round", *arguments, "--json").out)
    assert (told["name"], told["total"]) == ("first", 4)


def test_rounds_are_listed(run: Run, desk: Desk) -> None:
    heading, line = run("round", "list").out.splitlines()
    assert heading.split() == [
        "NAME", "PHASE", "KIND", "ACCELERATORS", "GIVEN", "CLOSES", "FROM", "UNTIL",
    ]  # fmt: skip
    assert line.split() == [
        "first", "closed", "nvidia", "4", "0", "2026-11-01", "2026-12-01", "2027-06-01",
    ]  # fmt: skip
    assert [each["name"] for each in json.loads(run("round", "list", "--json").out)] == ["first"]


@pytest.mark.parametrize(("language", "words"), [
    ("en", ("Judged otherwise since then", "Appeals since then")),
    ("ko", ("그 뒤 채점이 바뀌었지만", "그 뒤 제기된 이의")),
])  # fmt: skip
def test_explain_tells_what_is_otherwise_since_then(
    run: Run, desk: Desk, monkeypatch: pytest.MonkeyPatch, language: str, words: tuple[str, ...]
) -> None:
    run("round", "award", "first")
    found = desk.now.grants[Ref("b/lab", "b")]
    for what, said in (("review", {"points": {"effect": 40}}), ("appeal", {"text": "page 3"})):
        who = LEE if what == "review" else LEE.model_copy(update={"where": "b/lab"})
        deed = granting.Asked.model_validate({"what": what, **said})
        found = granting.act(who, found, deed, desk.now.now, PLENTY)
    desk.now = desk.now.after([found])
    monkeypatch.setenv("MADANG_LANG", language)
    told = run("round", "explain", "first").out
    assert all(f"{word}" in told for word in words)
    assert told.count("b/lab/b") == 3, "its row, its score, its appeal"


def test_more_than_is_there_is_told_with_the_numbers(run: Run, desk: Desk) -> None:
    desk.now = desk.now.after([], [each for ref, each in desk.now.accelerators.items()
                                   if ref.name == "one-3"])  # fmt: skip
    refused = run("round", "award", "first")
    assert refused.status == 5
    assert "would promise 4; there are 3" in refused.err
    assert "1 are missing" in run("round", "award", "first", "--dry-run").out
    assert run("round", "award", "first", "--overcommit").status == 0


def test_a_request_takes_kind_and_days_from_its_round(run: Run, desk: Desk) -> None:
    said = ("--count", "2", "--round", "first", "--sector", "academia", "--least", "1")
    assert run("grant", "request", "c", *said).status == 0
    assert desk.said[-1] == {
        "kind": "grant", "name": "c", "count": 2, "reason": "", "accelerator": "nvidia",
        "from": "2026-12-01", "until": "2027-06-01", "round": "first", "sector": "academia",
        "least": 1,
    }  # fmt: skip
    run("grant", "request", "d", *said, "--burst", "--days", "2026-12-01..2026-12-10")
    assert (desk.said[-1]["burst"], desk.said[-1]["until"]) == (True, "2026-12-10")
