"""What people were told is done, and what they may therefore rely on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

Value = str | int | None
"""None: absent."""


class Ledger:
    """By name: the states that a thing may be in. An answer leaves one, an error one more."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._may_be: dict[str, set[Value]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def asks(self, name: str, wanted: Value) -> Iterator[None]:
        """Note a write: done where the block ends well; where it raises it may be done, or not."""
        with self._lock:
            self._may_be.setdefault(name, {None}).add(wanted)
        yield
        with self._lock:
            self._may_be[name] = {wanted}
            self.acknowledged += 1

    def lost(self, found: dict[str, Value]) -> list[str]:
        """Compare with what is there; what is found is from now on what must be."""
        with self._lock:
            wrong = [
                f"lost: {name} is {found.get(name)}, not one of {sorted(map(str, states))}"
                for name, states in self._may_be.items()
                if found.get(name) not in states
            ]
            self._may_be = {name: {found.get(name)} for name in self._may_be}
        return wrong

    def known(self, prefix: str) -> list[str]:
        """Return the names under a prefix that are surely there."""
        with self._lock:
            states = list(self._may_be.items())
        return [name for name, may_be in states if name.startswith(prefix) and None not in may_be]
