"""One client's connection: bytes in, one request after the other to its `Visit`, bytes out.

httptools can't pause: what one read holds beyond a request is parsed and waits in a short line;
what is read later waits as bytes. Reading goes on while a request is served, so that a client
that leaves is noticed at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from madang import bounds
from madang.gateway.asked import KEPT, Asked, Seen, framing
from madang.gateway.form import END, Form, measured
from madang.gateway.house import House
from madang.gateway.outbox import Outbox
from madang.gateway.visit import Visit

KEEP_ALIVE_S = 75.0
"""Longer than common clients keep an idle connection, so that they close it first."""
PIPELINED_MAX = 8
"""Requests of one read that wait for their turn; whoever sends more is cut off behind these."""
LATER_BYTES_MAX = 64 << 10
"""What waits unparsed while a request is served; more stays in the kernel."""


class Connection(asyncio.Protocol):
    """A client, as long as it stays."""

    __slots__ = (
        "_asked",
        "_begun",
        "_broken",
        "_deaf",
        "_form",
        "_going",
        "_headers",
        "_held",
        "_house",
        "_lacking",
        "_later",
        "_moved",
        "_outbox",
        "_owed",
        "_parser",
        "_ready",
        "_seen",
        "_shut",
        "_swallowed",
        "_target",
        "_transport",
        "_unparsed",
        "deadline",
        "paused",
        "server",
        "stopping",
        "visit",
    )  # fmt: skip

    _transport: asyncio.Transport
    _outbox: Outbox

    def __init__(self, house: House) -> None:
        self._house = house
        self._parser = HttpRequestParser(self)
        self._asked: Asked | None = None
        """The request whose body is coming in."""
        self._ready: deque[Asked] = deque()
        self._later = bytearray()
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._unparsed = 0
        """Bytes since the parser last told of a head or a piece of a body."""
        self._owed = 0
        """Bytes until the parser is between two requests, 0: it is; -1: nobody can tell."""
        self._form: Form | None = None
        """Of the head that the parser reads now."""
        self._seen: Seen | None = None
        """The head that was read last."""
        self._lacking = 0
        """Bytes that the body lacks whose head did not go to the parser."""
        self._moved = self._shut = self._deaf = self._held = self._going = False
        self._begun = True
        """Whether a head is awaited by `deadline`, or none is under way."""
        self._broken = b""
        """What is said once those before it are served, when this is no HTTP any more."""
        self._swallowed = 0
        self.visit: Visit | None = None
        self.deadline = inf
        """When whatever this connection waits for is too late; inf: its visit knows."""
        self.paused = False
        """Whether the client has to take more of what it was sent."""
        self.stopping = False
        self.server: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first head its time, if there is room for one connection more."""
        self._transport = transport
        self._outbox = self._house.means.engines.outbox
        name = transport.get_extra_info("sockname")
        self.server = (name[0], name[1]) if name else None
        bounds.bound(transport.get_extra_info("socket"))
        self.deadline = self._house.means.clock.monotonic() + bounds.HEAD_S_MAX
        connections = self._house.connections
        connections[self] = None
        if len(connections) > bounds.CONNECTIONS_MAX:
            self._make_room()

    def _make_room(self) -> None:
        """Close a connection that nobody uses, be it that its head drips; if none, this one."""
        for each in self._house.connections:
            if each is not self and each.is_idle:
                each.close()
                return
        self.part(bounds.parting(503, bounds.TOO_MANY))

    @property
    def is_idle(self) -> bool:
        """Whether it could be closed without anybody's answer being lost."""
        return self.visit is None and not self._transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (why, is the kernel's)
        """Stop at once whatever is done for a client that is gone."""
        self._house.connections.pop(self, None)
        self._deaf = True
        if self.visit is not None:
            self.visit.left()

    def eof_received(self) -> None:
        """Take a client that says no more for one that has left, once it has what is its own."""
        self._outbox.flush()
        if self.visit is not None:
            self.visit.left()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        try:
            if self._deaf:
                self._swallow(len(data))
            elif self.visit is None:
                self._parse(data)
                self._go_on()
            elif self.visit.reading:
                self._parse(data)
                self._read_on(self.visit)
            else:
                self._keep(data)
        except MemoryError as error:
            self.short(error)

    def _parse(self, data: bytes) -> None:
        """Feed the parser, no more of a head than it may have; nothing of one that comes again."""
        if self._lacking:
            data = self._fill(data)
        elif self._seen is not None and not self._owed:
            data = self._recognise(self._seen, data)
        if not data:
            return
        if self._unparsed + len(data) <= bounds.HEAD_BYTES_MAX:
            self._feed(data)
            return
        while data and not self._shut:
            room = bounds.HEAD_BYTES_MAX + 1 - self._unparsed if self._asked is None else len(data)
            self._feed(data[:room])
            data = data[room:]

    def _recognise(self, seen: Seen, data: bytes) -> bytes:
        """Take a request whose head says what the last one said; return what is not of it."""
        start, size = seen.form.fits(data)
        if not start or seen.head is None:
            return data
        self._asked = asked = seen.again(size)
        self._begun = False
        if len(data) - start != size:
            self._lacking = size
            return self._fill(data[start:])
        asked.body = data[start:]
        self.on_message_complete()
        return b""

    def _fill(self, data: bytes) -> bytes:
        """Take of the body what it lacks; return what is left."""
        piece = data[: self._lacking]
        self._lacking -= len(piece)
        self.on_body(piece)
        if not self._lacking:
            self.on_message_complete()
        return data[len(piece) :]

    def _feed(self, data: bytes) -> None:
        self._moved = False
        owed = self._owed
        if not owed:
            owed, self._form = measured(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._shut:
                self._break(error)
            return
        owed -= len(data)
        if owed < 0:  # behind the end of a head, or of chunks, there is nothing but a request
            owed = 0 if self._asked is None and data.endswith(END) else -1
        self._owed = owed
        self._unparsed = 0 if self._moved else self._unparsed + len(data)
        if self._unparsed > bounds.HEAD_BYTES_MAX and not self._shut:
            in_body = self._asked is not None
            said = (400, bounds.NO_HTTP) if in_body else (431, bounds.TOO_LARGE)
            self._spoil(bounds.parting(*said))

    def _break(self, error: Exception) -> None:
        """Take the connection for none of HTTP any more; a mistake of ours stays one."""
        cause = error.__context__
        if cause is not None and not isinstance(cause, HttpParserError):
            raise cause
        self._spoil(bounds.parting(400, bounds.NO_HTTP))

    def _spoil(self, said: bytes) -> None:
        self._shut = True
        self._asked = None
        self._broken = said

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header that means something; a trailer never does."""
        kept = KEPT.get(name.lower())
        if kept is not None and self._asked is None:
            self._headers.append((kept, value))

    def on_headers_complete(self) -> None:
        """Look whether this head can be read in one way only."""
        self._moved = True
        if self._shut:
            return
        parser = self._parser
        version = parser.get_http_version()
        method = parser.get_method().decode("latin-1")
        is_old = version == "1.0"
        keeps = not is_old and parser.should_keep_alive()
        asked = Asked(method, self._target, self._headers, is_old, keeps)
        self._target, self._headers, self._begun = b"", [], False
        asked.trouble = framing(asked, version, parser.should_upgrade())
        if asked.trouble is None:
            self._asked = asked
            if self._form is not None and keeps:
                self._seen = asked.seen = Seen(self._form, asked)
            self._form = None
        else:
            self._shut = True
            self._ready.append(asked)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._moved = True
        if self._asked is not None:
            self._asked.add(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole; the next one begins."""
        self._moved = True
        asked, self._asked = self._asked, None
        if asked is None or self._shut:
            return
        asked.whole = True
        if self.visit is not None and self.visit.asked is asked:
            return
        self._ready.append(asked)
        if len(self._ready) > PIPELINED_MAX:
            self._shut = True
            asked.keeps_alive = False

    def _read_on(self, visit: Visit) -> None:
        """Tell a visit that there is more of its body, or that there never will be."""
        if self._broken and not visit.asked.whole:
            visit.spoiled(self._broken)
        else:
            visit.more()

    def _keep(self, data: bytes) -> None:
        """Keep what came too early; beyond a bound the kernel, and then the client, must."""
        if self._shut:
            return
        self._later += data
        if len(self._later) > LATER_BYTES_MAX and not self._held:
            self._held = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Serve what waits; without end where each is answered at once, but not deeper and deeper.

        A request whose body is not whole is begun last: most often the rest is already here.
        """
        if self._going:
            return
        self._going = True
        try:
            while self.visit is None and not self._deaf:
                if self._ready:
                    self._begin(self._ready.popleft())
                elif self._later:
                    self._parse(self._take_later())
                elif self._asked is not None:
                    self._begin(self._asked)
                elif self._broken:
                    self.part(self._broken)
                else:
                    self._rest()
                    break
        finally:
            self._going = False

    def _begin(self, asked: Asked) -> None:
        self.deadline = inf
        self.visit = visit = Visit(self._house, self, asked)
        visit.begin()

    def _take_later(self) -> bytes:
        data = bytes(self._later)
        self._later.clear()
        self._listen()
        return data

    def _listen(self) -> None:
        if self._held:
            self._held = False
            self._transport.resume_reading()

    def _rest(self) -> None:
        """Wait for the next request; a head that has begun has its own, shorter, time."""
        if self._begun:
            return
        if self._target or self._unparsed:
            self._begun = True
            self.deadline = self._house.tick + bounds.HEAD_S_MAX
        else:
            self.deadline = self._house.tick + KEEP_ALIVE_S

    def write(self, data: bytes | memoryview) -> None:
        """Send something."""
        self._outbox.send(self._transport, data)

    def finished(self, closes: bool) -> None:
        """Note that the visit has had its answer, or needs none any more."""
        self.visit = None
        if closes or self.stopping:
            self.close()
        elif not self._going:
            self._go_on()

    def part(self, data: bytes) -> None:
        """Send a last answer, and read for a while what still comes, so that the client sees it.

        Closing with something unread makes the kernel throw away what was not yet taken.
        """
        self.visit = None
        if self._deaf:
            return
        self._deaf = True
        self.deadline = self._house.means.clock.monotonic() + bounds.SWALLOW_S
        self._later.clear()
        self._ready.clear()
        self._listen()
        self._outbox.send(self._transport, data)
        self._outbox.flush()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _swallow(self, size: int) -> None:
        self._swallowed += size
        if self._swallowed > bounds.SWALLOW_BYTES_MAX:
            self.close()

    def check(self, now: float, at: float) -> None:
        """End what is too late; `at` is Unix seconds."""
        try:
            if now >= self.deadline:
                self._late()
            elif self.visit is not None:
                self.visit.check(now, at)
        except MemoryError as error:
            self.short(error)

    def _late(self) -> None:
        if self.visit is not None:
            self.visit.slow()
        elif self._begun and not self._deaf:
            self.part(bounds.parting(408, bounds.TOO_SLOW))
        else:
            self.close()

    def pause_writing(self) -> None:
        """Stop sending: the client does not take it."""
        self.paused = True
        if self.visit is not None:
            self.visit.pause()

    def resume_writing(self) -> None:
        """Go on sending."""
        self.paused = False
        try:
            if self.visit is not None:
                self.visit.resume()
        except MemoryError as error:
            self.short(error)

    def short(self, error: MemoryError) -> None:
        """Refuse, in whatever way is still possible, what we have no memory for; else hang up."""
        self._house.means.lacks.note(error)
        try:
            if self.visit is not None:
                self.visit.short()
            else:
                self.part(bounds.parting(503, bounds.NO_MEMORY))
        except MemoryError:
            self.abort()

    def stop(self) -> None:
        """Serve what is under way, and nothing after it."""
        self.stopping = True
        if self.visit is None:
            self.close()

    def cut(self) -> None:
        """Tell whoever is being served that this is all."""
        if self.visit is not None:
            self.visit.cut()

    def close(self) -> None:
        """Hang up once all is sent."""
        self._deaf = True
        self._outbox.flush()
        self._transport.close()

    def abort(self) -> None:
        """Hang up at once: an orderly end waits until the client has read all before it."""
        self._deaf = True
        self._transport.abort()
