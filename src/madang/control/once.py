"""Asked again, done once: the answer to a request is kept with the write that it made.

A caller who did not see an answer sends the same request with the same Idempotency-Key, and is
given the first answer. It is stored in the transaction of the write itself, so there is no moment
at which one is there without the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from madang.control.world import Pending, World, pending
from madang.errors import Conflict
from madang.ports import REPLY_KEPT_S, Reply
from madang.resources.rights import Principal

T = TypeVar("T")
Json = Mapping[str, Any]

UNDER_WAY_S = 20.0
"""How long a second request with the same key waits for the first to be answered."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request says of itself: its Idempotency-Key, if any, and a digest of all of it."""

    key: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back; `again`: it is the first answer, given once more."""

    content: str
    again: bool = False


class Once:
    """Does what is asked, unless it has been done."""

    def __init__(self, world: World, secret: bytes) -> None:
        self.world = world
        self._secret = secret
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def answer(
        self, who: Principal, ask: Ask, act: Callable[[], Awaitable[T]], show: Callable[[T], Json]
    ) -> Answer:
        """Do it and show what came of it; or give the answer that the first request had.

        Raises `Conflict` where the key was used for another request, or is in use right now.
        What is refused is not kept: it has changed nothing.
        """
        if not ask.key:
            return Answer(written(show(await act())))
        name = _digest(who.uid, who.actor, ask.key)
        async with self._turn(name):
            kept = await self._kept(who, name, ask)
            if kept is not None:
                await self.world.be_sure()  # what it tells of is then known to all, as at first
                return Answer(kept, again=True)
            now = self.world.clock.now()
            asked = Pending(lambda result: Reply(name, ask.digest, now, written(show(result))))
            token = pending.set(asked)
            try:
                result = await act()
                if not asked.is_kept:  # nothing had to be written: remember that too
                    await self.world.commit(who, result=lambda _stored: result)
            finally:
                pending.reset(token)
            return Answer(written(show(result)))

    def secret_of(self, ask: Ask) -> Callable[[str], str]:
        """Return how the secret of a new key follows from the request and the key's uid.

        Derived, so that asking again tells it again although it is kept nowhere: neither the
        Idempotency-Key nor the home's own secret is in the store. A request that can't be asked
        again gets a random one in its place.
        """
        seed = ask.key or secrets.token_hex(32)

        def derive(uid: str) -> str:
            message = "\0".join(("api-key", seed, ask.digest, uid)).encode()
            return f"mdg_{hmac.new(self._secret, message, hashlib.sha256).hexdigest()}"

        return derive

    async def _kept(self, who: Principal, name: str, ask: Ask) -> str | None:
        kept = await self.world.store.reply(who, name)
        if kept is None or self.world.clock.now() - kept.at > REPLY_KEPT_S:
            return None
        if kept.asked != ask.digest:
            raise Conflict("request.key-reused")
        return kept.answer

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(name, asyncio.Lock())
        try:
            async with asyncio.timeout(UNDER_WAY_S):
                await turn.acquire()
        except TimeoutError:
            raise Conflict("request.under-way") from None
        try:
            yield
        finally:
            turn.release()


def written(body: Json) -> str:
    """Write an answer, always with the same bytes."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
