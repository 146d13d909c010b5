"""The ASGI application: one `Visit` for each request, and a sweep over those that take too long."""

from __future__ import annotations

from itertools import count

from madang.gateway.reply import Message, Reply, Send
from madang.gateway.visit import Means, Receive, Visit

SWEEP_S = 0.25
"""Deadlines are looked at so often: one sweep instead of a timer for each request."""
SETTLE_POLL_S = 0.02


class Gateway:
    """The application; `boot` tells the request ids of one process from all others."""

    def __init__(self, means: Means, boot: str) -> None:
        self._means = means
        self._boot = boot
        self._numbers = count(1)
        self._visits: set[Visit] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request_id = f"req-{self._boot}-{next(self._numbers):x}"
        reply = Reply(send, request_id, self._means.desk.version, scope["headers"])
        visit = Visit(self._means, receive, reply)
        self._visits.add(visit)
        try:
            await visit.run(scope, request_id)
        finally:
            self._visits.discard(visit)

    async def settle(self, timeout_s: float) -> None:
        """Wait until every visit has closed its account."""
        clock = self._means.clock
        end = clock.monotonic() + timeout_s
        while self._visits and clock.monotonic() < end:
            await clock.sleep(SETTLE_POLL_S)

    async def sweep(self) -> None:
        """Stop whatever is over its deadline, and whoever's key is no longer good, for ever.

        Then call who waits: a replica may have come, or be fit to be tried again.
        """
        while True:
            await self._means.clock.sleep(SWEEP_S)
            now, at = self._means.clock.monotonic(), self._means.clock.now()
            for visit in tuple(self._visits):
                visit.check(now, at)
            self._means.desk.serve(now)
