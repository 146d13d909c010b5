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

    def watch(self, fd: int, callback: Callback) -> None:
        """Call it whenever the descriptor can be read."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def also_writable(self, fd: int, wanted: bool) -> None:
        """Call a watched descriptor's callback also whenever it can be written, or no longer."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        key = self._selector.get_key(fd)
        if key.events != events:
            self._selector.modify(fd, events, key.data)

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
            for key, _ in self._selector.select(self._patience_s()):
                if self._selector.get_map().get(key.fd) is key:  # an earlier callback may close it
                    key.data()
            now = time.monotonic()
            for owner, alarm in list(self._alarms.items()):
                if alarm[0] <= now and self._alarms.get(owner) is alarm:
                    del self._alarms[owner]
                    alarm[1]()

    def _patience_s(self) -> float | None:
        first = min((when for when, _ in self._alarms.values()), default=None)
        return None if first is None else max(0.0, first - time.monotonic())
