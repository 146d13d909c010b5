"""A loop in which waiting takes no time: when nothing else can happen the clock goes to the alarm.

Work in threads takes the time it takes, and the clock stands still meanwhile, so that hours of
patience pass in a moment and no slow disk is taken for a hung one.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GLANCE_S = 0.0005
"""How long something may still arrive before the clock goes on."""
WORK_LOOK_S = 0.05


class HastyLoop(asyncio.SelectorEventLoop):
    """The loop; `ahead_s` is what it has not waited for."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s = ahead_s
        self._at_work = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return monotonic seconds, those that were skipped included."""
        return time.monotonic() + self.ahead_s

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep the clock from going on: somebody outside of the loop is at work."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """Run in a thread, while the clock stands still."""
        self._at_work += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._back_from_work)
        return future

    def _back_from_work(self, _done: asyncio.Future[Any]) -> None:
        self._at_work -= 1

    def glance_s(self) -> float:
        """Return how long to look before the clock may go on."""
        return WORK_LOOK_S if self._at_work else GLANCE_S

    def skip(self, seconds: float) -> None:
        """Let time pass, unless somebody is at work."""
        if not self._at_work:
            self.ahead_s += seconds


class _Selector(selectors.DefaultSelector):
    """Looks for a moment only, and has the loop skip the rest."""

    def __init__(self, loop: HastyLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        wait_s = min(timeout, self._loop.glance_s())
        found = super().select(wait_s)
        if not found:
            self._loop.skip(timeout - wait_s)
        return found


class HastyClock:
    """`madang.ports.Clock` on such a loop."""

    def __init__(self, loop: HastyLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        """Wall-clock time, Unix seconds, as far ahead as the loop is."""
        return time.time() + self._loop.ahead_s

    def monotonic(self) -> float:
        """Return seconds that only go forward."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Give way for that long."""
        await asyncio.sleep(seconds)
