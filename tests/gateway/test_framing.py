"""Bytes on a client's connection: what can be read in two ways is refused, the rest in its turn."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from madang.gateway.connection import PIPELINED_MAX
from madang.traffic.limits import Limits

from .conftest import KEY, chat, eventually

BODY = json.dumps(chat()).encode()


class Raw:
    """A client that sends bytes as they are."""

    def __init__(self, door) -> None:
        self._url = httpx.URL(door.url)
        self.host = self._url.netloc.decode()

    async def __aenter__(self) -> Raw:
        self.reader, self.writer = await asyncio.open_connection(self._url.host, self._url.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def post(
        self, *lines: str, body: bytes = BODY, version: str = "1.1", path="/v1/chat/completions"
    ) -> bytes:
        """Write a request; without lines of its own, one with a length."""
        framed = lines or (f"Content-Length: {len(body)}",)
        head = [f"POST {path} HTTP/{version}", f"Host: {self.host}", f"Authorization: Bearer {KEY}"]
        return "\r\n".join([*head, *framed, "", ""]).encode() + body

    async def all(self, *pieces: bytes) -> bytes:
        """Send pieces, then return all that comes until the gateway hangs up."""
        with suppress(ConnectionError):
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
        return await self.reader.read()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer with a length or in chunks."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:-2])}
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        else:
            body = await self.reader.readuntil(b"0\r\n\r\n")
        return int(head[0].split()[1]), headers, body


AMBIGUOUS = {
    "two codings": ("Transfer-Encoding: gzip, chunked",),
    "another coding": ("Transfer-Encoding: xchunked",),
    "no coding": ("Transfer-Encoding: identity",),
    "chunked twice": ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "coding and length": (f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked"),
    "two lengths": (f"Content-Length: {len(BODY)}", f"Content-Length: {len(BODY)}"),
    "a signed length": (f"Content-Length: +{len(BODY)}",),
    "two hosts": (f"Content-Length: {len(BODY)}", "Host: evil.example"),
    "two keys": (f"Content-Length: {len(BODY)}", "Authorization: Bearer other"),
    "an upgrade": (f"Content-Length: {len(BODY)}", "Connection: upgrade", "Upgrade: h2c"),
    "a space before the colon": (f"Content-Length : {len(BODY)}",),
    "a folded header": (f"Content-Length: {len(BODY)}", "X: a\r\n b"),
    "an odd version": (f"Content-Length: {len(BODY)}",),
}


@pytest.mark.parametrize("what", AMBIGUOUS)
async def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(
    serve: Callable, engines, what: str
) -> None:
    engine = await engines.start()
    version = "2.0" if what == "an odd version" else "1.1"
    async with serve(engine.target) as door, Raw(door) as raw:
        answer = await raw.all(raw.post(*AMBIGUOUS[what], version=version) + raw.post())
        assert door.desk.open == 0
    assert answer.count(b"content-length: ") == 1
    assert int(answer[9:12]) in {400, 421, 505}
    assert b"\r\nconnection: close\r\n" in answer
    assert engine.requests == []


async def test_a_transfer_encoding_in_http_1_0_is_refused(serve: Callable, engines) -> None:
    engine = await engines.start()
    async with serve(engine.target) as door, Raw(door) as raw:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        answer = await raw.all(raw.post("Transfer-Encoding: chunked", body=body, version="1.0"))
    assert answer.startswith(b"HTTP/1.1 400")
    assert engine.requests == []


@pytest.mark.parametrize("size", [1, 7])
async def test_a_request_that_comes_in_tiny_pieces_is_the_same_request(
    serve: Callable, engines, size: int
) -> None:
    engine = await engines.start()
    async with serve(engine.target) as door, Raw(door) as raw:
        body = b"%x;ext=1\r\n%b\r\n0\r\nAuthorization: Bearer evil\r\n\r\n" % (len(BODY), BODY)
        for whole in (raw.post(), raw.post("Transfer-Encoding: chunked", body=body)):
            for at in range(0, len(whole), size):
                raw.writer.write(whole[at : at + size])
                await asyncio.sleep(0)
            status, _, _ = await raw.answer()
            assert status == 200
    assert engine.requests[0] == engine.requests[1]


async def test_requests_sent_ahead_are_answered_one_after_the_other_up_to_a_bound(
    serve: Callable, engines
) -> None:
    engine = await engines.start()
    async with serve(engine.target) as door, Raw(door) as raw:
        raw.writer.write(raw.post() * 3)
        for _ in range(3):
            assert (await raw.answer())[0] == 200
        raw.writer.write(raw.post())
        await eventually(lambda: len(engine.requests) == 4)
        assert (await raw.answer())[0] == 200, "the connection is kept"
        answer = await raw.all(raw.post() * 30)
    assert answer.count(b"HTTP/1.1 200") == PIPELINED_MAX + 1
    assert len(engine.requests) == 4 + PIPELINED_MAX + 1
    assert door.desk.open == 0


async def test_what_a_client_sends_ahead_is_not_read_without_end(serve: Callable, engines) -> None:
    engine = await engines.start()
    go = asyncio.Event()
    answer = engine.behave

    async def wait(request, body):
        await go.wait()
        return await answer(request, body)

    engine.behave = wait
    async with serve(engine.target) as door, Raw(door) as raw:
        raw.writer.write(raw.post())
        await eventually(lambda: engine.running)
        whole = raw.post(body=json.dumps(chat(messages=[{"role": "user", "content": "x" * 50_000}]))
                         .encode())  # fmt: skip
        raw.writer.transport.set_write_buffer_limits(0)
        sent = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while sent < 64 << 20:
                    raw.writer.write(whole)
                    await raw.writer.drain()
                    sent += len(whole)
        assert sent < 32 << 20
        go.set()
        raw.writer.write(whole * 20)
        assert [(await raw.answer())[0] for _ in range(20)] == [200] * 20, "it is read on"


async def test_a_body_is_asked_for_only_where_it_may_come(serve: Callable, engines) -> None:
    engine = await engines.start()
    async with serve(engine.target) as door:
        async with Raw(door) as raw:
            head = raw.post(f"Content-Length: {len(BODY)}", "Expect: 100-continue", body=b"")
            raw.writer.write(head)
            assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            raw.writer.write(BODY)
            assert (await raw.answer())[0] == 200
        async with Raw(door) as raw:
            refused = await raw.all(head.replace(KEY.encode(), b"nobody"))
        async with Raw(door) as raw:
            length = f"Content-Length: {5 << 20}"
            large = await raw.all(raw.post(length, "Expect: 100-continue", body=b""))
    assert refused.startswith(b"HTTP/1.1 401")
    assert large.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_http_1_0_client_gets_no_chunks_and_its_connection_ends(
    serve: Callable, engines, streamed: bool
) -> None:
    engine = await engines.start()
    async with serve(engine.target) as door, Raw(door) as raw:
        body = json.dumps(chat(stream=streamed)).encode()
        lines = (f"Content-Length: {len(body)}", "Connection: keep-alive")
        head, _, said = (await raw.all(raw.post(*lines, body=body, version="1.0"))).partition(
            b"\r\n\r\n"
        )
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert said.startswith(b"data: " if streamed else b"{")


async def test_an_answer_to_head_has_no_body(serve: Callable) -> None:
    async with serve() as door, Raw(door) as raw:
        head = f"HEAD /v1/models HTTP/1.1\r\nHost: {raw.host}\r\nConnection: close\r\n\r\n"
        answer = await raw.all(head.encode())
    assert answer.startswith(b"HTTP/1.1 405")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 0" not in answer


@pytest.mark.parametrize("part", ["a chunk's extension", "trailers"])
async def test_what_is_endless_in_a_body_ends_at_a_bound(serve: Callable, part: str) -> None:
    begun = b"5;x=" if part == "a chunk's extension" else b"1\r\nx\r\n0\r\n"
    async with serve() as door, Raw(door) as raw:
        answer = await raw.all(
            raw.post("Transfer-Encoding: chunked", body=begun), *[b"Y: " + b"y" * 60_000] * 9
        )
        assert door.desk.open == 0
    assert answer.startswith(b"HTTP/1.1 4")


async def test_a_target_that_names_another_host_than_the_header_is_refused(serve: Callable) -> None:
    async with serve() as door, Raw(door) as raw:
        good = f"GET http://{raw.host}/healthz HTTP/1.1\r\nHost: {raw.host}\r\n\r\n"
        raw.writer.write(good.encode())
        assert (await raw.answer())[0] == 200
        answer = await raw.all(good.replace(f"http://{raw.host}", "http://evil.example").encode())
    assert answer.startswith(b"HTTP/1.1 421")


@pytest.mark.plain
async def test_small_pieces_are_never_kept_back_on_either_leg(
    serve: Callable, engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nagle's algorithm and delayed acknowledgements together cost 40 ms a token."""
    from madang.gateway.connection import Connection
    from madang.gateway.engines import Call

    seen: dict[str, int] = {}

    def noting(kind):
        made = kind.connection_made

        def note(self, transport):
            made(self, transport)
            raw = transport.get_extra_info("socket")
            seen[kind.__name__] = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        return note

    for kind in (Connection, Call):
        monkeypatch.setattr(kind, "connection_made", noting(kind))
    engine = await engines.start()
    async with serve(engine.target) as door:
        assert (await door.post()).status_code == 200
    assert seen.keys() == {"Connection", "Call"}
    assert all(seen.values())


async def test_a_body_in_many_pieces_weighs_no_more_than_in_one(serve: Callable, engines) -> None:
    engine = await engines.start()
    body = b"".join(b"1\r\n%c\r\n" % each for each in BODY) + b"0\r\n\r\n"
    async with serve(engine.target, limits=Limits(body_bytes_max=len(BODY))) as door:
        async with Raw(door) as raw:
            raw.writer.write(raw.post("Transfer-Encoding: chunked", body=body))
            assert (await raw.answer())[0] == 200
        async with Raw(door) as raw:
            one_more = b"1\r\n \r\n" + body
            answer = await raw.all(raw.post("Transfer-Encoding: chunked", body=one_more))
    assert answer.startswith(b"HTTP/1.1 413")
