"""Threads that all run before they are needed.

A thread that starts when memory has run out may die before it says that it lives, and whoever has
started it waits for that word for ever: the event loop, with everything in it.
"""

from __future__ import annotations

import asyncio
import logging
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


def ready(blocking: int = BLOCKING) -> None:
    """Let the running loop's calls that block find their threads, and one line name a lack."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(started(blocking, "blocking"))
    told_at = -LACK_TOLD_AGAIN_S

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal told_at
        error = context.get("exception")
        if error is None or not is_our_lack(error):
            loop.default_exception_handler(context)
        elif loop.time() >= told_at + LACK_TOLD_AGAIN_S:
            told_at = loop.time()
            log.warning("control.short: %s", error or type(error).__name__)

    loop.set_exception_handler(tell)
