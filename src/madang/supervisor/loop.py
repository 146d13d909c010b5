"""The supervisor's only loop: descriptors that became ready, and alarms that are due."""

from __future__ import annotations

import selectors
import sys
import time
from collections.abc import Callable

Callback = Callable[[], object]

BREATH_S = 0.2
"""Where memory has run out, so long is waited before the same is tried again."""
TOLD_AGAIN_S = 10.0


class Loop:
    """Runs callbacks one after another on this thread; each owner has at most one alarm."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._alarms: dict[object, tuple[float, Callback]] = {}
        self._told_at = -TOLD_AGAIN_S

    def watch(self, fd: int, callback: Callback, writable: bool = False) -> None:
        """Call it whenever the descriptor can be read, or also when it can be written."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        known = fd in self._selector.get_map()
        (self._selector.modify if known else self._selector.register)(fd, events, callback)

    def rest(self, fd: int, pause_s: float) -> None:
        """Look away from it for so long: then more is there, and is had at one go."""
        if key := self._selector.get_map().get(fd):
            self._selector.unregister(fd)
            self.alarm(("rest", fd), pause_s, lambda: self.watch(fd, key.data))

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; call before closing it."""
        self.cancel(("rest", fd))
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def alarm(self, owner: object, delay_s: float, callback: Callback) -> None:
        """Call it once after that time, instead of the owner's earlier alarm."""
        self._alarms[owner] = (time.monotonic() + delay_s, callback)

    def cancel(self, owner: object) -> None:
        """Drop the owner's alarm, if it has one."""
        self._alarms.pop(owner, None)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Turn until `done`. What finds no memory is tried again: all that runs hangs by us."""
        while not done():
            first = min((when for when, _ in self._alarms.values()), default=None)
            for key, _ in self._selector.select(first and max(0.0, first - time.monotonic())):
                if self._selector.get_map().get(key.fd) is key:  # an earlier callback may close it
                    self._tried(key.data)
            now = time.monotonic()
            for owner, alarm in list(self._alarms.items()):
                if alarm[0] <= now and self._alarms.get(owner) is alarm:
                    del self._alarms[owner]
                    if not self._tried(alarm[1]):
                        self._alarms.setdefault(owner, alarm)

    def _tried(self, callback: Callback) -> bool:
        """Call it; False, after a breath, where memory has run out: it may be called again."""
        try:
            callback()
        except MemoryError:
            time.sleep(BREATH_S)
            if time.monotonic() >= self._told_at + TOLD_AGAIN_S:
                self._told_at = time.monotonic()
                sys.stderr.write("memory has run out: raise the limit (ulimit -v) or free some\n")
            return False
        return True
