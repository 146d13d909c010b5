"""Bodies and queries that could be read in two ways, or not to their end: never our fault."""

from __future__ import annotations

import asyncio
import gzip
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from madang.api.app import build
from madang.app.sockets import server
from madang.settings import BODY_BYTES_MAX

from .conftest import Yard, deeds

JSON = {"Content-Type": "application/json"}
MEMORY_BYTES_MAX = 64 << 20
ODD = {
    "half an object": (b"{", ""),
    "a list": (b"[]", "body"),
    "nothing": (b"null", "body"),
    "NaN": (b'{"documents": NaN}', "body.documents"),
    "infinity": (b'{"documents": [{"scale": -Infinity}]}', "body.documents.0.scale"),
    "too large a float": (b'{"documents": [1e999]}', "body.documents.0"),
    "a number without end": (b'{"documents": [' + b"9" * 5000 + b"]}", "body.documents.0"),
    "half a character": (b'{"documents":["\\ud800"]}', "body.documents.0"),
    "half a character as a key": (b'{"documents":[{"\\udfff": 1}]}', "body.documents.0"),
    "NUL": (b'{"documents": [{"name": "a\\u0000b"}]}', "body.documents.0.name"),
    "NUL as a key": (b'{"a\\u0000": 1}', "body"),
    "a bare NUL": (b'{"a": "\0"}', ""),
    "a key twice": (b'{"documents": [{"kind": "x", "kind": "y"}]}', "body.documents.0.kind"),
    "900 deep": (b'{"documents":' + b"[" * 900 + b"]" * 900 + b"}", "body"),
    "100,000 deep": (b"[" * 100_000 + b"]" * 100_000, "body"),
    "70 deep": (b'{"documents":' + b"[" * 70 + b"]" * 70 + b"}", "body"),
    "200,000 values": (b"[" + b"1," * 200_001 + b"1]", ""),
    "UTF-16": ('{"documents": []}'.encode("utf-16"), ""),
    "UTF-32": ('{"documents": []}'.encode("utf-32"), ""),
    "a byte order mark": (b"\xef\xbb\xbf{}", ""),
    "Latin-1": (b'{"a": "\xe9"}', ""),
    "two values": (b"{} {}", ""),
    "a comment": (b"{/* */}", ""),
    "a number for a truth": (b'{"documents": [], "dry_run": 1}', "body.dry_run"),
    "a word for a truth": (b'{"documents": [], "dry_run": "yes"}', "body.dry_run"),
    "an unknown key": (b'{"documents": [], "x": 1}', "body.x"),
    "no project": (b'{"documents": [], "project": "../.."}', "body.project"),
}


@pytest.mark.parametrize("what", ODD)
async def test_odd_json_is_refused_with_the_path_of_its_field(yard: Yard, what: str) -> None:
    body, path = ODD[what]
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        answer = await yard.client.post(
            "/api/v1/apply", content=body, headers={"Content-Type": kind}
        )
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]
    answer = await yard.client.post("/api/v1/apply", content=body, headers=JSON)
    assert str(answer.json()["error"]["values"].get("key", "")).startswith(path)
    assert await deeds(yard) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", True), ("scale", 1.0), ("scale", "1"), ("scale", 10**30), ("scale", None),
     ("needs", {"count": True}), ("needs", {"memory": True}), ("needs", {"memory": 1e300}),
     ("needs", {"accelerator": "\x1b[31m"}), ("recipe", "../../x"), ("gate", "smoke"),
     ("gate", [1]), ("model", ["tiny"]), ("model", "tiny@\u0661"), ("name", 7),
     ("kind", ["service"])],
)  # fmt: skip
async def test_a_value_of_another_kind_is_refused_by_name(
    yard: Yard, field: str, value: Any
) -> None:
    document = {"kind": "service", "name": "bot", "model": "tiny", field: value}
    answer = await yard.apply(document, status=400)
    said = answer["error"]["values"]
    assert said["key" if field != "kind" else "kind"]


async def test_text_that_acts_on_terminals_is_not_taken_in(yard: Yard) -> None:
    for title in ("\x1b[2J", "a\u202eb", "a\nb", "\u2028", "\u200b"):
        organization = {"kind": "organization", "name": "acme", "title": title}
        assert (await yard.apply(organization, status=400))["error"]["values"]["key"] == "title"


async def test_an_escaped_backslash_is_no_nul(yard: Yard) -> None:
    await yard.apply({"kind": "organization", "name": "acme", "title": "a \\u0000 b"})
    assert (await yard.get("organization/acme"))["spec"]["title"] == "a \\u0000 b"


