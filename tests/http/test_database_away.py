"""The database goes away under a running control: bounded, honest answers, and back by itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.http.conftest import Yard, deeds, opened

from madang.settings import Home
from madang.stores.postgres import PostgresStore
from madang.testing.postgres import PASSWORD, PostgresServer, running

SOON_S = 20.0


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test alone."""
    with running() as made:
        yield made


async def create(yard: Yard, name: str) -> tuple[int, str]:
    answer = await yard.client.post(
        "/api/v1/key", json={"name": name}, headers={"Idempotency-Key": name}
    )
    if answer.status_code == 503:
        assert answer.headers["retry-after"]
    assert PASSWORD not in answer.text
    return answer.status_code, answer.json().get("error", {}).get("code", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_while_its_database_is_away_control_reads_on_and_refuses_writes_for_now(
    server: PostgresServer, tmp_path: Path, number: signal.Signals
) -> None:
    store = PostgresStore(Home(tmp_path), server.url(server.make_database()))
    async with opened(Home(tmp_path), store=store) as yard:
        assert await create(yard, "before") == (200, "")
        await asyncio.to_thread(server.stop, number)
        for name in ("a", "b", "c"):
            status, code = await create(yard, name)
            assert (status, code.partition(".")[0]) == (503, "store")
            assert (await yard.get("whoami"))["actor"] == "key/admin", "a valid key stays valid"
            assert {key["name"] for key in (await yard.get("key"))["items"]} == {"admin", "before"}
            unknown = await yard.client.get(
                "/api/v1/whoami", headers={"Authorization": "Bearer mdg_none"}
            )
            assert unknown.status_code == 401
        found = (await yard.get("doctor"))["items"]
        assert "store.unreachable" in {each["code"] for each in found if not each["ok"]}
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(SOON_S):
            while (await create(yard, "a"))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        found = (await yard.get("doctor"))["items"]
        assert "doctor.store-well" in {each["code"] for each in found}
        assert (await deeds(yard)).count("key.created") == 2
