"""The outermost layer: bounds and checks every request, and turns every error into one shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from madang.api.desk import identify
from madang.api.strict import check_json, check_query
from madang.errors import Forbidden, MadangError, Rejected, lacking
from madang.messages import language, say
from madang.settings import BODY_BYTES_MAX
from madang.traffic.front import Front
from madang.wire import swallow

log = logging.getLogger("madang.api")

BODY_S_MAX = 30.0
"""Time for a body to arrive in full."""


class Misdirected(Rejected):
    """The request is meant for another server."""

    http_status = 421


class TooSlow(Rejected):
    """The body did not arrive in time."""

    http_status = 408


class TooLarge(Rejected):
    """The body is larger than the API reads."""

    http_status = 413


class Encoded(Rejected):
    """The body is compressed; only plain ones are read."""

    http_status = 415


class Guard:
    """Refuses what is not meant for us; reads bodies within bounds, as JSON of one meaning."""

    def __init__(self, app: ASGIApp, front: Front) -> None:
        self.app = app
        self.front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return  # no WebSockets here; whoever asks for one is hung up on
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        body, is_read = b"", scope["method"] in {"GET", "HEAD"}
        try:
            self._admit(scope, has_body=not is_read)
            if not is_read:
                body, is_read = await self._body(receive), True
                check_json(body)
            await self.app(scope, _replay(body, receive), watched)
        except MadangError as error:
            if started:
                raise
            await _turn_away(None if is_read else receive, send, error, scope)
        except Exception as error:
            told = lacking(error)
            if told is None:
                log.exception("%s %s", scope["method"], scope["path"])
            if started:
                raise
            unread = None if is_read else receive
            await _turn_away(unread, send, told or MadangError("api.internal"), scope)

    def _admit(self, scope: Scope, *, has_body: bool) -> None:
        """Let a request in by its head; nobody's body is read before its key is known."""
        stranger = self.front.stranger(scope["headers"], scope.get("server"))
        if stranger == "host":
            raise Misdirected("http.host-not-ours")
        if stranger == "origin":
            raise Forbidden("http.origin-not-ours")
        check_query(scope["query_string"])
        if has_body:
            headers = scope["headers"]
            wanted = [v.decode("latin-1") for k, v in headers if k.lower() == b"authorization"]
            identify(wanted, scope["app"].state.desk.keys)
            _check_announced(dict(headers))

    async def _body(self, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(BODY_S_MAX):
                return await _read(receive)
        except TimeoutError:
            raise TooSlow("api.body-too-slow", seconds=BODY_S_MAX) from None


def _check_announced(headers: Mapping[bytes, bytes]) -> None:
    """Refuse by its headers a body that would be refused once it was read."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Encoded("api.body-encoded")
    length = headers.get(b"content-length", b"0")
    if len(length) > 18 or (length.isdigit() and int(length) > BODY_BYTES_MAX):
        raise TooLarge("api.body-too-large", limit=BODY_BYTES_MAX)


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


def advice(error: MadangError) -> Iterator[tuple[str, str]]:
    """Yield the headers that tell a caller what to do next."""
    if error.http_status == 401:
        yield "www-authenticate", "Bearer"
    if error.http_status == 503 or error.code == "request.under-way":
        yield "retry-after", "2"


async def _turn_away(unread: Receive | None, send: Send, error: MadangError, scope: Scope) -> None:
    """Refuse; where a body may still come hang up, but read on so far that the answer is seen."""
    content = msgspec.json.encode(error_body(error, scope))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    headers += [(name.encode(), value.encode()) for name, value in advice(error)]
    if unread:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": bool(unread)})
    if unread:
        await swallow(unread)
        await send({"type": "http.response.body", "body": b""})
