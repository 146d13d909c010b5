"""Signs how far the audit records reach, in a second place, soon after each change."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from madang.control.guard import guarded
from madang.control.world import World
from madang.errors import MadangError, Unavailable
from madang.governance.heads import Head
from madang.resources.rights import CONTROL

log = logging.getLogger("madang.control")

PAUSE_S = 1.0
"""Records of so long share one head: no more than these could be cut off unseen."""
AGAIN_S = 5.0
"""Pause after a head could not be written."""
WAIT_S = 60.0
PAGE = 1000


class Sign(Protocol):
    """The key of this home."""

    def sign(self, store: str, seq: int, digest: str, at: float) -> Head:
        """Return the signed head."""


class Heads(Protocol):
    """The second place."""

    def append(self, head: Head) -> None:
        """Write one head durably; raises `Unavailable`."""

    def newest(self, store: str) -> Head | None:
        """Return the last head of that state."""


class Notary:
    """Follows the audit records, and vouches for them."""

    def __init__(self, world: World, sign: Sign, heads: Heads) -> None:
        self.world = world
        self.sign = sign
        self.heads = heads
        self.fault: MadangError | None = None
        """Why the newest records are not vouched for; None while they are."""
        self.torn = 0
        """The head of an earlier life that the records no longer fit; 0: they fit."""
        self._last: Head | None = None

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            tick = self.world.tick
            try:
                await self.vouch()
                self.fault = None
            except MadangError as error:
                if self.fault is None or self.fault.code != error.code:
                    log.warning("the audit records are not vouched for: %s", error)
                self.fault = error
                await self.world.clock.sleep(AGAIN_S)
                continue
            await self.world.clock.sleep(PAUSE_S)
            await self.world.moved(tick, WAIT_S)

    async def vouch(self) -> None:
        """Sign a head for what is new; raises `Unavailable`."""
        if self._last is None:
            self._last = await self._resume()
        seq, digest = (self._last.seq, self._last.digest) if self._last else (0, "")
        start = seq
        while page := await self.world.store.audit(CONTROL, seq, PAGE):
            seq, digest = page[-1].seq, page[-1].digest
        if seq > start:
            head = self.sign.sign(self.world.store.id, seq, digest, self.world.clock.now())
            await asyncio.to_thread(self.heads.append, head)
            self._last = head

    async def _resume(self) -> Head | None:
        """Take up the newest head, and look whether the records still fit it."""
        head = await asyncio.to_thread(self.heads.newest, self.world.store.id)
        if head is None:
            return None
        page = await self.world.store.audit(CONTROL, head.seq - 1, 1)
        if page and (page[0].seq, page[0].digest) == (head.seq, head.digest):
            return head
        self.torn = head.seq
        log.critical(
            "the audit records do not fit head %d: they were changed or put back", head.seq
        )
        return None

    def require(self) -> None:
        """Raise `Unavailable` while a privileged act could not be vouched for."""
        if self.fault is not None:
            raise Unavailable("audit.refused", self.fault.code, cause=str(self.fault))


async def last_words(notary: Notary) -> None:
    """Sign what is still unsigned before control ends."""
    await guarded("audit", notary.vouch())
