"""Whom the gateway lets in, and what heads it reads: every door and every method, on a socket."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from madang import bounds
from madang.traffic.doors import PATHS

from .conftest import KEY

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
DOORS = (*PATHS.values(), "/v1/models", "/v1/models/bot", "/healthz", "/no/such", "/v1/../healthz")
STRANGERS = [
    ({"Host": "evil.example"}, 421), ({"Host": "127.0.0.1:1"}, 421), ({"Origin": "null"}, 403),
    ({"Origin": "https://evil.example"}, 403),
    ({"Host": "evil.example", "X-Forwarded-Host": "127.0.0.1"}, 421),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "status"), STRANGERS)
async def test_strangers_are_refused_at_every_door_whatever_the_method(
    serve, engines, headers, status
):
    engine = await engines.start()
    async with serve(engine.target) as door:
        for path in DOORS:
            for method in METHODS:
                answer = await door.client.request(method, path, headers=headers)
                assert answer.status_code == status, (method, path)
                assert not [n for n in answer.headers if n.startswith("access-control-")]
        assert engine.requests == []
        own = {"Origin": door.url}
        assert (await door.client.get("/v1/models", headers=own)).status_code == 200


async def test_what_a_proxy_says_of_the_caller_grants_nothing(serve):
    said = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "::1", "Forwarded": "for=127.0.0.1"}
    async with serve() as door:
        del door.client.headers["authorization"]
        for path in (*PATHS.values(), "/v1/models", "/v1/models/bot"):
            for method in METHODS:
                answer = await door.client.request(method, path, headers=said)
                assert answer.status_code in {401, 405}, (method, path)


@pytest.mark.parametrize(
    "secret",
    [b"' OR 1=1--", b"x", b"a" * 20_000, "마당".encode(), b"\xff\xfe", b"%00", b"../admin.key"],
)  # fmt: skip
async def test_a_hostile_key_is_401_in_one_shape(serve, secret):
    async with serve() as door:
        headers = {"Authorization": b"Bearer " + secret}
        answer = await door.client.get("/v1/models", headers=headers)
        assert answer.status_code == 401
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == "invalid_api_key"


async def said(door, *pieces: bytes) -> bytes:
    """Send bytes and return all that comes until the gateway hangs up."""
    host, _, port = door.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while piece := await reader.read(65536):
            answer += piece
    writer.close()
    return answer


def head(door, *lines: str, path: str = "/healthz") -> bytes:
    host = door.url.removeprefix("http://")
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


async def test_a_head_of_any_size_is_cut_off(serve):
    endless = b"x" * 65536
    async with serve() as door:
        for start in (
            b"GET /",
            b"GET / HTTP/1.1\r\nX-Long: ",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 99,
        ):
            answer = await said(door, start, *[endless] * 16)
            assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")) or answer == b""
        many = head(door, *[f"x-{number}: {'y' * 90}" for number in range(400)])
        assert (await said(door, many)).startswith(b"HTTP/1.1 431")
        two = head(door, f"Authorization: Bearer {'k' * 40_000}", path="/v1/models")
        assert (await said(door, two)).startswith(b"HTTP/1.1 431")
        assert (await said(door, head(door, "Connection: close"))).startswith(b"HTTP/1.1 200")
        assert door.desk.open == 0


async def test_a_head_that_never_ends_has_a_deadline(serve, monkeypatch):
    monkeypatch.setattr(bounds, "HEAD_S_MAX", 0.2)
    async with serve() as door:
        for begun in (b"", b"GET /heal", head(door)[:-2]):
            answer = await said(door, begun) if begun else await said(door)
            assert answer.startswith(b"HTTP/1.1 408")
        first = head(door)
        answer = await said(door, first, b"GET /v1")
        assert answer.count(b"HTTP/1.1 200") == 1


async def test_a_whole_request_is_not_hurried(serve, monkeypatch, engines):
    monkeypatch.setattr(bounds, "HEAD_S_MAX", 0.2)
    engine = await engines.start()
    answer = engine.behave

    async def slowly(request, body):
        await asyncio.sleep(0.6)
        return await answer(request, body)

    engine.behave = slowly
    async with serve(engine.target) as door:
        assert (await door.post()).status_code == 200


@pytest.mark.parametrize(
    "target",
    ["/v1/models/%00", "/v1/models/%ff", "/v1/models/..%2f..%2fetc", "/v1/models?a=%zz&a=1",
     "/v1/models/" + "a" * 9000, "*", "//", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models#/../../etc"],
)  # fmt: skip
async def test_odd_addresses_are_never_our_fault(serve, target):
    async with serve() as door:
        line = head(door, f"Authorization: Bearer {KEY}", "Connection: close", path=target)
        status = int((await said(door, line)).split(b" ")[1])
        assert status in {200, 400, 404, 431}
