"""Grants through the API: a member requests, reviewers judge, an operator decides, all is told."""

from __future__ import annotations

from .conftest import Yard

GRANT = {
    "kind": "grant", "name": "burst", "accelerator": "cpu", "count": 4,
    "from": "2020-01-01", "until": "2999-01-01",
}  # fmt: skip


async def test_a_grant_goes_from_request_to_active_and_is_explained(yard: Yard) -> None:
    await yard.apply(GRANT)
    path = "grant/burst/act"
    early = await yard.post(path, {"what": "approve"}, 409)
    assert early["error"]["code"] == "grant.not-now"
    odd = await yard.post(path, {"what": "review", "points": {"effect": 41}}, 400)
    assert odd["error"]["code"] == "grant.points"
    points = {"effect": 33.6, "plan": 31.6, "need": 25}
    judged = await yard.post(path, {"what": "review", "points": points})
    assert (judged["status"]["phase"], judged["status"]["score"]) == ("reviewed", 90.2)
    refused = await yard.apply({**GRANT, "count": 5}, status=409)
    assert refused["error"]["code"] == "grant.fixed"
    beyond = await yard.post(path, {"what": "approve", "count": 3}, 409)
    assert beyond["error"]["code"] == "grant.beyond"
    ask = {"what": "approve", "count": 3, "text": "a part", "overcommit": True}
    await yard.post(path, ask)
    told = await yard.until("grant", "burst", "active")
    assert (told["status"]["count"], told["status"]["reason"]["code"]) == (3, "grant.active")
    found = await yard.get("grant/burst/explanation")
    assert [each["code"] for each in found["findings"]] == [
        "grant.card", "grant.score", "grant.deed-approve", "grant.deed-beyond",
    ]  # fmt: skip
    codes = [event["code"] for event in (await yard.get("event", limit=1000))["items"]]
    assert {"grant.created", "grant.was-reviewed", "grant.was-approved"} <= set(codes)
