"""Control's own socket: whoever reaches it can break nothing by what he writes."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from madang.api.internal import build
from madang.errors import Unavailable
from madang.resources.rights import CONTROL
from madang.traffic.table import Usage

from .conftest import Yard, deeds

BODIES: list[Any] = [
    b"", b"{", b"null", b"[]", b"{}", b"[" * 100_000, b'{"gateway": "g"}', b"\xff",
    b'[{"x": 1}]',
    b'{"gateway":"g","serving":true,"inflight":{},"wait_s":1}', b" " * (9 << 20),
    b'{"gateway":"\\ud800","serving":1}', b'{"gateway":"\xff","serving":1}',
    b'{"gateway":"g","boot":"b","number":1,"wants":[{"owner":"key/k","what":"w","period":-1}]}',
    b'{"gateway":"g","serving":1,"wait_s":1e999}', b'{"gateway":"g","serving":' + b"9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda b: repr(b[:30]))
async def test_odd_words_on_the_inner_socket_are_refused(yard: Yard, body: bytes) -> None:
    app = build(yard.desk.world, yard.desk.gateways)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        for path in (
            "/internal/routes",
            "/internal/usage",
            "/internal/leases",
            "/internal/none",
            "/",
        ):
            for method in ("GET", "POST", "DELETE", "BREW"):
                answer = await client.request(method, path, content=body)
                fine = path == "/internal/usage" and body == b"[]"
                assert answer.status_code in ({200, 400, 405} if fine else {400, 404, 405, 413})
    assert await deeds(yard) == []


def record(number: int) -> Usage:
    return Usage(f"r{number}", 1.0, "k", "local/main", "e", "u", 1, 0, 1, 200, 0.5)


async def test_a_gateway_is_told_by_503_to_try_again_where_the_state_takes_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise Unavailable("store.write-failed", cause="unable to open database file")

    monkeypatch.setattr(yard.desk.world, "record_usage", full)
    transport = httpx.ASGITransport(app=build(yard.desk.world, yard.desk.gateways))
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        answer = await client.post("/internal/usage", content=msgspec.json.encode([record(1)]))
    assert answer.status_code == 503
    assert answer.json() == {"error": "store.write-failed"}


async def test_a_part_of_a_gateways_file_is_taken_once_and_it_is_told_how_far(yard: Yard) -> None:
    transport = httpx.ASGITransport(app=build(yard.desk.world, yard.desk.gateways))
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:

        async def deliver(where: str, *numbers: int) -> int:
            body = msgspec.json.encode([record(n) for n in numbers])
            answer = await client.post(f"/internal/usage{where}", content=body)
            assert answer.status_code == 200
            cursor: int = answer.json()["cursor"]
            return cursor

        assert await deliver("?segment=usage-1-1-ab.000001.log&start=0&end=50", 1, 2) == 50
        assert await deliver("?segment=usage-1-1-ab.000001.log&start=0&end=50", 1, 2) == 50
        assert await deliver("?segment=usage-1-1-ab.000001.log&start=20&end=90", 2, 3) == 50
        assert await deliver("?segment=usage-1-1-ab.000001.log&start=50&end=90", 3) == 90
        assert await deliver("?segment=usage-1-1-cd.000001.log&start=0&end=9", 4) == 9
        for where in ("", "?segment=../x&start=0&end=9", "?segment=a&start=9&end=9", "?segment=a",
                      f"?segment=a&start=0&end={'9' * 40}"):  # fmt: skip
            assert await deliver(where, 5) == 0, "as from an older gateway"
    (total,) = yard.desk.world.usage(CONTROL)
    assert total.requests == 5
