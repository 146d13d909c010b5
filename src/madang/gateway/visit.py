"""One request from its head to its account: asks `traffic`, moves the bytes.

A machine of callbacks: its connection tells what the client does, its call what the engine does,
the sweep what takes too long. Whatever happens, it ends by `_finish`, once.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Protocol

from msgspec import structs

from madang.gateway import reply
from madang.gateway.asked import Asked
from madang.gateway.engines import Call
from madang.gateway.house import House
from madang.traffic.doors import Head, too_large
from madang.traffic.exchange import (
    CLIENT_LEFT,
    ENGINE_DIED,
    KEY_REVOKED,
    STOPPING,
    Exchange,
    Fault,
)
from madang.traffic.refusal import OVERLOADED, Refusal, slow_body
from madang.traffic.requests import Kind
from madang.traffic.table import Key, Target

PART_BYTES = 256 << 10
"""A larger answer is sent in parts, each once the client has taken most of the one before."""


class Client(Protocol):
    """Who asks, as a visit sees them: a connection."""

    deadline: float
    """When the body is too late."""
    paused: bool
    """Whether the client has to take more of what it was sent."""
    stopping: bool
    """Whether the connection ends with this answer."""
    server: tuple[str, int] | None
    """Where they came in."""

    def write(self, data: bytes | memoryview) -> None:
        """Send something."""

    def part(self, data: bytes) -> None:
        """Send a last answer, whatever still comes."""

    def finished(self, closes: bool) -> None:
        """The visit has had its answer, or needs none any more."""

    def abort(self) -> None:
        """Hang up at once."""


class Visit:
    """One request being served."""

    __slots__ = (
        "_call", "_carried", "_connection", "_desk", "_ending", "_entered", "_exchange", "_house",
        "_key", "_kind", "_means", "_over", "_parts", "_retries", "_started", "asked", "id",
        "reading",
    )  # fmt: skip

    def __init__(self, house: House, connection: Client, asked: Asked) -> None:
        self._house = house
        self._means = house.means
        self._desk = house.means.desk
        self._connection = connection
        self.asked = asked
        self.id = house.next_id()
        self.reading = False
        """Whether the rest of its body is still to come."""
        self._kind: Kind | None = None
        self._key: Key | None = None
        self._exchange: Exchange | None = None
        self._call: Call | None = None
        self._carried = 0
        self._parts: memoryview | None = None
        """What is left of a large answer."""
        self._entered = self._retries = self._started = self._ending = self._over = False

    def begin(self) -> None:
        """Go through the checks, the cheap ones first."""
        asked, desk = self.asked, self._desk
        if asked.trouble is not None:
            self._turn_away(asked.trouble)
            return
        self._entered = True
        head = self._enter(asked)
        if isinstance(head, Refusal):
            self._turn_away(head)
            return
        clock = self._means.clock
        now = clock.monotonic()
        if head.door == "health":
            self._tell(desk.health(now))
            return
        key = desk.identify(head, clock.now(), now)
        if isinstance(key, Refusal):
            self._turn_away(key)
        elif head.door == "models" or head.door == "model":  # noqa: PLR1714 (narrows the type)
            self._tell(desk.look(head, key))
        else:
            self._kind, self._key = head.door, key
            self._read(now)

    def _enter(self, asked: Asked) -> Head | Refusal:
        """Have the head judged; what was said of one that came before holds for this one."""
        seen = asked.seen
        if seen is not None and seen.head is not None:
            return self._desk.enter_again(seen.head, asked.length)
        server = self._connection.server
        head = self._desk.enter(asked.method, asked.path, asked.headers, server)
        if seen is not None and not isinstance(head, Refusal):
            seen.head = head
        return head

    def _read(self, now: float) -> None:
        """Go on with the body, if it is all here; else let it come."""
        asked = self.asked
        if asked.whole:
            self._weigh()
            return
        self.reading = True
        self._connection.deadline = now + self._desk.limits.body_s
        if not asked.body and asked.said(b"expect").lower() == b"100-continue":
            self._connection.write(reply.CONTINUE)
        self.more()

    def more(self) -> None:
        """Look at the body again: there is more of it."""
        if self._over:
            return
        if self.asked.whole:
            self._weigh()
        elif refusal := self._carry():
            self._turn_away(refusal)

    def _carry(self) -> Refusal | None:
        """Take what came of the body upon us, as far as it may go."""
        desk, size = self._desk, len(self.asked.body)
        if size > desk.limits.body_bytes_max:
            return too_large(desk.limits.body_bytes_max)
        if refusal := desk.carry(size - self._carried):
            return structs.replace(refusal, close=True)
        self._carried = size
        return None

    def _weigh(self) -> None:
        """Check a whole request and let it in."""
        came_later, self.reading = self.reading, False
        if refusal := self._carry():
            self._turn_away(refusal)
            return
        asked, desk, now = self.asked, self._desk, self._means.clock.monotonic()
        kind, key = self._kind, self._key
        assert kind is not None, "it was let in"
        assert key is not None, "it was let in"
        admitted = desk.admit(self.id, key, kind, bytes(asked.body), now)
        asked.body = b""
        if isinstance(admitted, Refusal):
            self._turn_away(admitted)
            return
        self._exchange = admitted
        if came_later:
            self._connection.deadline = inf
            if not desk.honours(admitted, self._means.clock.now()):
                self._refuse(KEY_REVOKED)
                return
        self._ask(desk.start(admitted, self._called, now))

    def _ask(self, choice: Target | Refusal | None) -> None:
        """Ask a replica, wait for one, or say why there is none."""
        exchange = self._exchange
        if choice is None or exchange is None:
            return
        if isinstance(choice, Refusal):
            self._refuse(choice)
            return
        url, body = exchange.upstream(choice)
        door = url, choice.token
        self._call = self._means.engines.ask(door, self.id, body, self, fresh=self._retries)

    def _called(self, choice: Target | Refusal) -> None:
        """Hear what came of the wait; whoever calls must not be asked anything meanwhile."""
        asyncio.get_running_loop().call_soon(self._ask, choice)

    def failed(self, fault: Fault) -> None:
        """Find another replica: this one gave no answer."""
        exchange = self._exchange
        if exchange is None:
            return
        self._call, self._retries = None, True
        now = self._means.clock.monotonic()
        self._ask(self._desk.failed(exchange, fault, self._called, now))

    def heard(self, status: int, content_type: str) -> Fault | None:
        """Take the head of an answer; a fault when it is none."""
        exchange = self._exchange
        if exchange is None:
            return None
        return exchange.answers(status, content_type, self._means.clock.monotonic())

    def said(self, data: bytes) -> None:
        """Pass on what an engine said, or collect it."""
        exchange = self._exchange
        if exchange is None:
            return
        now = self._means.clock.monotonic()
        if not exchange.streaming:
            if refusal := exchange.collect(data, now):
                self._refuse(refusal)
            return
        passed = exchange.feed(data, now)
        if isinstance(passed, Refusal):
            self._refuse(passed)
            return
        if exchange.done:
            self._desk.free(exchange, now)
            self._end(passed)
        elif passed:
            self._piece(passed)
            if not self._connection.paused:
                exchange.engine_turn(now)

    def _piece(self, data: bytes) -> None:
        """Send some events."""
        if not self.asked.is_old:
            data = reply.chunk(data)
        if not self._started:
            data = self._begin_stream() + data
        self._connection.write(data)

    def _begin_stream(self) -> bytes:
        self._started = True
        return reply.stream(self._marked(), chunked=not self.asked.is_old)

    def _end(self, last: bytes) -> None:
        """End a stream; its engine may finish by itself."""
        call, self._call = self._call, None
        if call is not None:
            call.release(self._desk.limits.linger_s)
        data = b"" if self._started else self._begin_stream()
        if self.asked.is_old:
            data += last
        else:
            data += (reply.chunk(last) if last else b"") + reply.LAST_CHUNK
        self._connection.write(data)
        self._ending = True
        if not self._connection.paused:
            self._finish(200, closes=self._closes)

    def ended(self) -> None:
        """Judge an answer that has ended as answers do."""
        self._call = None
        exchange = self._exchange
        if exchange is None or self._ending:
            return
        now = self._means.clock.monotonic()
        if exchange.streaming:
            self._refuse(exchange.ended() or ENGINE_DIED)
            return
        body = exchange.answer(now)
        self._desk.free(exchange, now)
        if isinstance(body, Refusal):
            self._refuse(body)
        else:
            self._give(body)

    def dropped(self) -> None:
        """Tell that the engine has gone in the middle of its answer."""
        self._call = None
        if self._exchange is not None and not self._ending:
            self._refuse(ENGINE_DIED)

    def _give(self, body: bytes) -> None:
        """Send a whole answer, a large one as the client takes it."""
        connection = self._connection
        if len(body) <= PART_BYTES:
            connection.write(reply.whole(body, self._marked(), self._closes))
            self._finish(200, closes=self._closes)
            return
        first = reply.whole(body[:PART_BYTES], self._house.marked(self.id), self._closes, len(body))
        self._parts, self._started = memoryview(body)[PART_BYTES:], True
        connection.write(first)
        self._give_on()

    def _marked(self) -> bytes:
        """Write the headers of a good answer that say whose it is, and what limits leave."""
        marked = self._house.marked(self.id)
        exchange = self._exchange
        return marked + exchange.headers if exchange is not None else marked

    def _give_on(self) -> None:
        while (parts := self._parts) is not None and not self._connection.paused:
            self._parts = parts[PART_BYTES:] or None
            if self._exchange is not None:
                self._exchange.taken(self._means.clock.monotonic())
            self._connection.write(parts[:PART_BYTES])
        if self._parts is None:
            self._finish(200, closes=self._closes)

    def pause(self) -> None:
        """Stop the engine: the client has to take what it was sent."""
        if self._call is not None:
            self._call.pause()
        if self._exchange is not None and self._started:
            self._exchange.client_turn = True
            self._exchange.taken(self._means.clock.monotonic())

    def resume(self) -> None:
        """Go on: the client has taken most of it."""
        if self._parts is not None:
            self._give_on()
        elif self._ending:
            self._finish(200, closes=self._closes)
        elif self._call is not None:
            self._call.resume()
            if self._exchange is not None:
                self._exchange.engine_turn(self._means.clock.monotonic())

    def check(self, now: float, at: float) -> None:
        """Stop if somebody has taken too long, or may no longer ask; `at` is Unix seconds."""
        exchange = self._exchange
        if exchange is None:
            return
        if not self._desk.honours(exchange, at):
            self._refuse(KEY_REVOKED)
        elif now >= exchange.deadline:
            self._late(exchange, now)

    def _late(self, exchange: Exchange, now: float) -> None:
        if exchange.client_turn or self._ending:
            self._hang_up(CLIENT_LEFT)
        elif refusal := exchange.silent(now):
            self._refuse(refusal)
        else:
            self._end(b"")

    def slow(self) -> None:
        """Refuse a body that did not come in time."""
        self._turn_away(slow_body(self._desk.limits.body_s))

    def short(self) -> None:
        """Refuse what there is no memory for."""
        self._turn_away(OVERLOADED)

    def cut(self) -> None:
        """End it: the gateway stops."""
        self._turn_away(STOPPING)

    def spoiled(self, said: bytes) -> None:
        """End it: what comes is no body any more."""
        self._part(400, said)

    def left(self) -> None:
        """Stop everything: nobody waits for the answer any more."""
        self._finish(CLIENT_LEFT, closes=True)

    @property
    def _closes(self) -> bool:
        return not self.asked.keeps_alive or self._connection.stopping

    def _tell(self, answer: bytes | Refusal) -> None:
        """Answer a question that no engine is asked."""
        if isinstance(answer, Refusal):
            self._turn_away(answer)
        elif self.asked.whole:
            self._connection.write(reply.whole(answer, self._house.marked(self.id), self._closes))
            self._finish(200, closes=self._closes)
        else:
            self._part(200, reply.whole(answer, self._house.marked(self.id), closes=True))

    def _turn_away(self, refusal: Refusal) -> None:
        """Refuse, and read what the client may still be sending, so that it sees the answer."""
        if self._started or (self.asked.whole and not refusal.close):
            self._refuse(refusal)
            return
        self._part(refusal.status, self._word(refusal, closes=True))

    def _part(self, status: int, data: bytes) -> None:
        connection = self._connection
        connection.part(data)
        self._finish(status, closes=False)

    def _refuse(self, refusal: Refusal) -> None:
        """Say no in whatever way is still possible."""
        if self._parts is not None or self._ending:
            self._hang_up(refusal.status)
        elif self._started:
            data = b"data: " + reply.word(refusal, self.asked) + b"\n\n"
            if not self.asked.is_old:
                data = reply.chunk(data) + reply.LAST_CHUNK
            self._connection.write(data)
            self._finish(refusal.status, closes=self._closes)
        else:
            closes = self._closes
            self._connection.write(self._word(refusal, closes))
            self._finish(refusal.status, closes)

    def _word(self, refusal: Refusal, closes: bool) -> bytes:
        body = reply.word(refusal, self.asked)
        data = reply.refused(refusal, body, self._house.marked(self.id), closes)
        return data.removesuffix(body) if self.asked.method == "HEAD" else data

    def _hang_up(self, status: int) -> None:
        self._connection.abort()
        self._finish(status, closes=True)

    def _finish(self, status: int, closes: bool) -> None:
        """Account for it, whatever happened, and make way for the next."""
        if self._over:
            return
        self._over, self.reading = True, False
        call, self._call = self._call, None
        if call is not None:
            call.abort()
        means, exchange = self._means, self._exchange
        self._exchange = self._parts = None
        if exchange is not None:
            usage = self._desk.settle(exchange, status, means.clock.monotonic(), means.clock.now())
            if usage is not None:
                means.record(usage)
        if self._entered:
            self._desk.leave(self._carried)
        self._connection.finished(closes)
