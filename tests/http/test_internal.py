"""Control's own socket: whoever reaches it can break nothing by what he writes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from madang.api.internal import build

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
