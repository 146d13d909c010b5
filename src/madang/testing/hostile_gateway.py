"""Thousands of hostile requests to a gateway, byte by byte over its socket.

What an engine is asked for is odd, deep, huge or of the wrong type; heads contradict themselves,
bodies are cut, endless or framed wrongly. Nothing of it may be our fault, or stay behind.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from madang.testing.flood import KEY
from madang.testing.hostile import METHODS, ODD_BODIES, ODD_VALUES, SECONDS_MAX, Told, as_json
from madang.traffic import schema

AT_ONCE = 8
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PIECE_BYTES = 1 << 16
ENGINES_FAULT = {"engine_lost", "engine_failed", "engine_silent", "answer_too_large"}
"""Codes of 502 and 504 that name the engine."""
PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/models/bot",
    "/v1/models/", "/v1/models/%00", "/v1/models/..%2f..%2fetc", "/v1/models/" + "a" * 9000,
    "/healthz",
    "/", "*", "/v1", "//v1/models", "/v1/chat/completions/", "/V1/models", "/v1/files",
    "/internal/routes",
    "http://other.example/v1/models", "/v1/models?a=%&b", "/v1/chat/completions#x", "/%ff", "/\x80",
)  # fmt: skip
RIGHT: dict[str, tuple[dict[str, Any], Any]] = {
    "/v1/chat/completions": ({"messages": [{"role": "user", "content": "hi"}]}, schema.Chat),
    "/v1/completions": ({"prompt": "hi"}, schema.Completion),
    "/v1/embeddings": ({"input": "hi"}, schema.Embedding),
}
"""What is right, and what may be said beside it."""
ODD_PARTS: tuple[Any, ...] = (
    *ODD_VALUES, [{"role": "king", "content": "x"}], [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:;base64,AA"}}]}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}] * 999}],
    [{"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {}}]}],
    [{"type": "function", "function": {"name": "f", "parameters": {"a": {"b": [1e308] * 9}}}}],
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}},
    {"type": "json_object"}, {"include_usage": True}, ["\n"] * 17, "x" * 300_000,
    [[1, -1], [2**70]],
    list(range(5000)), ["a"] * 5000, {"1": 101}, -0.0, 10**18, ["x", 1],
)  # fmt: skip
ODD_HEADS: tuple[bytes, ...] = (
    b"Accept-Language: ko\r\n", b"Authorization: Bearer x\r\n", b"X: \xff\xfe\r\n",
    b"Content-Encoding: gzip\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"X: a\0b\r\n",
    b"Origin: http://evil.example\r\n", b"Host: evil.example\r\n", b"X\r\n", b" folded: x\r\n",
    b": x\r\n",
    b"X: " + b"y" * 40_000 + b"\r\n", b"X: y\r\n" * 3000, b"Cookie: " + b"a" * 9000 + b"\r\n",
    b"Content-Type: text/xml; charset=utf-16\r\n", b"Range: bytes=0-" + b",0-" * 5000 + b"\r\n",
    b"X-Forwarded-For: 127.0.0.1\r\n", b"Traceparent: " + b"0" * 999 + b"\r\n",
    b"X-Request-Id: \x1b[2J\r\n",
)  # fmt: skip
NO_HTTP = (
    b"\x16\x03\x01\x02\0\x01\0",
    b"GET\r\n\r\n",
    b"\0" * 4096,
    b"GET / HTTP/9.9\r\n\r\n",
    b"\r\n" * 99,
)


@dataclass(frozen=True)
class Shot:
    """The bytes of one request; whoever sends no whole one may be hung up on."""

    content: bytes
    is_whole: bool = True


def shots(count: int, number: int) -> Iterator[Shot]:
    """Yield so many, the same ones for the same number."""
    chance = random.Random(number)  # noqa: S311 - a seed that fails is to fail again
    for _ in range(count):
        if chance.random() < 0.02:
            yield Shot(chance.choice(NO_HTTP), is_whole=False)
            continue
        path = chance.choice((*RIGHT, *RIGHT, *PATHS))
        method = "POST" if path in RIGHT and chance.random() < 0.9 else chance.choice(METHODS)
        body = _body(path, chance) if chance.random() < 0.9 else b""
        framing, is_whole = _framed(body, chance)
        start = f"{method} {path} HTTP/1.1\r\nHost: HOST\r\n".encode("latin-1")
        key = b"" if chance.random() < 0.05 else f"Authorization: Bearer {KEY}\r\n".encode()
        odd = chance.choice(ODD_HEADS) if chance.random() < 0.4 else b""
        head = start + key + odd + b"Connection: close\r\n"
        yield Shot(head + framing, is_whole)


def _body(path: str, chance: random.Random) -> bytes:
    if chance.random() < 0.15:
        return chance.choice(ODD_BODIES)
    if chance.random() < 0.03:
        return b'{"model": "' + b"x" * (5 << 20) + b'"}'
    right, of = RIGHT.get(path, ({}, schema.Chat))
    names = (*of.__struct_fields__, "modle", "n", "\0", "")
    odd = {name: chance.choice(ODD_PARTS) for name in chance.sample(names, chance.randint(0, 3))}
    return as_json({"model": "bot", "max_tokens": 2, **right, **odd})


def _framed(body: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """Return the rest of the head with the body, and whether the request is whole."""
    size, roll = len(body), chance.random()
    if roll < 0.8:
        return b"Content-Length: %d\r\n\r\n" % size + body, True
    if roll < 0.88:
        return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % max(size, 1) + (
            body or b" "
        ) + b"\r\n0\r\n\r\n", True
    odd = (
        b"Content-Length: %d\r\n\r\n" % (size + 9) + body,
        b"Content-Length: -1\r\n\r\n" + body,
        b"Content-Length: 9e9\r\n\r\n" + body,
        b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + body,
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + body,
        b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + body,
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body,
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n" + body,
        b"Transfer-Encoding: gzip, chunked\r\n\r\n" + body,
        b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65536 + b"\r\n" + body,
        b"X: cut",
    )
    return chance.choice(odd), False


async def besiege(url: str, count: int, number: int) -> Told:
    """Send so many to the gateway, some at once; tell what came of them."""
    told, waiting = Told(), shots(count, number)

    async def sender() -> None:
        for shot in waiting:
            status, excuse = 0, ""
            with suppress(TimeoutError):
                async with asyncio.timeout(SECONDS_MAX):
                    status, excuse = await _sent(url, shot)
            told.cases += 1
            told.statuses[status] += 1
            hung_up = status == 0 and excuse == "hung up" and not shot.is_whole
            if not (200 <= status < 500 or excuse == "named" or hung_up):
                told.failed.append(f"{status} {excuse}: {shot.content[:400]!r}")

    await asyncio.gather(*(sender() for _ in range(AT_ONCE)))
    return told


async def _sent(url: str, shot: Shot) -> tuple[int, str]:
    """Return the status, 0 for none, and what excuses it; read while it is still being written."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        content = shot.content.replace(b"HOST", place.netloc.encode(), 1)
        _, answer = await asyncio.gather(_write(writer, content, shot.is_whole), _all(reader))
    finally:
        writer.close()
    head, _, body = answer.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return 0, "hung up"
    status = int(head[9:12])
    return status, "named" if _is_named(status, head.lower(), body) else "unnamed"


async def _write(writer: asyncio.StreamWriter, content: bytes, is_whole: bool) -> None:
    with suppress(OSError):
        writer.write(content)
        await writer.drain()
        if not is_whole:
            writer.write_eof()


async def _all(reader: asyncio.StreamReader) -> bytes:
    pieces = []
    with suppress(ConnectionError):
        while piece := await reader.read(PIECE_BYTES):
            pieces.append(piece)
    return b"".join(pieces)


def _is_named(status: int, head: bytes, body: bytes) -> bool:
    """Tell whether a 5xx is a refusal that says when to come back, or names the engine."""
    if status == 503:
        return b"\nretry-after:" in head
    with suppress(ValueError, KeyError, TypeError):
        return status in {502, 504} and json.loads(body)["error"]["code"] in ENGINES_FAULT
    return False
