"""The way to the engines: one pool of connections, no second opinion on anything.

A request takes an idle connection, the one used last, or a fresh one; an answer is told to who
asked as it comes, all bytes of one read at once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Protocol
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from madang.bounds import hurry
from madang.errors import is_our_lack
from madang.gateway.form import END, Form, measured
from madang.gateway.outbox import Outbox
from madang.threads import Lacks
from madang.traffic.exchange import Fault

KEEP_ALIVE_S = 2.0
"""Idle connections are closed before common engines close them (5 s)."""
HEAD_BYTES_MAX = 64 << 10
"""Of an answer."""
WHOLE_BODY_BYTES_MAX = 64 << 10
"""A larger body is written beside its head, not copied behind it."""
ROUTES_MAX = 10_000
"""Heads that are kept, written for one door of one replica each; then they are written anew."""
_CONTROLS = frozenset(map(chr, range(32))) | {"\x7f", " "}


class Asker(Protocol):
    """Who is told what becomes of a call; after `failed`, `ended` or `dropped`: nothing more."""

    def failed(self, fault: Fault) -> None:
        """There is no answer."""

    def heard(self, status: int, content_type: str) -> Fault | None:
        """Take the head of the answer; a fault: it is none."""

    def said(self, data: bytes) -> None:
        """Take some of its body."""

    def ended(self) -> None:
        """The answer is whole."""

    def dropped(self) -> None:
        """The engine has gone in the middle of it."""

    def short(self) -> None:
        """There is no memory for it."""


class Route:
    """Where a replica is, and its idle connections; the one used last is at the right."""

    __slots__ = ("host", "idle", "port", "seen", "tls")

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.idle: deque[Call] = deque()
        self.seen: tuple[Form, str] | None = None
        """The head of its last good answer, and what type that said."""


class Call(asyncio.Protocol):
    """One connection to an engine, and the request that is on it."""

    __slots__ = (
        "_asker", "_engines", "_headed", "_interim", "_keeps", "_measured", "_owed", "_parser",
        "_pieces", "_raw", "_route", "_said", "_status", "_surplus", "_told", "_type", "_whole",
        "deadline", "transport",
    )  # fmt: skip

    def __init__(self, engines: Engines, route: Route) -> None:
        self._engines = engines
        self._route = route
        self._parser = HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.deadline = 0.0
        """Until when it may stay idle, or finish without anybody listening."""
        self._asker: Asker | None = None
        self._said: tuple[bytes, bytes] = (b"", b"")
        self._surplus = False
        self._owed = 0
        """Bytes until the parser is between two answers, 0: it is; -1: nobody can tell."""
        self._clear()

    def _clear(self) -> None:
        self._type = ""
        self._pieces: list[bytes] = []
        self._raw = self._status = 0
        self._headed = self._told = self._whole = False
        self._measured = self._interim = self._keeps = False

    def send(self, asker: Asker, head: bytes, body: bytes) -> None:
        """Ask; before there is a connection, as soon as there is one."""
        self._asker = asker
        transport = self.transport
        if transport is None:
            self._said = (head, body)
        elif len(body) <= WHOLE_BODY_BYTES_MAX:
            self._engines.outbox.send(transport, head + body)
        else:
            transport.writelines((head, body))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Send what is to be asked; if nobody asks any more, hang up."""
        self.transport = transport
        hurry(transport.get_extra_info("socket"))
        asker, (head, body), self._said = self._asker, self._said, (b"", b"")
        if asker is None:
            transport.abort()
        else:
            self.send(asker, head, body)

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        try:
            self._take(data)
        except MemoryError as error:
            self._engines.lacks.note(error)
            asker = self._asker
            self.abort()
            if asker is not None:
                asker.short()

    def _take(self, data: bytes) -> None:
        if self._asker is None and self._whole:  # idle: bytes nobody has asked for
            self.abort()
            return
        form = None
        if not self._owed:
            if self._recognise(data):
                return
            self._owed, form = measured(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._garbled(error)
            return
        if self._owed > 0 or self._whole:
            self._count(data, form)
        if not self._headed:
            self._raw += len(data)
            if self._raw > HEAD_BYTES_MAX:
                self._garbled(None)
            return
        if self._asker is not None:
            self._tell()
        if self._whole:
            self._complete()

    def _recognise(self, data: bytes) -> bool:
        """Take a whole answer whose head says what the last one said."""
        seen = self._route.seen
        if seen is None or self._asker is None:
            return False
        start, size = seen[0].fits(data)
        if not start or len(data) - start != size:
            return False
        self._status, self._type = 200, seen[1]
        self._headed = self._keeps = self._whole = True
        self._pieces.append(data[start:])
        self._tell()
        self._complete()
        return True

    def _count(self, data: bytes, form: Form | None) -> None:
        """Find out how much the parser still needs, and keep the form of a good answer's head."""
        owed = self._owed - len(data)
        if self._whole:
            is_exact = not owed and self._status == 200
            if is_exact and form is not None and self._keeps:
                self._route.seen = form, self._type
            # behind the end of a head, or of chunks, there is nothing but an answer
            owed = 0 if is_exact or data.endswith(END) else -1
        self._owed = owed if owed > 0 or self._whole else -1

    def _tell(self) -> None:
        """Tell who asked what one read has brought."""
        asker = self._asker
        if asker is not None and not self._told:
            self._told = True
            fault = asker.heard(self._status, self._type)
            if fault is not None:
                self.abort()
                asker.failed(fault)
                return
        pieces = self._pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            if self._asker is not None:
                self._asker.said(data)

    def _garbled(self, error: Exception | None) -> None:
        """Give up what is no HTTP; a mistake of ours, in a callback, stays one."""
        cause = error.__context__ if error is not None else None
        if cause is not None and not isinstance(cause, HttpParserError):
            raise cause
        asker, told, headed = self._asker, self._told, self._headed
        if asker is not None and headed and not told:
            self._tell()
            asker, told = self._asker, True
        self.abort()
        if asker is None:
            return
        if told:
            asker.dropped()
        else:
            asker.failed("garbled")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note what counts of the head."""
        if self._headed:
            return
        name = name.lower()
        if name == b"content-type":
            self._type = value.decode("latin-1")
        elif name in {b"content-length", b"transfer-encoding"}:
            self._measured = True

    def on_headers_complete(self) -> None:
        """Note that the head is whole; a second one behind an answer is nobody's."""
        if self._whole:
            self._surplus = True
            return
        self._status = status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        self._headed = not self._interim
        self._keeps = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Keep a piece until all of this read is parsed."""
        if self._asker is not None and not self._surplus:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Note that the answer is whole, if it was no interim one."""
        if self._interim:
            self._clear()
        else:
            self._whole = True

    def _complete(self) -> None:
        """Let go of who asked; the connection may be used again."""
        asker, self._asker = self._asker, None
        transport = self.transport
        if self._surplus or transport is None or not self._keeps:
            self.abort()
        elif not transport.is_closing():
            self._clear()
            self._whole = True
            self._engines.rest(self, self._route)
        if asker is not None:
            asker.ended()

    def again(self) -> None:
        """Be asked something new."""
        self._whole = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who asked; an answer without a length ends so."""
        self._engines.gone(self, self._route)
        asker, self._asker = self._asker, None
        if asker is None:
            return
        if not self._headed:
            error = exc if exc is not None and is_our_lack(exc) else None
            asker.failed("lost" if error is None else self._engines.lacking(error))
        elif self._measured:
            asker.dropped()
        else:
            asker.ended()

    def unreachable(self, fault: Fault) -> None:
        """Tell who asked that no connection came about."""
        asker, self._asker = self._asker, None
        if asker is not None:
            asker.failed(fault)

    def abort(self) -> None:
        """Hang up: nobody wants the answer any more. The engine notices by its connection."""
        self._asker = None
        self._engines.gone(self, self._route)
        if self.transport is not None:
            self.transport.abort()

    def release(self, linger_s: float) -> None:
        """Let the engine end an answer that nobody listens to, in this time."""
        self._asker = None
        if not self._whole:
            self._engines.linger(self, linger_s)

    def pause(self) -> None:
        """Take nothing more for now."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Go on taking."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()


class Engines:
    """Connections to every engine; use it inside one loop."""

    def __init__(self, connect_s: float, lacks: Lacks) -> None:
        self.lacks = lacks
        self.outbox = Outbox(lacks)
        self._connect_s = connect_s
        self._routes: dict[tuple[str, str], Route] = {}
        self._heads: dict[tuple[str, str], tuple[bytes, Route]] = {}
        self._dialling: set[asyncio.Task[None]] = set()
        self._lingering: set[Call] = set()
        self._tick = 0.0

    def ask(self, door: tuple[str, str], name: str, body: bytes, asker: Asker, fresh: bool) -> Call:
        """Send a request to a door, its address and key, under the name that logs tell it by.

        Whatever becomes of it is told later, never before this returns. `fresh`: not on a
        connection that was used before; it might end as we write, once more.
        """
        head, route = self._heads.get(door) or self._learn(*door)
        head = b"%b%b\r\nContent-Length: %d\r\n\r\n" % (head, name.encode(), len(body))
        idle = route.idle
        while idle and not fresh:
            call = idle.pop()
            transport = call.transport
            if transport is not None and not transport.is_closing():
                call.again()
                call.send(asker, head, body)
                return call
        call = Call(self, route)
        call.send(asker, head, body)
        task = asyncio.get_running_loop().create_task(self._dial(call, route))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        return call

    def _learn(self, url: str, token: str) -> tuple[bytes, Route]:
        """Write what all requests to one door of a replica begin with."""
        assert not _CONTROLS & {*url, *token}, "control makes addresses and keys"
        if len(self._heads) >= ROUTES_MAX:
            self._heads.clear()
            self._routes = {k: r for k, r in self._routes.items() if r.idle}
        parts = urlsplit(url)
        key = parts.scheme, parts.netloc
        route = self._routes.get(key)
        if route is None:
            tls = ssl.create_default_context() if parts.scheme == "https" else None
            port = parts.port or (443 if tls else 80)
            route = self._routes[key] = Route(parts.hostname or "", port, tls)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}"
            "\r\nContent-Type: application/json\r\nX-Request-Id: "
        )
        self._heads[url, token] = found = head.encode("latin-1"), route
        return found

    async def _dial(self, call: Call, route: Route) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                await loop.create_connection(lambda: call, route.host, route.port, ssl=route.tls)
        except TimeoutError:
            call.unreachable("refused")
        except (OSError, MemoryError) as error:
            call.unreachable(self.lacking(error) if is_our_lack(error) else "refused")

    def lacking(self, error: BaseException) -> Fault:
        """Note that it was our own lack."""
        self.lacks.note(error)
        return "short"

    def rest(self, call: Call, route: Route) -> None:
        """Keep a connection for the next request."""
        self._lingering.discard(call)
        call.deadline = self._tick + KEEP_ALIVE_S
        route.idle.append(call)

    def linger(self, call: Call, linger_s: float) -> None:
        """Give a connection some time to be fit for the next request."""
        call.deadline = self._tick + linger_s
        self._lingering.add(call)

    def gone(self, call: Call, route: Route) -> None:
        """Forget a connection that has ended."""
        self._lingering.discard(call)
        if call in route.idle:
            route.idle.remove(call)

    def sweep(self, now: float) -> None:
        """Close what is idle, or has lingered, for too long."""
        self._tick = now
        self.outbox.flush()  # nothing waits so long, unless something went wrong
        for call in [call for call in self._lingering if now >= call.deadline]:
            call.abort()
        for route in self._routes.values():
            while route.idle and now >= route.idle[0].deadline:
                call = route.idle.popleft()
                call.abort()

    async def close(self) -> None:
        """Close every connection."""
        for task in tuple(self._dialling):
            task.cancel()
        for call in tuple(self._lingering):
            call.abort()
        for route in self._routes.values():
            while route.idle:
                route.idle.popleft().abort()
        await asyncio.sleep(0)