async def test_what_is_said_back_is_short(yard: Yard) -> None:
    for document in ({"kind": "k" * 10**6}, {"kind": "service", "name": "n" * 10**6}):
        answer = await yard.client.post("/api/v1/apply", json={"documents": [document]})
        assert answer.status_code == 400
        assert len(answer.content) < 20_000


@pytest.mark.parametrize(
    "query",
    ["project=a/b&project=c/d", "project=%zz", "project=%", "project=%ff", "project=%00", "%00=1",
     "project=../..", "project=a/b/c", "project=%e1%84%92", "project=" + "a" * 300],
)  # fmt: skip
async def test_a_query_of_two_meanings_is_refused(yard: Yard, query: str) -> None:
    for path in ("service", "service/bot", "event", "service/bot/logs"):
        answer = await yard.client.get(f"/api/v1/{path}?{query}")
        assert answer.status_code == 400, answer.text


async def test_a_body_that_a_get_brings_changes_nothing(yard: Yard) -> None:
    body = b'{"documents": NaN}'
    answer = await yard.client.request("GET", "/api/v1/service", content=body, headers=JSON)
    assert answer.status_code == 200


@asynccontextmanager
async def listening(yard: Yard) -> AsyncIterator[int]:
    """Serve control's API on a socket, as control does."""
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server(build(yard.desk), listener))
    yield listener.getsockname()[1]
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving


async def sent(port: int, head: list[str], *pieces: bytes) -> bytes:
    """Send a POST piece by piece; return all that is answered until control hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = ["POST /api/v1/apply HTTP/1.1", f"Host: 127.0.0.1:{port}", *head, "", ""]
    answer = b""
    with suppress(ConnectionError):
        writer.write("\r\n".join(lines).encode())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while piece := await reader.read(65536):
            answer += piece
    writer.close()
    return answer


def key_of(yard: Yard) -> str:
    return f"Authorization: {yard.client.headers['authorization']}"


async def test_sizes_are_bounded_while_they_stream(yard: Yard) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    async with listening(yard) as port:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        endless = [key_of(yard), "Transfer-Encoding: chunked"]
        for _ in range(3):
            answer = await sent(port, endless, *[chunk] * 1000)
            assert answer.startswith(b"HTTP/1.1 413") or answer == b"", answer[:200]
        said = [key_of(yard), f"Content-Length: {BODY_BYTES_MAX + 1}"]
        assert (await sent(port, said)).startswith(b"HTTP/1.1 413")
        said = [key_of(yard), f"Content-Length: {'9' * 30}"]
        assert (await sent(port, said)).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
        squeezed = gzip.compress(b" " * 2**20)
        said = [key_of(yard), "Content-Encoding: gzip", f"Content-Length: {len(squeezed)}"]
        assert (await sent(port, said, squeezed)).startswith(b"HTTP/1.1 415")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        assert grown < MEMORY_BYTES_MAX


@pytest.mark.parametrize(
    "head",
    [["Content-Length: 5", "Content-Length: 6"], ["Content-Length: -5"], ["Content-Length: 5x"],
     ["Content-Length: 5", "Transfer-Encoding: chunked"], ["Transfer-Encoding: gzip, chunked"],
     ["Bad header"], ["X: a\x00b"], [" folded: x"]],
)  # fmt: skip
async def test_heads_of_two_meanings_are_refused(yard: Yard, head: list[str]) -> None:
    async with listening(yard) as port:
        answer = await sent(port, [key_of(yard), "Connection: close", *head], b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 4"), answer[:100]


async def test_a_slow_body_has_a_deadline(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("madang.api.body.BODY_S_MAX", 0.2)
    async with listening(yard) as port:
        said = [key_of(yard), "Content-Length: 100"]
        assert (await sent(port, said, b"{")).startswith(b"HTTP/1.1 408")


async def test_without_a_key_no_body_is_waited_for(yard: Yard) -> None:
    async with listening(yard) as port:
        answer = await sent(port, ["Content-Length: 100"])
        assert answer.startswith(b"HTTP/1.1 401")


async def test_a_proxys_word_does_not_make_another_caller(yard: Yard) -> None:
    seen: list[Any] = []
    app = build(yard.desk)

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])
        await app(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server(noting, listener))
    said = ["X-Forwarded-For: 8.8.8.8", "X-Forwarded-Proto: https", "Connection: close"]
    assert (await sent(listener.getsockname()[1], said)).startswith(b"HTTP/1.1 401")
    assert seen == ["127.0.0.1"]
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
