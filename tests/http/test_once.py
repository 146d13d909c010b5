"""A request that is sent again is done once, in either store, wherever its answer was lost."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.http.conftest import Yard, deeds, opened

from madang.api.app import build
from madang.api.desk import Desk
from madang.app.sockets import server, tcp
from madang.client import Client
from madang.errors import Unavailable
from madang.ports import REPLY_KEPT_S
from madang.resources.rights import CONTROL
from madang.settings import Home
from madang.stores.postgres import PostgresStore
from madang.stores.sqlite import SqliteStore
from madang.traffic.front import Front

PROJECT = {"kind": "project", "name": "local/lab"}


@pytest.fixture(params=["sqlite", "postgres"])
async def yard(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Yard]:
    home = Home(tmp_path)
    if request.param == "sqlite":
        store: Any = SqliteStore(home)
    else:
        server = request.getfixturevalue("postgres")
        store = PostgresStore(home, server.url(server.make_database()))
    async with opened(home, store=store) as running:
        yield running


async def send(yard: Yard, method: str, path: str, key: str | None, body: Any = None) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await yard.client.request(method, f"/api/v1/{path}", json=body, headers=headers)


def script(yard: Yard) -> str:
    path = yard.home.path / "tiny.json"
    path.write_text('{"fake": 1}')
    return str(path)


async def test_every_change_is_answered_again_byte_for_byte_and_done_once(yard: Yard) -> None:
    asks = [
        ("POST", "apply", {"documents": [PROJECT]}),
        ("POST", "key", {"name": "robot"}),
        ("POST", "model", {"name": "tiny", "source": script(yard)}),
        ("DELETE", "key/robot", None),
    ]
    for number, (method, path, body) in enumerate(asks):
        first = await send(yard, method, path, f"k{number}", body)
        told = await deeds(yard)
        again = await send(yard, method, path, f"k{number}", body)
        assert (first.status_code, again.status_code) == (200, 200), first.text
        assert again.content.splitlines()[-1] == first.content.splitlines()[-1]
        assert "idempotency-replayed" not in first.headers
        if path != "model":
            assert again.headers["idempotency-replayed"] == "true"
        assert await deeds(yard) == told


async def test_a_new_keys_secret_is_told_again_and_kept_nowhere(yard: Yard) -> None:
    first = (await send(yard, "POST", "key", "once", {"name": "a"})).json()
    again = (await send(yard, "POST", "key", "once", {"name": "a"})).json()
    assert again == first
    works = {"Authorization": f"Bearer {first['key']}"}
    assert (await yard.client.get("/api/v1/whoami", headers=works)).json()["actor"] == "key/a"
    other = (await send(yard, "POST", "key", "twice", {"name": "b"})).json()
    unkeyed = (await send(yard, "POST", "key", None, {"name": "c"})).json()
    assert len({first["key"], other["key"], unkeyed["key"]}) == 3
    copy = yard.home.path / "copy.db"
    await yard.desk.world.store.backup(CONTROL, copy)
    dump = "\n".join(sqlite3.connect(copy).iterdump())
    assert "replies" in dump
    for secret in (first["key"], other["key"], unkeyed["key"], "once'", "twice'"):
        assert secret.removeprefix("mdg_") not in dump


async def test_a_key_is_for_one_request_of_one_caller(yard: Yard) -> None:
    made = (await send(yard, "POST", "key", "k", {"name": "a", "role": "operator"})).json()
    for method, path, body in (
        ("POST", "key", {"name": "b", "role": "operator"}),
        ("POST", "apply", {"documents": [PROJECT]}),
        ("DELETE", "key/a", None),
    ):
        answer = await send(yard, method, path, "k", body)
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "request.key-reused"
    yard.client.headers["Authorization"] = f"Bearer {made['key']}"
    assert (await send(yard, "POST", "key", "k", {"name": "b"})).status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\tkey", "é"])
async def test_a_key_that_is_none_is_refused(yard: Yard, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    body = {"documents": [PROJECT]}
    answer = await yard.client.post("/api/v1/apply", json=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "request.bad-key"
    assert (await send(yard, "POST", "apply", "x" * 255, body)).status_code == 200


async def test_what_was_refused_or_only_tried_is_not_kept(yard: Yard) -> None:
    body = {"name": "a", "project": "local/lab"}
    assert (await send(yard, "POST", "key", "k", body)).status_code == 404
    dry = {"documents": [PROJECT], "dry_run": True}
    for _ in range(2):
        answer = await send(yard, "POST", "apply", "dry", dry)
        assert answer.json()["changes"][0]["what"] == "create"
        assert "idempotency-replayed" not in answer.headers
    await yard.apply(PROJECT)
    assert (await send(yard, "POST", "key", "k", body)).status_code == 200


async def test_a_change_that_changed_nothing_is_remembered_too(yard: Yard) -> None:
    await yard.apply(PROJECT)
    body = {"documents": [PROJECT]}
    first = await send(yard, "POST", "apply", "k", body)
    assert first.json()["changes"][0]["what"] == "unchanged"
    assert (await yard.client.delete("/api/v1/project/local%2Flab")).status_code == 200
    again = await send(yard, "POST", "apply", "k", body)
    assert again.content == first.content
    assert (await yard.client.get("/api/v1/project/local%2Flab")).status_code == 404


async def test_two_at_once_are_done_once(yard: Yard) -> None:
    answers = await asyncio.gather(
        *(send(yard, "POST", "key", "k", {"name": "a"}) for _ in range(8))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert (await deeds(yard)).count("key.created") == 1


async def test_a_day_later_a_key_is_as_good_as_new(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (await send(yard, "POST", "key", "k", {"name": "a"})).json()
    assert (await send(yard, "DELETE", "key/a", "gone")).status_code == 200
    now = yard.desk.world.clock.now
    monkeypatch.setattr(yard.desk.world.clock, "now", lambda: now() + REPLY_KEPT_S + 1)
    later = (await send(yard, "POST", "key", "k", {"name": "a"})).json()
    assert later["key"] != first["key"], "a revoked secret never comes back"
    assert later["resource"]["uid"] != first["resource"]["uid"]


@asynccontextmanager
async def served(desk: Desk) -> AsyncIterator[str]:
    """Serve the API on loopback, as control does."""
    listening = tcp("127.0.0.1", 0)
    port = listening.getsockname()[1]
    names = Front(frozenset({"127.0.0.1"}))
    serving = asyncio.create_task(server(build(desk, names), listening))
    yield f"http://127.0.0.1:{port}"
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


class Line:
    """A relay that breaks each of its first connections after so many bytes either way."""

    def __init__(self, to: str, breaks: list[tuple[int, int]]) -> None:
        self.port = int(to.rpartition(":")[2])
        self.breaks = list(breaks)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = self.breaks.pop(0) if self.breaks else (10**9, 10**9)
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        ways = [asyncio.create_task(pipe(reader, back, up)),
                asyncio.create_task(pipe(there, writer, down))]  # fmt: skip
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, back):
            end.transport.abort()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int) -> None:
    while most > 0 and (piece := await reader.read(65536)):
        writer.write(piece[:most])
        await writer.drain()
        most -= len(piece)


@pytest.mark.timeout(120)
async def test_wherever_an_answer_is_lost_the_clients_retry_duplicates_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("madang.client.AGAIN_AFTER_S", (0.02, 0.02))
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    key = yard.home.admin_key.read_text().strip()
    async with served(yard.desk) as api:
        for number in range(25):
            places = (0, 40, 300, 10**9), (0, 1, 60, 400, 10**9)
            breaks = [(chance.choice(places[0]), chance.choice(places[1])) for _ in range(2)]
            line = Line(api, breaks)
            door = await asyncio.start_server(line.relay, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{door.sockets[0].getsockname()[1]}"
            client = Client(url, key, project="local/main")
            made = await asyncio.to_thread(client.create_key, f"k{number}")
            door.close()
            works = {"Authorization": f"Bearer {made['key']}"}
            whoami = await yard.client.get("/api/v1/whoami", headers=works)
            assert whoami.status_code == 200, breaks
            assert (await deeds(yard)).count("key.created") == number + 1, breaks


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_commit_whose_end_nobody_saw_is_found_out_before_anything_else_is_written(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    store, commit = yard.desk.world.store, yard.desk.world.store.commit

    async def unseen(*order: Any) -> Any:
        if order[0] == CONTROL:  # a turn of the loop, which goes on all the while
            return await commit(*order)
        monkeypatch.setattr(store, "commit", commit)
        if is_stored:
            await commit(*order)
        raise Unavailable("store.outcome-unknown", cause="the line broke")

    monkeypatch.setattr(store, "commit", unseen)
    first = await send(yard, "POST", "key", "k", {"name": "a"})
    assert first.status_code == 503
    assert first.headers["retry-after"]
    assert first.json()["error"]["code"] == "store.outcome-unknown"
    again = await send(yard, "POST", "key", "k", {"name": "a"})
    assert again.status_code == 200
    assert ("idempotency-replayed" in again.headers) == is_stored
    works = {"Authorization": f"Bearer {again.json()['key']}"}
    assert (await yard.client.get("/api/v1/whoami", headers=works)).status_code == 200
    assert (await deeds(yard)).count("key.created") == 1
    _, living = await store.load(CONTROL)
    kept = {(r.kind, r.ref): r for r in living}
    await yard.desk.world.be_sure()
    for (kind, ref), stored in kept.items():
        assert yard.desk.world.list(CONTROL, kind)[ref].uid == stored.uid
