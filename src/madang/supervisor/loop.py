"""The supervisor's only loop: descriptors that became ready, and alarms that are due."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable

Callback = Callable[[], object]


class Loop:
    """Runs callbacks one after another on this thread; each owner has at most one alarm."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._alarms: dict[object, tuple[float, Callback]] = {}

    def watch(self, fd: int, callback: Callback, writable: bool = False) -> None:
        """Call it whenever the descriptor can be read, or also when it can be written."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        known = fd in self._selector.get_map()
        (self._selector.modify if known else self._selector.register)(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; call before closing it."""
        self._selector.unregister(fd)

    def alarm(self, owner: object, delay_s: float, callback: Callback) -> None:
        """Call it once after that time, instead of the owner's earlier alarm."""
        self._alarms[owner] = (time.monotonic() + delay_s, callback)

    def cancel(self, owner: object) -> None:
        """Drop the owner's alarm, if it has one."""
        self._alarms.pop(owner, None)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Turn until `done`."""
        while not done():
            first = min((when for when, _ in self._alarms.values()), default=None)
            for key, _ in self._selector.select(first and max(0.0, first - time.monotonic())):
                if self._selector.get_map().get(key.fd) is key:  # an earlier callback may close it
                    key.data()
            now = time.monotonic()
            for owner, alarm in list(self._alarms.items()):
                if alarm[0] <= now and self._alarms.get(owner) is alarm:
                    del self._alarms[owner]
                    alarm[1]()
