"""A gateway: who is connected, who is being served, and a sweep over those that take too long."""

from __future__ import annotations

import asyncio

from madang.gateway.connection import Connection
from madang.gateway.house import Connected, House, Means

SWEEP_S = 0.25
"""Deadlines are looked at so often: one sweep instead of a timer for each request."""
SETTLE_POLL_S = 0.02


class Gateway:
    """All who are connected; `boot` tells the request ids of one process from all others."""

    def __init__(self, means: Means, boot: str) -> None:
        self._means = means
        self._house = House(means, boot)
        self._house.sweep(means.clock.monotonic())

    @property
    def connections(self) -> tuple[Connected, ...]:
        """All who are connected, the oldest first."""
        return tuple(self._house.connections)

    @property
    def busy(self) -> list[Connected]:
        """Those whose request is being served."""
        return [each for each in self.connections if not each.is_idle]

    def connect(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self._house)

    async def sweep(self) -> None:
        """Stop whatever is over its deadline, and whoever's key is no longer good, for ever.

        Then call who waits: a replica may have come, or be fit to be tried again.
        """
        clock = self._means.clock
        while True:
            await clock.sleep(SWEEP_S)
            now, at = clock.monotonic(), clock.now()
            self._house.sweep(now)
            for connection in self.connections:
                connection.check(now, at)
            self._means.desk.serve(now)

    async def finish(self, timeout_s: float) -> None:
        """Take nothing new on, and wait until all that is under way has had its answer."""
        for connection in self.connections:
            connection.stop()
        await self._settle(timeout_s)

    async def cut(self, timeout_s: float) -> None:
        """Tell the rest that they are cut off, and give them time to read it."""
        for connection in self.connections:
            connection.cut()
        await self._settle(timeout_s)
        for connection in self.connections:
            connection.abort()
        await asyncio.sleep(0)

    async def _settle(self, timeout_s: float) -> None:
        clock = self._means.clock
        end = clock.monotonic() + timeout_s
        while self._house.connections and clock.monotonic() < end:
            await clock.sleep(SETTLE_POLL_S)
