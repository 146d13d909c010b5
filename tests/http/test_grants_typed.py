"""`madang grant`, typed by people of every role: what a real control lets it say, how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from madang.cli import main

from .conftest import Yard, serving

LAB = ("--project", "acme/lab")
ASKED = ("--accelerator", "cpu", "--count", "1", "--days", "2020-01-01..2999-01-01")
POINTS = ("--points", "effect=33.6,plan=31.6,need=25")
PEOPLE = {
    "kim": ("acme", {"acme/lab": "member"}), "vi": ("acme", {"acme/lab": "viewer"}),
    "eun": ("beta", {"beta/one": "member"}), "rev": ("beta", {"site": "member"}),
    "boss": ("beta", {"site": "operator"}), "near": ("acme", {"site": "operator"}),
}  # fmt: skip
"""By name: of which organization, with which role where."""


class Said(NamedTuple):
    status: int
    out: str
    err: str


Typed = Callable[..., Awaitable[Said]]


@pytest.fixture
async def typed(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Typed]:
    """Type a command as somebody."""
    for name in ("MADANG_LANG", "MADANG_PROJECT", "MADANG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    await yard.apply(
        *({"kind": "organization", "name": name} for name in ("acme", "beta")),
        *({"kind": "project", "name": name} for name in ("acme/lab", "beta/one")),
        *({"kind": "user", "name": f"{home}/{name}", "roles": roles}
          for name, (home, roles) in PEOPLE.items()),
    )  # fmt: skip
    keys = {}
    for name, (home, roles) in PEOPLE.items():
        ((where, role),) = roles.items()
        asked = {
            "name": f"k-{name}",
            "role": role,
            "where": where.removeprefix("site"),
            "user": f"{home}/{name}",
        }
        keys[name] = (await yard.post("key", asked))["key"]

    async def type_it(name: str, *words: str) -> Said:
        monkeypatch.setenv("MADANG_KEY", keys[name])
        capsys.readouterr()
        status = await asyncio.to_thread(main, ["grant", *words])
        return Said(status, *capsys.readouterr())

    async with serving(yard) as url:
        monkeypatch.setenv("MADANG_URL", url)
        yield type_it


async def test_a_grant_is_typed_from_its_request_to_its_appeal(typed: Typed, yard: Yard) -> None:
    said = await typed("kim", "request", "burst", *ASKED, "--reason", "한국어 모델", *LAB)
    assert said == (0, "grant/burst: requested, 1 accelerators\n", "")
    said = await typed("rev", "review", "burst", *POINTS, *LAB)
    assert said.out == (
        "grant/burst: reviewed, 1 accelerators\n"
        "  It has been reviewed; an operator of the site has yet to decide.\n"
    )
    said = await typed("boss", "approve", "burst", "--note", "go on", *LAB)
    assert "1 × cpu are approved, from 2020-01-01 until 2999-01-01." in said.out
    await yard.until("grant", "burst?project=acme/lab", "active")
    assert (await typed("kim", "list")).out.split() == [
        "NAME", "PHASE", "KIND", "ACCELERATORS", "FROM", "UNTIL", "SCORE", "PROJECT",
        "burst", "active", "cpu", "1", "2020-01-01", "2999-01-01", "90.2", "acme/lab",
    ]  # fmt: skip
    assert "renewed" in (await typed("boss", "renew", "burst", "--until", "3000-01-01", *LAB)).out
    assert "reclaimed" in (await typed("boss", "reclaim", "burst", "--note", "idle", *LAB)).out
    assert (await typed("kim", "appeal", "burst", "it was\x1b[31m not", *LAB)).status == 0
    said = await typed("vi", "explain", "burst", *LAB)
    lines = [line.strip() for line in said.out.splitlines()]
    assert lines[1:7] == [
        "It was taken back before its time.",
        "beta/rev gives 90.2: effect 33.6/40, plan 31.6/35, need 25/25",
        "Score 90.2: the mean of the cards that count (1)", "beta/boss approved 1 of 1: go on",
        "beta/boss renewed it:", "beta/boss took it back: idle",
    ]  # fmt: skip
    assert "\x1b" not in said.out


async def test_each_answers_as_json_too_and_in_korean(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words, phase in (
        ("kim", ("request", "burst", *ASKED), "requested"),
        ("rev", ("review", "burst", *POINTS), "reviewed"),
        ("boss", ("refuse", "burst"), "refused"),
        ("kim", ("appeal", "burst", "why?"), "refused"),
    ):
        said = await typed(name, *words, *LAB, "--json")
        assert (said.status, json.loads(said.out)["status"]["phase"]) == (0, phase)
    (listed,) = json.loads((await typed("kim", "list", "--json")).out)
    assert listed["name"] == "burst"
    assert json.loads((await typed("kim", "explain", "burst", *LAB, "--json")).out)["findings"]
    said = await typed("kim", "approve", "burst", *LAB, "--json")
    refused = json.loads(said.out or said.err)
    assert refused["error"]["code"] == "role.site-needed"
    monkeypatch.setenv("MADANG_LANG", "ko")
    assert "유효한 채점 1건" in (await typed("kim", "explain", "burst", *LAB)).out
    assert "두 날짜" in (await typed("kim", "request", "b", *ASKED[:4], "--days", "x", *LAB)).err


FORBIDDEN, MISSING, CONFLICT, WRONG = 77, 4, 5, 2
NEXT = "Ask an operator of the site"


REFUSED: list[tuple[str, tuple[str, ...], int, str]] = [
    ("vi", ("request", "more", *ASKED), FORBIDDEN, "needs the right to write"),
    ("vi", ("appeal", "burst", "no"), FORBIDDEN, "needs the right to write"),
    ("kim", ("review", "burst", *POINTS), FORBIDDEN, NEXT),
    ("kim", ("approve", "burst"), FORBIDDEN, NEXT),
    ("kim", ("refuse", "burst"), FORBIDDEN, NEXT),
    ("kim", ("renew", "burst", "--until", "3000-01-01"), FORBIDDEN, NEXT),
    ("kim", ("reclaim", "burst"), FORBIDDEN, NEXT),
    ("rev", ("approve", "burst"), FORBIDDEN, "needs the right to operate"),
    ("near", ("approve", "burst"), FORBIDDEN, "Another operator must."),
    ("near", ("approve", "burst", "--own", "--note", "x"), FORBIDDEN, "Ask beta/boss"),
    ("near", ("review", "burst", *POINTS, "--own", "--note", "x"), FORBIDDEN, "Ask beta/boss"),
    ("eun", ("explain", "burst"), MISSING, "there is no project acme/lab"),
    ("eun", ("approve", "burst"), MISSING, "there is no project acme/lab"),
    ("eun", ("appeal", "burst", "no"), MISSING, "there is no project acme/lab"),
    ("boss", ("reclaim", "nobody"), MISSING, "There is no grant/nobody"),
    ("boss", ("reclaim", "burst"), CONFLICT, "is reviewed: that can't be done now."),
    ("boss", ("approve", "burst", "--count", "9"), WRONG, "asked for 3, and 9 are more"),
    ("boss", ("approve", "burst", "--count", "3"), CONFLICT, "there are 1"),
    ("boss", ("approve", "burst", "--count", "0"), WRONG, "at least 1"),
    ("boss", ("approve", "burst", "--count", "-4"), WRONG, "at least 1"),
    ("boss", ("approve", "burst", "--count", "some"), WRONG, "--count"),
    ("rev", ("review", "burst"), WRONG, "says nothing"),
    ("rev", ("review", "burst", "--points", "effect=41"), WRONG, "effect 0..40"),
    ("rev", ("review", "burst", "--points", "luck=1"), WRONG, "plan 0..35"),
    ("rev", ("review", "burst", "--points", "effect"), WRONG, "a criterion and a number"),
    ("rev", ("review", "burst", "--points", "effect=nan"), WRONG, "no number"),
    ("kim", ("appeal", "burst", ""), WRONG, "must say something"),
    ("kim", ("appeal", "burst", "x" * 4001), WRONG, "4000"),
    ("kim", ("request", "../more", *ASKED), WRONG, "FULL STOP"),
    ("kim", ("explain", "../../burst"), WRONG, "no slash"),
    ("kim", ("request", "more", *ASKED[:2], "--count", "0", *ASKED[4:]), WRONG, "at least 1"),
    ("kim", ("request", "more", *ASKED[:2], "--count", "9" * 30, *ASKED[4:]), WRONG, "count"),
    ("kim", ("request", "more", *ASKED[:4], "--days", "2020-01-01..2020-02-01"), WRONG,
     "would be over since 2020-02-01"),
    ("kim", ("request", "more", *ASKED[:4], "--days", "2999-02-01..2999-01-01"), WRONG,
     "before it begins"),
    ("kim", ("request", "more", *ASKED[:4], "--days", "2999-02-30..2999-03-01"), WRONG,
     "2999-02-30 is no day"),
    ("kim", ("request", "more", *ASKED[:4], "--days", "2999-02-01"), WRONG, "two days are needed"),
]  # fmt: skip


async def test_what_may_not_be_is_refused_with_its_cause_and_its_exit_code(
    typed: Typed, yard: Yard
) -> None:
    asked = {"kind": "grant", "name": "burst", "project": "acme/lab", "accelerator": "cpu",
             "count": 3, "from": "2020-01-01", "until": "2999-01-01"}  # fmt: skip
    await yard.apply(asked)
    assert (await typed("rev", "review", "burst", *POINTS, *LAB)).status == 0
    for name, words, status, told in REFUSED:
        said = await typed(name, *words, *LAB)
        assert (said.status, said.out) == (status, ""), (name, words, said)
        assert told in said.err, (name, words)
        assert 1 <= len(said.err.strip().splitlines()) <= 2, "the cause, and the next step"


async def test_where_all_operators_are_of_one_organization_they_decide_and_that_is_told(
    typed: Typed, yard: Yard
) -> None:
    await typed("kim", "request", "burst", *ASKED, *LAB)
    why = ("--own", "--note", "all operators are ours")
    said = await typed("near", "review", "burst", *POINTS, *why, *LAB)
    assert (said.status, "of another organization" in said.err) == (FORBIDDEN, True)
    for name in ("rev", "boss"):
        roles = {"beta/one": "member"}
        await yard.apply({"kind": "user", "name": f"beta/{name}", "roles": roles})
    said = await typed("near", "review", "burst", *POINTS, "--own", *LAB)
    assert (said.status, "says why" in said.err) == (WRONG, True)
    said = await typed("near", "review", "burst", *POINTS, *LAB)
    assert "reviewed" not in said.out, "without saying so its card still counts for nothing"
    assert (await typed("near", "review", "burst", *POINTS, *why, *LAB)).status == 0
    assert (await typed("near", "approve", "burst", *LAB)).status == FORBIDDEN
    assert (await typed("near", "approve", "burst", *why, *LAB)).status == 0
    await yard.until("grant", "burst?project=acme/lab", "active")
    until = ("--until", "3000-01-01")
    assert (await typed("near", "renew", "burst", *until, *LAB)).status == FORBIDDEN
    assert (await typed("near", "renew", "burst", *until, *why, *LAB)).status == 0
    said = await typed("kim", "explain", "burst", *LAB)
    told = "acme/near is of the project's own organization; nobody of another one could decide: "
    assert said.out.count(told + "all operators are ours") == 3
    codes = [event["code"] for event in (await yard.get("event", limit=1000))["items"]]
    for did in ("reviewed", "approved", "renewed"):
        assert codes.count(f"grant.was-{did}-within") == 1


async def test_who_said_to_be_near_gives_nothing_however_alone(typed: Typed, yard: Yard) -> None:
    for name in ("rev", "boss"):
        await yard.apply({"kind": "user", "name": f"beta/{name}", "roles": {}})
    await typed("kim", "request", "burst", *ASKED, *LAB)
    why = ("--own", "--note", "alone")
    assert (await typed("near", "review", "burst", *POINTS, *why, *LAB)).status == 0
    assert (await typed("near", "review", "burst", "--conflict", *LAB)).status == 0
    said = await typed("near", "approve", "burst", *why, *LAB)
    assert (said.status, "too near" in said.err) == (FORBIDDEN, True)


async def test_a_reviewer_finds_the_requests_of_all_projects_and_a_member_only_its_own(
    typed: Typed, yard: Yard
) -> None:
    asked: dict[str, Any] = {"kind": "grant", "accelerator": "cpu", "count": 1,
                             "from": "2020-01-01", "until": "2999-01-01"}  # fmt: skip
    await yard.apply({**asked, "name": "one", "project": "acme/lab"})
    await yard.apply({**asked, "name": "two", "project": "beta/one"})
    rows = [row["name"] for row in json.loads((await typed("rev", "list", "--json")).out)]
    assert rows == ["one", "two"]
    rows = [row["name"] for row in json.loads((await typed("kim", "list", "--json")).out)]
    assert rows == ["one"]
    assert (await typed("kim", "list", "--project", "beta/one")).status == MISSING


def test_shells_complete_what_can_be_done_about_a_grant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["completion", "bash"]) == 0
    said = capsys.readouterr().out
    for word in ("request", "review", "approve", "refuse", "renew", "reclaim", "appeal"):
        assert word in said
