"""Rounds through the API: called, applied to, closed, tried, awarded; and what others are told."""

from __future__ import annotations

from typing import Any

import pytest

from madang.errors import Unavailable

from .conftest import Yard

ROUND = {
    "kind": "round", "name": "spring", "accelerator": "cpu", "capacity": 1, "unit": 1,
    "closes": "2999-01-01", "from": "2020-01-01", "until": "2999-02-01",
    "floors": {"academia": 0, "industry": 0}, "bursts": {"units": 1, "cap": 1, "days": 14},
}  # fmt: skip
LAB = "acme/lab"
PLACES = (
    {"kind": "organization", "name": "acme"}, {"kind": "project", "name": LAB},
    {"kind": "project", "name": "acme/room"},
)  # fmt: skip


def request(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "grant", "name": name, "accelerator": "cpu", "count": 1, "round": "spring",
            "sector": "academia", "from": "2020-01-01", "until": "2999-02-01", **more}  # fmt: skip


async def judged(yard: Yard, *, award: bool = True) -> None:
    """Call a round, have two requests judged, and close it."""
    await yard.apply(*PLACES, ROUND, request("a"), request("b", project=LAB))
    for path, effect in (("grant/a/act", 30), (f"grant/b/act?project={LAB}", 20)):
        await yard.post(path, {"what": "review", "points": {"effect": effect}})
    await yard.post("round/spring/act", {"what": "close"})
    if award:
        await yard.post("round/spring/act", {"what": "award"})


async def test_a_round_goes_from_its_call_to_an_award_and_each_request_is_explained(
    yard: Yard,
) -> None:
    await yard.apply(*PLACES, ROUND, request("a"), request("b", project=LAB))
    early = await yard.post("round/spring/act", {"what": "award"}, 409)
    assert early["error"]["code"] == "round.still-open"
    for path, effect in (("grant/a/act", 30), (f"grant/b/act?project={LAB}", 20)):
        await yard.post(path, {"what": "review", "points": {"effect": effect}})
    closed = await yard.post("round/spring/act", {"what": "close"})
    assert (closed["phase"], closed["decisions"]) == ("closed", [])
    tried = await yard.post("round/spring/act", {"what": "award", "dry_run": True})
    assert (await yard.get("round/spring"))["status"]["phase"] == "closed"
    done = await yard.post("round/spring/act", {"what": "award", "text": "by the rule"})
    rows = done["decisions"][0]["rows"]
    assert [(row["grant"], row["count"], row["rank"]) for row in rows] == [
        ("local/main/a", 1, 1), (f"{LAB}/b", 0, 2),
    ]  # fmt: skip
    assert tried["decisions"][0]["rows"] == done["decisions"][0]["rows"]
    assert tried["given"] == done["given"] == 1
    await yard.until("grant", "a", "active")
    lost = await yard.get("grant/b/explanation", project=LAB)
    assert lost["reason"]["code"] == "round.none-units"
    assert [each["code"] for each in lost["findings"]][-5:] == [
        "round.deed-award", "round.note", "round.holds", "round.none-units", "round.may-appeal",
    ]  # fmt: skip
    again = await yard.post("round/spring/act", {"what": "award"}, 409)
    assert again["error"]["code"] == "round.awarded-already"
    events = (await yard.get("event", limit=1000))["items"]
    told = [e for e in events if e["code"] == "round.was-awarded"]
    assert [e["values"]["digest"] for e in told] == [done["decisions"][0]["digest"]]
    assert sum(e["code"] == "grant.was-awarded" for e in events) == 2


async def test_what_comes_back_is_given_to_the_next_in_line_by_an_operator(yard: Yard) -> None:
    await judged(yard)
    await yard.post("grant/a/act", {"what": "decline"})
    assert (await yard.get("call/spring"))["free"] == 1
    given = await yard.post("round/spring/act", {"what": "next"})
    assert (given["free"], given["decisions"][1]["rows"][0]["grant"]) == (0, f"{LAB}/b")
    twice = await yard.post("grant/a/act", {"what": "decline"}, 409)
    assert twice["error"]["code"] == "grant.not-now"


