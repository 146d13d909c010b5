"""Leases from control: asked for before a table is served, and whenever a purse runs low."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from msgspec import DecodeError, json

from madang.errors import Unavailable
from madang.gateway.line import ControlLine
from madang.traffic.desk import Desk
from madang.traffic.leases import Asked, Lent, Line
from madang.traffic.table import RouteTable

if TYPE_CHECKING:
    from madang.ports import Clock

TICK_S = 0.25
"""So often all purses are looked at; a request that waits for a lease is not kept that long."""
ANSWER_S = 2.0
RETRY_S = 0.5

log = logging.getLogger("madang.gateway")


class Lessee:
    """Asks control for leases, one question at a time; `boot` names this life of the gateway."""

    def __init__(self, names: tuple[str, str], desk: Desk, line: ControlLine, clock: Clock) -> None:
        self._uid, self._boot = names
        self._desk = desk
        self._line = line
        self._clock = clock
        self._number = 0
        self._hungry = asyncio.Event()
        self._turn = asyncio.Lock()
        desk.budgets.hungry = self._hungry.set

    async def prepare(self, table: RouteTable) -> None:
        """Have leases for a table that is to be served next; without them it is served too."""
        self._desk.budgets.take(table)
        await self._ask()

    async def run(self) -> None:
        """Ask, for ever."""
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    await self._hungry.wait()
            except TimeoutError:
                pass
            self._hungry.clear()
            if not await self._ask():
                await self._clock.sleep(RETRY_S)

    async def _ask(self) -> bool:
        """Ask for all that is wanted, for none of it twice; False: control gave no answer."""
        told: set[Line] = set()
        async with self._turn:
            while wants := self._desk.budgets.wants(self._clock.now()):
                if told.issuperset(lines := {each.line for each in wants}):
                    break  # asked a moment ago: a table waits behind this lock, with revoked keys
                told |= lines
                self._number += 1
                try:
                    asked = json.encode(Asked(self._uid, self._boot, self._number, wants))
                    status, body = await self._line.post("/internal/leases", asked, ANSWER_S)
                    if status != 200:
                        raise Unavailable("gateway.control-refused", status=status)
                    lents = json.decode(body, type=list[Lent])
                except (Unavailable, OSError, DecodeError, MemoryError) as error:
                    self._desk.budgets.missed(wants)
                    log.info("no leases from control: %s", error)
                    return False
                self._desk.lend(lents, self._clock.monotonic())
        return True

    async def close(self) -> None:
        """Hang up."""
        await self._line.close()
