"""A key gets another secret and stays what it is; and it calls no models but its own."""

from __future__ import annotations

import asyncio
import errno
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from madang.control import rotating
from madang.settings import Home
from madang.traffic.admission import Directory
from madang.traffic.doors import Head
from madang.traffic.refusal import Refusal
from madang.traffic.table import Endpoint, Key, RouteTable

from .conftest import Yard, opened


def held(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"} if secret else {}


async def make(yard: Yard, name: str, secret: str = "", status: int = 200, **more: Any) -> Any:
    body = {"name": name, "role": "member", **more}
    answer = await yard.client.post("/api/v1/key", json=body, headers=held(secret))
    assert answer.status_code == status, answer.text
    return answer.json().get("key", answer.json())


async def rotate(
    yard: Yard, name: str, overlap_s: float = 0.0, secret: str = "", **headers: str
) -> httpx.Response:
    body = {"overlap_s": overlap_s}
    headers = held(secret) | headers
    return await yard.client.post(f"/api/v1/key/{name}/rotate", json=body, headers=headers)


async def opens(yard: Yard, secret: str) -> bool:
    answer = await yard.client.get("/api/v1/whoami", headers=held(secret))
    return answer.status_code == 200


async def test_both_secrets_open_while_they_overlap(yard: Yard, monkeypatch: Any) -> None:
    old = await make(yard, "app")
    before = (await yard.client.get("/api/v1/key/app")).json()
    made = (await rotate(yard, "app", 3600.0)).json()
    new, after = made["key"], made["resource"]
    assert new != old
    assert (after["uid"], after["generation"]) == (before["uid"], before["generation"] + 1)
    assert not {"digest", "former"} & after["spec"].keys()
    assert await opens(yard, old)
    assert await opens(yard, new)
    clock = yard.desk.world.clock
    later = clock.now() + 3601
    monkeypatch.setattr(clock, "now", lambda: later)
    assert not await opens(yard, old)
    assert await opens(yard, new)


async def test_without_an_overlap_the_secret_before_is_worthless_at_once(yard: Yard) -> None:
    old = await make(yard, "app")
    new = (await rotate(yard, "app")).json()["key"]
    assert not await opens(yard, old)
    assert await opens(yard, new)


async def test_of_two_secrets_before_only_the_last_overlaps(yard: Yard) -> None:
    first = await make(yard, "app")
    second = (await rotate(yard, "app", 3600.0)).json()["key"]
    third = (await rotate(yard, "app", 3600.0)).json()["key"]
    assert [await opens(yard, each) for each in (first, second, third)] == [False, True, True]


async def test_a_rotation_that_is_asked_for_again_tells_the_same_secret(yard: Yard) -> None:
    await make(yard, "app")
    again = {"Idempotency-Key": "r-1"}
    first, second = [await rotate(yard, "app", 60.0, **again) for _ in range(2)]
    assert first.json() == second.json()
    assert await opens(yard, first.json()["key"])


async def test_nobody_learns_a_secret_that_opens_more_than_theirs(yard: Yard) -> None:
    boss = await make(yard, "boss", role="operator", where="")
    member = await make(yard, "member")
    brief = await make(yard, "brief", expires_s=60)
    reader = await make(yard, "reader", role="viewer")
    for secret, code in (
        (member, "role.above-own"), (brief, "role.above-own"), (reader, "role.right-needed"),
    ):  # fmt: skip
        answer = await rotate(yard, "boss", 60.0, secret)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    answer = await rotate(yard, "member", 60.0, brief)
    assert answer.json()["error"]["code"] == "key.outlives-own"
    assert await opens(yard, boss)
    mine = (await rotate(yard, "member", 60.0, member)).json()
    assert mine["resource"]["spec"]["makers"] == ["key-admin"]


async def test_what_belongs_to_a_project_is_not_rotated_by_one_of_its_users(yard: Yard) -> None:
    """Or who is let go of would go on with a secret of the project's own key."""
    await yard.apply({"kind": "user", "name": "local/kim", "roles": {"local/main": "member"}})
    kim = await make(yard, "kim", user="local/kim")
    await make(yard, "shared")
    refused = await rotate(yard, "shared", 0.0, kim)
    assert refused.json()["error"]["code"] == "role.right-needed"
    assert (await rotate(yard, "kim", 0.0, kim)).status_code == 200


async def test_who_rotates_a_key_stands_in_its_line(yard: Yard) -> None:
    """A secret that somebody has learnt goes with their own key."""
    a, b = await make(yard, "a"), await make(yard, "b")
    new = (await rotate(yard, "b", 0.0, a)).json()["key"]
    assert not await opens(yard, b)
    gone = await yard.client.delete("/api/v1/key/a", params={"made": "true"})
    assert [each["name"] for each in gone.json()["along"]] == ["b"]
    assert not await opens(yard, new)


async def test_gateways_know_both_secrets_and_when_the_one_before_ends(yard: Yard) -> None:
    old = await make(yard, "app", expires_s=10_000)
    new = (await rotate(yard, "app", 3600.0)).json()["key"]
    table = yard.desk.gateways.table()
    before, now = (table.keys[sha256(each.encode()).hexdigest()] for each in (old, new))
    assert before.uid == now.uid
    assert before.expires_at
    assert now.expires_at
    assert before.expires_at < now.expires_at
    directory, at = Directory(table), before.expires_at
    found = [directory.identify(Head("chat", authorization=f"Bearer {each}".encode()), at, False)
             for each in (old, new)]  # fmt: skip
    assert isinstance(found[0], Refusal)
    assert found[1] == now
    known = directory.known(before)
    assert known == now, "what was begun with the old one goes on to its end"


async def test_a_key_makes_none_that_calls_other_models(yard: Yard) -> None:
    narrow = await make(yard, "narrow", models=["bot", "acme/lab/other"])
    await make(yard, "less", narrow, models=["bot"])
    told = await make(yard, "more", narrow, 403, models=["bot", "third"])
    assert told["error"]["code"] == "key.models-above-own"
    await make(yard, "same", narrow)
    same = (await yard.client.get("/api/v1/key/same")).json()
    assert same["spec"]["models"] == ["bot", "acme/lab/other"]
    for wrong in (["a/b"], ["A b"], [""], ["x"] * 101):
        await make(yard, "wrong", "", 400, models=wrong)


@pytest.mark.parametrize(
    ("models", "sees"),
    [
        ((), {"bot", "other", "beta/lab/common"}),
        (("bot",), {"bot"}),
        (("acme/lab/bot", "beta/lab/common"), {"bot", "beta/lab/common"}),
        (("common",), set()),
        (("beta/lab/hidden",), set()),
    ],
    ids=["all", "name", "full", "elsewhere", "hidden"],
)
def test_a_narrowed_key_sees_its_models_and_nothing_else(
    models: tuple[str, ...], sees: set[str]
) -> None:
    shown = frozenset({"acme"})
    endpoints = (
        Endpoint("acme/lab", "bot", "m", (), 1),
        Endpoint("acme/lab", "other", "m", (), 1),
        Endpoint("beta/lab", "common", "m", (), 1, visible_to=shown),
        Endpoint("beta/lab", "hidden", "m", (), 1),
    )
    key = Key("app", "acme/lab", "member", may_infer=True, models=frozenset(models))
    directory = Directory(RouteTable(1, endpoints))
    assert set(directory._visible(key)) == sees
    for name in ("bot", "other", "beta/lab/common", "beta/lab/hidden"):
        assert isinstance(directory.find(key, name), Endpoint) == (name in sees)


async def test_the_new_secret_of_the_first_operator_is_in_its_file_and_the_old_one_is_gone_for_good(
    tmp_path: Path,
) -> None:
    """Else control would take the old one from the file at its next start, as of a lost key."""
    home = Home(tmp_path)
    async with opened(home) as yard:
        old = home.admin_key.read_text().strip()
        made = (await rotate(yard, "admin")).json()["key"]
        assert home.admin_key.read_text() == made + "\n"
        assert home.admin_key.stat().st_mode & 0o777 == 0o600
        await make(yard, "other", made)
        assert (await rotate(yard, "other", secret=made)).is_success
        assert home.admin_key.read_text() == made + "\n", "no other key's secret is written there"
    async with opened(home) as yard:
        assert [await opens(yard, each) for each in (old, made)] == [False, True]


async def test_a_secret_that_can_not_be_written_is_refused_and_nothing_has_changed(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    old = yard.home.admin_key.read_text().strip()
    monkeypatch.setattr(rotating, "write_private", full)
    answer = await rotate(yard, "admin")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "key.unwritten"
    assert "No space left" in answer.text
    assert await opens(yard, old)
    monkeypatch.undo()
    assert (await rotate(yard, "admin")).is_success


async def test_a_start_after_an_end_between_file_and_key_takes_the_secret_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    async with opened(home) as yard:
        old = home.admin_key.read_text().strip()

        async def ended(*_: Any, **__: Any) -> None:
            raise asyncio.CancelledError

        monkeypatch.setattr(yard.desk.world, "commit", ended)
        with pytest.raises(asyncio.CancelledError):
            await rotate(yard, "admin")
        monkeypatch.undo()
    new = home.admin_key.read_text().strip()
    assert new != old
    async with opened(home) as yard:
        assert [await opens(yard, each) for each in (old, new)] == [False, True]
