"""One request from its head to its account: reads, asks `traffic`, moves the bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aiohttp import ClientResponse
from msgspec import structs

from madang.gateway.engines import DROPPED, Engines
from madang.gateway.reply import Message, Reply
from madang.threads import Lacks
from madang.traffic.desk import Desk
from madang.traffic.doors import Head, too_large
from madang.traffic.exchange import CLIENT_LEFT, ENGINE_DIED, KEY_REVOKED, STOPPING, Exchange
from madang.traffic.refusal import OVERLOADED, Refusal, slow_body
from madang.traffic.table import Target, Usage
from madang.wire import hang_up, swallow

if TYPE_CHECKING:
    from madang.ports import Clock

Receive = Callable[[], Awaitable[Message]]


class ClientLeft(Exception):
    """Nobody is waiting for the answer any more."""


@dataclass(frozen=True, slots=True)
class Means:
    """What all visits share."""

    desk: Desk
    engines: Engines
    clock: Clock
    record: Callable[[Usage], None]
    lacks: Lacks


class Visit:
    """One request being served by its own task."""

    def __init__(self, means: Means, receive: Receive, reply: Reply) -> None:
        self._means = means
        self._clock = means.clock
        self._receive = receive
        self._reply = reply
        self._task = asyncio.current_task()
        self._scope: Message = {}
        self._cut: Literal["", "left", "late", "revoked"] = ""
        self._unread = False
        self._exchange: Exchange | None = None
        self._body_bytes = 0
        self._turn: asyncio.Future[Target | Refusal] | None = None

    async def run(self, scope: Message, request_id: str) -> None:
        """Serve the request to its end, whichever that is."""
        self._scope = scope
        desk = self._means.desk
        head = desk.enter(scope["method"], scope["path"], scope["headers"], scope["server"])
        try:
            answer = head if isinstance(head, Refusal) else await self._decide(head, request_id)
            if isinstance(answer, Exchange):
                await self._serve(answer)
            elif isinstance(answer, Refusal):
                await self._turn_away(answer)
            else:
                await self._reply.whole(answer)
        except ClientLeft:
            return
        except MemoryError as error:
            self._unread = True
            await self._short(error)
        finally:
            desk.leave(self._body_bytes)

    async def _decide(self, head: Head, request_id: str) -> Refusal | bytes | Exchange:
        """Go through the checks, the cheap ones first."""
        desk, now = self._means.desk, self._clock.monotonic()
        self._unread = head.length is None
        if head.door == "health":
            return desk.health(now)
        key = desk.identify(head, self._clock.now(), now)
        if isinstance(key, Refusal):
            return key
        if head.door == "models" or head.door == "model":  # noqa: PLR1714 (narrows the type)
            return desk.look(head, key)
        body = await self._read()
        if isinstance(body, Refusal):
            return body
        self._unread = False
        admitted = desk.admit(request_id, key, head.door, body, now)
        if isinstance(admitted, Exchange) and not desk.honours(admitted, self._clock.now()):
            return KEY_REVOKED  # while the body was still coming
        return admitted

    async def _read(self) -> bytes | Refusal:
        """Read the body, as far as it may go."""
        desk, limits = self._means.desk, self._means.desk.limits
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_s):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    piece = message.get("body", b"")
                    if len(body) + len(piece) > limits.body_bytes_max:
                        return too_large(limits.body_bytes_max)
                    if refusal := desk.carry(len(piece)):
                        return structs.replace(refusal, close=True)
                    self._body_bytes += len(piece)
                    body += piece
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            return slow_body(limits.body_s)

    async def _short(self, error: MemoryError) -> int:
        """Refuse, in whatever way is still possible, what we have no memory for; else hang up."""
        self._means.lacks.note(error)
        try:
            if self._reply.started or not self._unread:
                return await self._reply.refuse(OVERLOADED)
            await self._turn_away(OVERLOADED)
        except MemoryError:
            await hang_up(self._scope, self._receive)
        return OVERLOADED.status

    async def _turn_away(self, refusal: Refusal) -> None:
        """Refuse, and read what the client may still be sending, so that it sees the answer."""
        if not (refusal.close or self._unread):
            await self._reply.refuse(refusal)
            return
        await self._reply.refuse_and_close(refusal)
        await swallow(self._receive)
        await self._reply.end()

    async def _serve(self, exchange: Exchange) -> None:
        """Bring an admitted request to its end and account for it, whatever happens."""
        self._exchange = exchange
        watcher = asyncio.create_task(self._watch())
        status = CLIENT_LEFT
        try:
            status = await self._relay(exchange)
        except asyncio.CancelledError:
            if self._task:
                self._task.uncancel()
            status = await self._break_off(exchange)
        except MemoryError as error:
            status = await self._short(error)
        finally:
            watcher.cancel()
            now, at = self._clock.monotonic(), self._clock.now()
            usage = self._means.desk.settle(exchange, status, now, at)
            if usage:
                self._means.record(usage)

    async def _watch(self) -> None:
        """Stop at once when the client leaves; the engine notices by its connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._stop("left")

    def check(self, now: float, at: float) -> None:
        """Stop if somebody has taken too long, or may no longer ask; `at` is Unix seconds."""
        if self._exchange and not self._means.desk.honours(self._exchange, at):
            self._stop("revoked")
        elif self._exchange and now >= self._exchange.deadline:
            self._stop("late")

    def _stop(self, why: Literal["left", "late", "revoked"]) -> None:
        if not self._cut and self._task:
            self._cut = why
            self._task.cancel()

    async def _break_off(self, exchange: Exchange) -> int:
        """End an exchange that was stopped: say so if anybody listens."""
        if self._cut == "left":
            return CLIENT_LEFT
        if self._cut == "late" and exchange.client_turn:
            await hang_up(self._scope, self._receive)
            return CLIENT_LEFT
        if self._cut == "revoked":
            return await self._reply.refuse(KEY_REVOKED)
        refusal = exchange.silent(self._clock.monotonic()) if self._cut else STOPPING
        if refusal:
            return await self._reply.refuse(refusal)
        await self._reply.end()
        return 200

    async def _relay(self, exchange: Exchange) -> int:
        answer = await self._ask(exchange)
        if isinstance(answer, Refusal):
            return await self._reply.refuse(answer)
        try:
            if exchange.streaming:
                return await self._stream(exchange, answer)
            return await self._fetch(exchange, answer)
        finally:
            answer.close()

    async def _ask(self, exchange: Exchange) -> ClientResponse | Refusal:
        """Find a replica that answers."""
        desk = self._means.desk
        choice = desk.start(exchange, self._call, self._clock.monotonic())
        while not isinstance(choice, Refusal):
            if choice is None:
                choice = await self._wait()
                continue
            url, body = exchange.upstream(choice)
            answer = await self._means.engines.post(url, choice.token, exchange.id, body)
            now = self._clock.monotonic()
            if isinstance(answer, str):
                choice = desk.failed(exchange, answer, self._call, now)
            elif fault := exchange.answers(answer.status, answer.content_type, now):
                answer.close()
                choice = desk.failed(exchange, fault, self._call, now)
            else:
                self._reply.marks = exchange.headers
                return answer
        return choice

    async def _wait(self) -> Target | Refusal:
        """Wait for our turn; nobody can have called before."""
        self._turn = asyncio.get_running_loop().create_future()
        return await self._turn

    def _call(self, choice: Target | Refusal) -> None:
        """Hear what came of the wait; one that was stopped meanwhile gives its replica back."""
        if self._turn and not self._turn.done():
            self._turn.set_result(choice)

    async def _stream(self, exchange: Exchange, answer: ClientResponse) -> int:
        """Pass events on, as fast as the client takes them."""
        trouble = None
        try:
            while data := await answer.content.readany():
                passed = exchange.feed(data, self._clock.monotonic())
                if isinstance(passed, Refusal):
                    trouble = passed
                    break
                if exchange.done:
                    self._means.desk.free(exchange, self._clock.monotonic())
                if passed:
                    await self._reply.piece(passed)
                    exchange.engine_turn(self._clock.monotonic())
        except DROPPED:
            trouble = None
        trouble = trouble or exchange.ended()
        if trouble:
            return await self._reply.refuse(trouble)
        await self._reply.end()
        return 200

    async def _fetch(self, exchange: Exchange, answer: ClientResponse) -> int:
        """Collect an answer and pass it on whole."""
        try:
            while data := await answer.content.readany():
                trouble = exchange.collect(data, self._clock.monotonic())
                if trouble:
                    return await self._reply.refuse(trouble)
        except DROPPED:
            return await self._reply.refuse(ENGINE_DIED)
        body = exchange.answer(self._clock.monotonic())
        self._means.desk.free(exchange, self._clock.monotonic())
        if isinstance(body, Refusal):
            return await self._reply.refuse(body)
        await self._reply.whole(body, taken=lambda: exchange.taken(self._clock.monotonic()))
        return 200
