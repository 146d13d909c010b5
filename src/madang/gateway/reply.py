"""The bytes of answers; every one says who it is and which table it was served from.

A refusal takes its words here: in Korean where the client asks for it, else in English.
"""

from __future__ import annotations

from time import gmtime
from typing import TYPE_CHECKING

from msgspec import json

from madang.messages import language, say
from madang.traffic.refusal import Headers, Refusal

if TYPE_CHECKING:
    from madang.gateway.asked import Asked

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_EVENTS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\n"
)
_CLOSE = b"connection: close\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_REASONS = {
    200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 408: b"Request Timeout", 413: b"Content Too Large",
    415: b"Unsupported Media Type", 421: b"Misdirected Request", 422: b"Unprocessable Content",
    429: b"Too Many Requests", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip


def marks(version: int, at: float) -> bytes:
    r"""Write the headers that all answers of one second share; `at` is Unix seconds.

    >>> marks(9, 0.0)
    b'date: Thu, 01 Jan 1970 00:00:00 GMT\r\nx-madang-table: 9\r\nx-request-id: '
    """
    t = gmtime(at)
    day = f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon]} {t.tm_year}"
    date = f"{day} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT"
    return f"date: {date}\r\nx-madang-table: {version}\r\nx-request-id: ".encode()


def whole(body: bytes, marked: bytes, closes: bool, length: int = -1) -> bytes:
    """Write an answer, or the begin of one of that length; `marked` are its marks with its id."""
    end, size = _CLOSE if closes else b"", len(body) if length < 0 else length
    return b"%b%b\r\n%bcontent-length: %d\r\n\r\n%b" % (_HEAD, marked, end, size, body)


def stream(marked: bytes, chunked: bool) -> bytes:
    """Write the head of a stream; one that has no chunks ends with its connection."""
    return b"%b%b\r\n%b\r\n" % (_EVENTS, marked, _CHUNKED if chunked else _CLOSE)


def chunk(data: bytes) -> bytes:
    """Write some events as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def refused(refusal: Refusal, body: bytes, marked: bytes, closes: bool) -> bytes:
    """Write a refusal with its words; whatever reads it may rely on `retry-after` and the like."""
    status = refusal.status
    head = b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b""))
    lines = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    return b"%b%b%b%b\r\n%b\r\n%b" % (
        head, lines, marked, refusal.more + more(refusal.headers), _CLOSE if closes else b"", body,
    )  # fmt: skip


def more(headers: Headers) -> bytes:
    r"""Write further headers behind others that lack their last line end.

    >>> more([(b"retry-after", b"1")])
    b'\r\nretry-after: 1'
    """
    return b"".join([b"\r\n%b: %b" % header for header in headers]) if headers else b""


def word(refusal: Refusal, asked: Asked) -> bytes:
    """Say a refusal in the OpenAI shape and the client's language."""
    wanted = asked.said(b"accept-language").decode("latin-1")
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    fields: dict[str, object] = {
        "message": explain(refusal, language({"LANG": wanted})),
        "type": _TYPES.get(refusal.status, kind),
        "param": refusal.param,
        "code": refusal.code,
    }
    if refusal.limited:
        fields["limited"] = refusal.limited
    return json.encode({"error": fields})


def explain(refusal: Refusal, lang: str) -> str:
    """Say what is refused, what the model waits for, and what to do next."""
    said = say(refusal.message, {"param": refusal.param, **refusal.values}, lang)
    waiting = refusal.waiting
    why = say(waiting.code, waiting.values, lang).text if waiting else ""
    return " ".join(part.strip() for part in (said.text, why, said.hint) if part)