async def test_an_award_that_fails_to_be_stored_has_changed_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await judged(yard, award=False)
    store, before = yard.desk.world.store, yard.desk.world.revision
    real, wrote = store.commit, []

    async def broken(who: Any, writes: Any, *more: Any) -> Any:
        if any(write.resource.kind == "round" for write in writes):
            wrote.append(sorted(write.resource.kind for write in writes))
            raise Unavailable("store.write-failed", cause="disk full")
        return await real(who, writes, *more)

    monkeypatch.setattr(store, "commit", broken)
    await yard.post("round/spring/act", {"what": "award"}, 503)
    monkeypatch.setattr(store, "commit", real)
    assert wrote == [["grant", "grant", "round"]], "all of it is one commit"
    assert yard.desk.world.revision == before
    counts = [(await yard.get("call/spring"))["given"]]
    await yard.post("round/spring/act", {"what": "award"})
    assert [*counts, (await yard.get("call/spring"))["given"]] == [0, 1]


async def test_an_award_that_is_sent_again_is_answered_again(yard: Yard) -> None:
    await judged(yard, award=False)
    headers = {"idempotency-key": "award-1"}
    path, body = "/api/v1/round/spring/act", {"what": "award"}
    first = await yard.client.post(path, json=body, headers=headers)
    second = await yard.client.post(path, json=body, headers=headers)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert second.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(("more", "status", "code"), [
    ({"round": "autumn"}, 404, "round.missing"),
    ({"accelerator": "nvidia"}, 400, "round.other-kind"),
    ({"until": "2999-02-02"}, 400, "round.days"),
    ({"from": "2019-12-31"}, 400, "round.days"),
    ({"weight": 100}, 400, "round.weight"),
    ({"sector": "army"}, 400, "round.sector"),
    ({"sector": "industry"}, 409, "round.two-sectors"),
    ({"burst": True}, 400, "round.burst-long"),
    ({"least": 2}, 400, "manifest.value"),
    ({"round": None, "sector": None, "least": 1}, 400, "manifest.value"),
])  # fmt: skip
async def test_a_round_takes_no_request_that_does_not_fit_it(
    yard: Yard, more: dict[str, Any], status: int, code: str
) -> None:
    await yard.apply(ROUND, request("a"))
    refused = await yard.apply(request("b", **more), status=status)
    assert refused["error"]["code"] == code


async def test_whole_units_are_asked_for_and_single_ones_where_the_round_has_them(
    yard: Yard,
) -> None:
    await yard.apply({**ROUND, "unit": 4, "capacity": 8})
    refused = await yard.apply(request("a", count=2), status=400)
    assert refused["error"]["code"] == "round.units"
    await yard.apply({**ROUND, "unit": 4, "capacity": 8, "small": {"units": 1, "up_to": 3}})
    await yard.apply(request("a", count=2), request("b", count=8))


async def test_after_the_close_no_request_comes_none_changes_and_the_rules_stay(
    yard: Yard,
) -> None:
    await yard.apply(ROUND, request("a"))
    await yard.post("round/spring/act", {"what": "close"})
    for late in (request("b"), request("a", reason="more")):
        refused = await yard.apply(late, status=409)
        assert refused["error"]["code"] == "round.takes-none"
    other = await yard.apply({**ROUND, "capacity": 2}, status=409)
    assert other["error"]["code"] == "round.fixed"
    await yard.apply(ROUND, request("a"))


async def test_a_round_that_somebody_applies_to_stays(yard: Yard) -> None:
    await yard.apply(ROUND, request("a"))
    used = await yard.client.delete("/api/v1/round/spring")
    assert used.json()["error"]["code"] == "resource.in-use"
    assert (await yard.client.delete("/api/v1/grant/a")).is_success
    assert (await yard.client.delete("/api/v1/round/spring")).is_success


async def test_members_read_the_call_and_their_own_requests_and_decide_nothing(
    yard: Yard,
) -> None:
    await judged(yard)
    made = await yard.post("key", {"name": "kim", "project": LAB, "role": "member"})
    yard.client.headers["Authorization"] = f"Bearer {made['key']}"
    told = await yard.get("call/spring")
    assert [row["grant"] for row in told["decisions"][0]["rows"]] == [f"{LAB}/b"]
    assert told["sectors"][0]["requests"] == 2
    (listed,) = (await yard.get("call"))["items"]
    assert listed == told
    assert (await yard.get("round/spring", 403))["error"]["code"] == "role.site-needed"
    for what in ("close", "award", "next", "burst"):
        no = await yard.post("round/spring/act", {"what": what, "dry_run": True}, 403)
        assert no["error"]["code"] == "role.right-needed"
    assert (await yard.apply(ROUND, status=403))["error"]["code"] == "role.site-needed"
    await yard.get("grant/a", 404, project="local/main")
    await yard.post("grant/b/act", {"what": "appeal", "text": "read page 3"})
    assert (await yard.get("call/spring"))["appeals"] == [f"{LAB}/b"]
