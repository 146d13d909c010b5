"""A key is revoked with the keys that it made, or they are named: none goes on unseen."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from madang.control import keys

from .conftest import Yard


async def make(yard: Yard, name: str, secret: str = "", status: int = 200, **more: Any) -> Any:
    """Make a key with the key of that secret, the operator's by default; return its secret."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    body = {"name": name, "role": "member", **more}
    answer = await yard.client.post("/api/v1/key", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json().get("key", answer.json())


async def revoke(yard: Yard, name: str, secret: str = "", **params: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return await yard.client.delete(f"/api/v1/key/{name}", params=params, headers=headers)


async def opens(yard: Yard, secret: str) -> bool:
    headers = {"Authorization": f"Bearer {secret}"}
    return (await yard.client.get("/api/v1/whoami", headers=headers)).status_code == 200


def names(keys: list[dict[str, str]]) -> list[str]:
    return [key["name"] for key in keys]


@pytest.fixture
async def line(yard: Yard) -> dict[str, str]:
    """a made b and d, b made c; e was made by the operator. Names with their secrets."""
    a = await make(yard, "a")
    b = await make(yard, "b", a)
    return {
        "a": a, "b": b, "c": await make(yard, "c", b), "d": await make(yard, "d", a),
        "e": await make(yard, "e"),
    }  # fmt: skip


async def test_who_revokes_a_key_is_told_which_it_made_are_alive(
    yard: Yard, line: dict[str, str]
) -> None:
    told = (await revoke(yard, "a")).json()
    assert (names(told["along"]), names(told["alive"])) == ([], ["b", "c", "d"])
    assert [name for name, secret in line.items() if await opens(yard, secret)] == list("bcde")


async def test_all_that_a_key_made_goes_in_one_transaction_each_on_record(
    yard: Yard, line: dict[str, str]
) -> None:
    revision = yard.desk.world.revision
    told = (await revoke(yard, "a", made="true")).json()
    assert (names(told["along"]), names(told["alive"])) == (["b", "c", "d"], [])
    assert [name for name, secret in line.items() if await opens(yard, secret)] == ["e"]
    feed = await yard.get("changes", after=revision)
    gone = [c["resource"] for c in feed["items"] if c["gone"]]
    assert sorted(each["name"] for each in gone) == list("abcd")
    assert len({each["resource_version"] for each in gone}) == 1
    records = [r for r in (await yard.get("audit"))["items"] if r["code"] == "key.deleted"]
    assert sorted(r["name"] for r in records) == list("abcd")
    assert all(r["before"] and r["after"] is None for r in records)
    events = [e for e in (await yard.get("event"))["items"] if e["code"] == "key.deleted"]
    assert sorted(e["name"] for e in events) == list("abcd")


async def test_the_line_reaches_over_a_key_that_is_gone(yard: Yard, line: dict[str, str]) -> None:
    assert names((await revoke(yard, "b")).json()["alive"]) == ["c"]
    told = (await revoke(yard, "a", made="true")).json()
    assert names(told["along"]) == ["c", "d"]
    assert not await opens(yard, line["c"])


async def test_keys_that_follow_one_another_for_ever_do_not_make_the_line_longer(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAKERS_MAX", 3)
    secret = await make(yard, "k0")
    for number in range(1, 6):  # each makes the next, and is revoked
        secret = await make(yard, f"k{number}", secret)
        assert (await revoke(yard, f"k{number - 1}")).is_success
    for name in ("l", "m"):  # behind the operator's key, and the one before
        secret = await make(yard, name, secret)
    refused = await make(yard, "n", secret, status=400)
    assert refused["error"]["code"] == "key.line-too-long"


async def test_a_key_that_is_being_made_by_one_that_is_revoked_is_not_made_or_goes_too(
    yard: Yard,
) -> None:
    secret = await make(yard, "a")
    headers = {"Authorization": f"Bearer {secret}"}
    makes = [
        yard.client.post("/api/v1/key", json={"name": f"n{number}"}, headers=headers)
        for number in range(8)
    ]
    *made, gone = await asyncio.gather(*makes, revoke(yard, "a", made="true"))
    assert gone.is_success
    for answer in made:
        assert answer.status_code in {200, 401}, answer.text
        if answer.status_code == 200:
            assert not await opens(yard, answer.json()["key"])
    left = {key["name"] for key in (await yard.get("key"))["items"]}
    assert not {name for name in left if name.startswith("n")}


async def test_who_may_not_take_the_rights_of_a_key_revokes_none_of_its_line(
    yard: Yard, line: dict[str, str]
) -> None:
    viewer = await make(yard, "viewer", role="member", scopes=["read", "keys"])
    answer = await revoke(yard, "a", viewer, made="true")
    assert answer.status_code == 403
    assert all([await opens(yard, secret) for secret in line.values()])


async def test_asked_again_the_answer_is_the_first_one(yard: Yard, line: dict[str, str]) -> None:
    headers = {"Idempotency-Key": "once"}
    first, again = [
        await yard.client.delete("/api/v1/key/a", params={"made": "true"}, headers=headers)
        for _ in range(2)
    ]
    assert first.content == again.content
    assert names(first.json()["along"]) == ["b", "c", "d"]
