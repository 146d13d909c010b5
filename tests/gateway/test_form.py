"""Answers whose heads come again: what is told of them is what was told when they were read."""

from __future__ import annotations

import pytest

from madang.gateway.engines import Call, Engines, Route
from madang.gateway.form import BYTES_MAX, measured
from madang.threads import Lacks

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def good(body: bytes, head: bytes = HEAD) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


HALF = HEAD + b"X: "
ANSWERS = {
    "the same": good(b"{}"),
    "longer": good(b'{"a": 1234}'),
    "with nothing": good(b""),
    "another type": good(b"{}", HEAD.replace(b"json", b"xml")),
    "a refusal": good(b"{}", HEAD.replace(b"200", b"429")),
    "no content, with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
    "no content, and half an answer": b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n%b"
    % (len(HALF), HALF),
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "trailers": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    "an interim one first": b"HTTP/1.1 103 Early Hints\r\n\r\n" + good(b"{}"),
    "the last of a connection": good(b"{}", HEAD + b"Connection: close\r\n"),
    "two": good(b"{}") * 2,
    "one and a half": good(b"{}") + HEAD,
    "an answer in an answer": good(good(b"{}")),
    "an answer in a header": HEAD + b"X: " + good(b"{}"),
    "none": b"HTTP/1.1 200 OK\r\nContent Length: 2\r\n\r\n{}",
    "a length in another manner": good(b"{}").replace(b": 2", b":\t0002 "),
}


class Transport:
    def __init__(self) -> None:
        self.is_over = False

    def get_extra_info(self, _: str):
        return None

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.is_over

    def abort(self) -> None:
        self.is_over = True


class Asker:
    def __init__(self) -> None:
        self.told: list[object] = []
        self.body = b""

    def heard(self, status: int, content_type: str) -> None:
        self.told.append((status, content_type))

    def said(self, data: bytes) -> None:
        self.body += data

    def failed(self, fault: str) -> None:
        self.told.append(fault)

    def ended(self) -> None:
        self.told.append("ended")

    def dropped(self) -> None:
        self.told.append("dropped")


def heard(*answers: tuple[bytes, ...]) -> list[object]:
    """Ask once for each answer, which comes in these pieces; what is told of each."""
    engines = Engines(1.0, Lacks(lambda _: None))
    route = Route("", 1, None)
    found: list[object] = []
    transport = None
    for pieces in answers:
        asker = Asker()
        if transport is None or transport.is_over:
            call, transport = Call(engines, route), Transport()
            call.transport = transport  # type: ignore[assignment]
        elif call in route.idle:
            route.idle.remove(call)
        call.again()
        call.send(asker, b"", b"")
        for piece in pieces:
            if piece and not transport.is_over:
                call.data_received(piece)
        found.append((asker.told, asker.body, call in route.idle, transport.is_over))
    return found


@pytest.mark.parametrize("between", ANSWERS)
@pytest.mark.parametrize("last", ["the same", "longer"])
def test_an_answer_is_the_same_whether_its_head_is_known_or_not(
    monkeypatch: pytest.MonkeyPatch, between: str, last: str
) -> None:
    """Wherever the bytes between are cut in two; no head is known where none can be measured."""
    first, given = ANSWERS["the same"], ANSWERS[between]
    cuts = [
        ((first,), (given[:at], given[at:]), (ANSWERS[last],), (given,), (given,), (first,))
        for at in range(len(given) + 1)
    ]
    told = [heard(*each) for each in cuts]
    monkeypatch.setattr("madang.gateway.engines.measured", lambda _: (-1, None))
    assert told == [heard(*each) for each in cuts]


def test_the_form_of_a_head_is_not_kept_if_it_is_long() -> None:
    long = good(b"{}", HEAD + b"X: %b\r\n" % (b"x" * BYTES_MAX))
    assert measured(long) == (len(long), None)
