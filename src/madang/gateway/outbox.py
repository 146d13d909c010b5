"""What is sent to clients and engines: in a busy turn of the loop all together, at its end.

Most of what a small send costs is to wake whoever waits for it. One that has just been woken is
still awake when the next send comes, so that sends in a row cost a third of sends with work
between them. Where nothing else is to be done, a send goes at once, and whoever it is for works
on while this process still puts things away.
"""

from __future__ import annotations

import asyncio
from collections import deque

from madang.threads import Lacks

TOGETHER_MAX = 32
"""Sends that wait for each other: the first must not wait for a thousand others."""
LARGE_BYTES = 16 << 10
"""What is larger goes at once: who sends it looks whether it was taken before it sends more."""
ALONE = 64
"""Sends that go at once before it is tried again whether there are others in the same turn."""
PATIENCE = 8
"""Turns with a single send, more than those with many, after which it is taken for usual."""


class Outbox:
    """The sends of one loop."""

    def __init__(self, lacks: Lacks) -> None:
        self._lacks = lacks
        self._waiting: deque[tuple[asyncio.Transport, bytes | memoryview]] = deque()
        self._alone = ALONE
        """Sends that still go at once."""
        self._patience = 0

    def send(self, transport: asyncio.Transport, data: bytes | memoryview) -> None:
        """Send something, in this turn of the loop and behind all that was to be sent before.

        Whoever ends the connection in order flushes first: it knows nothing of what waits here.
        """
        waiting = self._waiting
        if not waiting:
            if self._alone:
                self._alone -= 1
                transport.write(data)
                return
            asyncio.get_running_loop().call_soon(self.flush)
        waiting.append((transport, data))
        if len(data) > LARGE_BYTES or len(waiting) >= TOGETHER_MAX:
            self.flush()

    def flush(self) -> None:
        """Send what waits, and what is to be sent while that is."""
        waiting, together = self._waiting, 0
        while waiting:
            transport, data = waiting.popleft()
            together += 1
            if transport.is_closing():
                continue
            try:
                transport.write(data)
            except MemoryError as error:
                self._lacks.note(error)
                transport.abort()
        if together:
            self._learn(together)

    def _learn(self, together: int) -> None:
        """Note how many sends there were in a turn: two are as good either way."""
        self._patience = min(PATIENCE, self._patience + together - 2)
        if self._patience < 0:
            self._patience, self._alone = 0, ALONE
