"""Our reading of HTTP beside h11's, over mutants of requests and what is known to smuggle.

What counts as one request with one body must count as the same for both, or be refused by us.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import h11

from madang.gateway.connection import Connection
from madang.gateway.house import House
from madang.traffic.doors import Head

SEEDS = (
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    (
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n"
    ),
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n\r\n",
    b"GET /a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"PUT /a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nConnection: close\r\n\r\nabc",
)
HEADERS = (
    b"Content-Length: 5", b"Content-Length: 6", b"Content-Length: +5", b"Content-Length: 5, 5",
    b"Content-Length: 0x5", b"Content-Length: 5_0", b"Content-Length: -1", b"Content-Length:",
    b"Content-Length : 5", b"Content-Length: 99999999999999999999", b"Content-Length: 05",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding:\tchunked", b"Transfer-Encoding: CHUNKED", b"Transfer-Encoding: chunked;q",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding: xchunked", b"Transfer_Encoding: chunked",
    b"Host: y", b"Host:", b"Upgrade: h2c\r\nConnection: upgrade", b"Upgrade: websocket",
    b"Connection: upgrade", b"Connection: close", b"Connection: keep-alive", b"Expect: 100",
    b"X: a\r\n b", b"X: \0", b"X: \x80\xff", b": x", b"X", b"Authorization: Bearer z", b"X:y",
)  # fmt: skip
TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b"0", b"5", b"f", b"\r\n\r\n",
    b"0\r\n\r\n", b"chunked", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"\xff", b"\x0b",
    b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n", b",",
)  # fmt: skip
_HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
_P = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CORPUS: dict[str, bytes] = {
    "a length and chunks": _P + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n" + _HIDDEN,
    "chunks and a length": _P + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
    b"0\r\n\r\n" + _HIDDEN,
    "two lengths": _P + b"Content-Length: 0\r\nContent-Length: 33\r\n\r\n" + _HIDDEN,
    "a coding that only looks chunked": _P + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"
    + _HIDDEN,
    "a space before the colon": _P + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "a coding in 1.0": b"POST /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + _HIDDEN,
    "identity before chunks": _P + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"
    b"\r\n0\r\n\r\n" + _HIDDEN,
    "a folded coding": _P + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "a bare line feed in a chunk's size": _P + b"Transfer-Encoding: chunked\r\n\r\n0\n\r\n"
    + _HIDDEN,
    "a chunk's extension with a line feed": _P + b"Transfer-Encoding: chunked\r\n\r\n0;\n\r\n\r\n"
    + _HIDDEN,
    "a chunk's size over 64 bits": _P + b"Transfer-Encoding: chunked\r\n\r\n"
    b"10000000000000000\r\n\r\n" + _HIDDEN,
    "an upgrade with a body": _P + b"Connection: upgrade\r\nUpgrade: h2c\r\n"
    b"Content-Length: 33\r\n\r\n" + _HIDDEN,
    "behind a close": _P + b"Connection: close\r\nContent-Length: 0\r\n\r\n" + _HIDDEN,
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n" + _HIDDEN,
    "a NUL in a header": _P + b"X: a\0b\r\nContent-Length: 0\r\n\r\n" + _HIDDEN,
    "no Host, and two": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n" + _HIDDEN,
}  # fmt: skip
"""Each hides a second request from one of two readers."""


_EMPTY_LINES = re.compile(rb"(\r\n\r\n|hello|abc)[\r\n]+(?=(?:GET|POST|PUT) )")
"""Before a request that follows another."""


@dataclass(frozen=True)
class Read:
    """One request as it was read to its end."""

    method: str
    target: bytes
    body: bytes


@dataclass
class Told:
    """What came of a comparison."""

    cases: int = 0
    same: int = 0
    stricter: int = 0
    """Read by h11 and refused by us."""
    differences: list[bytes] = field(default_factory=list)
    """Read by both, in two ways; or read by us alone."""


class _Transport:
    """A transport that takes everything and keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def is_closing(self) -> bool:
        return False


class _Reader:
    """A connection that only reads."""

    def __init__(self) -> None:
        self._door = Connection(cast("House", None))
        self._door._transport = cast("Any", _Transport())

    def reads(self, said: bytes) -> list[Read]:
        found: list[Read] = []
        door = self._door
        if not door._shut:
            door._parse(said)
        while door._ready:
            asked = door._ready.popleft()
            if asked.seen is not None:
                asked.seen.head = Head("chat")
            if asked.trouble is None:
                found.append(Read(asked.method, asked.target, bytes(asked.body)))
            if not asked.keeps_alive:
                door._shut = True
                door._ready.clear()
        return found


def read_by_us(*pieces: bytes) -> list[Read]:
    """Return what our gateway reads of bytes that come in these pieces."""
    reader = _Reader()
    return [each for piece in pieces for each in reader.reads(piece)]


def cut(said: bytes, size: int) -> list[bytes]:
    """Cut bytes into pieces of this size."""
    return [said[at : at + size] for at in range(0, len(said), size)]


def read_by_h11(said: bytes) -> list[Read]:
    """Return what h11 reads of them, until it refuses or the connection is to end."""
    server, found = h11.Connection(h11.SERVER), list[Read]()
    server.receive_data(said)
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            event = server.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                found.append(Read(head.method.decode(), bytes(head.target), body))
                server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                server.send(h11.EndOfMessage())
                if server.our_state is not h11.DONE:
                    return found
                server.start_next_cycle()
            else:
                return found
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return found


def mutants(count: int, number: int) -> Iterator[bytes]:
    """Yield so many mutants of requests, the same ones for the same number."""
    chance = random.Random(number)  # noqa: S311 - a seed that fails is to fail again
    for _ in range(count):
        said = bytearray(chance.choice(SEEDS))
        if chance.random() < 0.3:
            said += chance.choice(SEEDS)
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            _mutate(said, chance)
        yield bytes(said)


def _mutate(said: bytearray, chance: random.Random) -> None:
    roll, at = chance.random(), chance.randrange(len(said) + 1)
    if roll < 0.45:
        end = said.find(b"\r\n")
        said[end + 2 : end + 2] = chance.choice(HEADERS) + b"\r\n"
    elif roll < 0.7:
        said[at:at] = chance.choice(TOKENS)
    elif roll < 0.85:
        del said[at : at + chance.randint(1, 4)]
    else:
        said[at : at + 1] = bytes([chance.randrange(256)])


def compare(cases: Iterable[bytes], behind: bytes = b"") -> Told:
    """Read each by both, behind the same; ours must be the begin of what h11 read."""
    told = Told()
    for each in cases:
        told.cases += 1
        said = behind + each
        ours, theirs = read_by_us(behind, each), read_by_h11(said)
        if ours == theirs:
            told.same += 1
        elif ours == theirs[: len(ours)]:
            told.stricter += 1
        elif not _is_harmless(said, ours, theirs):
            told.differences.append(said)
    return told


def _is_harmless(said: bytes, ours: list[Read], theirs: list[Read]) -> bool:
    """Tell whether we only took what h11 is stricter about, where no two readers differ.

    Empty lines before a request (RFC 9112, 2.2) and more than one space in the request line.
    """
    if ours[: len(theirs)] != theirs:
        return False
    lenient = _EMPTY_LINES.sub(rb"\1", said.lstrip(b"\r\n"))
    while b"  " in lenient:
        lenient = lenient.replace(b"  ", b" ")
    again = read_by_h11(lenient)
    return ours == again[: len(ours)]
