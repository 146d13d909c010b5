"""The outermost layer: bounds and checks every body, and turns every error into one shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from madang.api.desk import identify
from madang.errors import MadangError, Rejected
from madang.messages import language, say
from madang.settings import BODY_BYTES_MAX

log = logging.getLogger("madang.api")

DEPTH_MAX = 64


class Guard:
    """Reads the body within bounds, refuses JSON that others would read differently."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            body = b""
            if scope["method"] not in {"GET", "HEAD"}:
                _identify(scope)  # before a byte of the body is read
                body = await _read(receive)
                check_json(body)
            await self.app(scope, _replay(body, receive), watched)
        except MadangError as error:
            if started:
                raise
            await _answer(send, error.http_status, error_body(error, scope))
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            if started:
                raise
            await _answer(send, 500, error_body(MadangError("api.internal"), scope))


def _identify(scope: Scope) -> None:
    wanted = [v.decode("latin-1") for k, v in scope["headers"] if k.lower() == b"authorization"]
    identify(wanted, scope["app"].state.desk.keys)


async def _read(receive: Receive) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Rejected("api.body-cut")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > BODY_BYTES_MAX:
            raise TooLarge("api.body-too-large", limit=BODY_BYTES_MAX)
        if not message.get("more_body"):
            return b"".join(pieces)


class TooLarge(Rejected):
    """The body is larger than the API reads."""

    http_status = 413


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then what really comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def check_json(body: bytes) -> None:
    """Refuse what is no JSON, or nested deeper than any of our shapes.

    Stricter than the standard library: no NaN, no lone surrogates, no UTF-16, no NUL in strings.
    """
    if not body:
        return
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > DEPTH_MAX and _depth(body) > DEPTH_MAX:
        raise Rejected("api.json-too-deep", limit=DEPTH_MAX)
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Rejected("api.not-json", cause=str(error)) from error
    if b"\\u0000" in body:
        raise Rejected("api.not-json", cause="NUL in a string")


def _depth(body: bytes) -> int:
    """Return how deep brackets nest, those in strings left out; stops where it is too deep."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in body:
        if in_string:
            in_string = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > DEPTH_MAX:
                break
        elif byte in b"]}":
            depth -= 1
    return deepest


def error_body(error: MadangError, scope: Scope) -> Mapping[str, Any]:
    """Return the one shape of every error, with its sentence in the caller's language."""
    wanted = dict(scope["headers"]).get(b"accept-language", b"").decode("latin-1")
    sentence = say(error.code, error.values, language({"LANG": wanted}))
    return {
        "error": {
            "code": error.code,
            "subject": error.subject,
            "values": error.values,
            "message": sentence.text,
            "hint": sentence.hint,
        }
    }


async def _answer(send: Send, status: int, body: Mapping[str, Any]) -> None:
    content = msgspec.json.encode(body)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    if status in {401, 503}:
        extra = (b"www-authenticate", b"Bearer") if status == 401 else (b"retry-after", b"2")
        headers.append(extra)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
