"""Threads that all run before they are needed.

A thread that starts when memory has run out may die before it says that it lives, and whoever has
started it waits for that word for ever: the event loop, with everything in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from madang.errors import is_our_lack

BLOCKING = 16
"""Calls of control that block, a file read or a plan previewed, under way at once."""
LACK_TOLD_AGAIN_S = 10.0

log = logging.getLogger("madang")


def started(count: int, name: str) -> ThreadPoolExecutor:
    """Return an executor of that many threads, every one of them running."""
    pool = ThreadPoolExecutor(count, name)
    all_there = Barrier(count + 1)
    for _ in range(count):
        pool.submit(all_there.wait)
    all_there.wait()
    return pool


class Lacks:
    """What this process lacked, open files or memory: named in the log, and to whoever is told."""

    def __init__(self, told: Callable[[str], None] | None = None) -> None:
        self._told = told
        self._logged, self._logged_at = "", -LACK_TOLD_AGAIN_S

    def note(self, error: BaseException) -> None:
        """Note one; the log hears of the same with the next step at most every ten seconds."""
        cause, now = str(error) or type(error).__name__, time.monotonic()
        if self._told:
            self._told(cause)
        if cause != self._logged or now >= self._logged_at + LACK_TOLD_AGAIN_S:
            self._logged, self._logged_at = cause, now
            log.warning("control.short: %s; raise the limit (ulimit -n) or free some", cause)


def ready(blocking: int = BLOCKING, lacks: Lacks | None = None) -> None:
    """Let the running loop's calls that block find their threads, and one line name a lack."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(started(blocking, "blocking"))
    noted = lacks or Lacks()

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or not is_our_lack(error):
            loop.default_exception_handler(context)
        else:
            noted.note(error)

    loop.set_exception_handler(tell)
