"""What control puts under its HTTP: heads bounded in bytes and time, connections in number.

uvicorn's own protocol reads a head of any size, for as long as the client likes, from any number.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from madang.bounds import (
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    HEAD_S_MAX,
    NO_MEMORY,
    SWALLOW_BYTES_MAX,
    SWALLOW_S,
    TOO_LARGE,
    TOO_MANY,
    TOO_SLOW,
    bound,
    parting,
)

Message = MutableMapping[str, Any]

SETTINGS: dict[str, Any] = {
    "ws": "none",
    "lifespan": "off",
    "log_config": None,
    "access_log": False,
    "proxy_headers": False,  # whoever connects is who they are; X-Forwarded-For says nothing
    "server_header": False,
}
"""What every server of ours tells uvicorn."""


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol; a head that is too large or too slow ends the connection."""

    _head_bytes = 0
    """Received of a head that is not complete."""
    _in_head = True
    _begun = False
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first head its time, if there is room for one connection more."""
        super().connection_made(transport)
        self._served = self.app
        bound(transport.get_extra_info("socket"))
        self._late = self.loop.call_later(HEAD_S_MAX, self._end, 408, TOO_SLOW)
        if len(self.connections) > CONNECTIONS_MAX:
            self._make_room()

    def _make_room(self) -> None:
        """Close a connection that nobody uses, be it that its head drips; if none, this one."""
        for each in self.connections:
            if each is not self and isinstance(each, BoundedHeads) and each.is_idle:
                each.transport.close()
                return
        self._end(503, TOO_MANY)

    @property
    def is_idle(self) -> bool:
        """Whether it could be closed without anybody's answer being lost."""
        answered = getattr(self.cycle, "response_complete", True)
        return answered and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it makes an endless head."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or not (self._head_bytes or self._begun):
            return
        if self._head_bytes > HEAD_BYTES_MAX:
            self._end(431, TOO_LARGE)
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_S_MAX, self._end, 408, TOO_SLOW)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; what only found no memory here is told so, and so are we."""
        lack = getattr(sys.exc_info()[1], "__context__", None)
        if not isinstance(lack, MemoryError):
            super().send_400_response(msg)
            return
        self.loop.call_exception_handler({"message": msg, "exception": lack})
        self._end(503, NO_MEMORY)

    def on_message_begin(self) -> None:
        """Note that a head is coming, perhaps behind the request before it."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Serve the request, or refuse it for the size of its head."""
        self._in_head, self._begun, self._head_bytes = False, False, 0
        self._in_time()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        self.app = self._served if size <= HEAD_BYTES_MAX else _refuse_head
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next head."""
        self._in_head = True
        super().on_message_complete()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self, status: int, body: bytes) -> None:
        """Answer without any request and hang up; a request under way keeps its own answer."""
        self._in_time()
        if self.transport.is_closing():
            return
        if getattr(self.cycle, "response_complete", True):
            self.transport.write(parting(status, body))
        self.transport.close()


async def _refuse_head(_scope: Any, _receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(TOO_LARGE)).encode()))
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": TOO_LARGE})


async def swallow(receive: Callable[[], Awaitable[Message]]) -> None:
    """Read what a client is still sending after it was refused, so that it sees the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SWALLOW_S):
            left = SWALLOW_BYTES_MAX
            while left > 0 and (message := await _next(receive)) and message.get("more_body"):
                left -= len(message["body"])


async def _next(receive: Callable[[], Awaitable[Message]]) -> Message | None:
    """Take what came next; None where there is no memory to take it, and nobody needs it."""
    try:
        return await receive()
    except MemoryError:
        await asyncio.sleep(0)
        return None
