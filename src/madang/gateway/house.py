"""What all connections and visits of one gateway share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Protocol

from madang.gateway import reply
from madang.gateway.engines import Engines
from madang.threads import Lacks
from madang.traffic.desk import Desk
from madang.traffic.table import Usage

if TYPE_CHECKING:
    from madang.ports import Clock


class Means:
    """What serving takes."""

    __slots__ = ("clock", "desk", "engines", "lacks", "record")

    def __init__(
        self,
        desk: Desk,
        engines: Engines,
        clock: Clock,
        record: Callable[[Usage], None],
        lacks: Lacks,
    ) -> None:
        self.desk = desk
        self.engines = engines
        self.clock = clock
        self.record = record
        self.lacks = lacks


class Connected(Protocol):
    """A connection as others see it."""

    @property
    def is_idle(self) -> bool:
        """Whether it could be closed without anybody's answer being lost."""

    def check(self, now: float, at: float) -> None:
        """End what is too late; `at` is Unix seconds."""

    def stop(self) -> None:
        """Serve what is under way, and nothing after it."""

    def cut(self) -> None:
        """Tell whoever is being served that this is all."""

    def close(self) -> None:
        """Hang up once all is sent."""

    def abort(self) -> None:
        """Hang up at once."""


class House:
    """Who is connected, the time, and what answers are marked with.

    `boot` tells the request ids of one process from all others.
    """

    def __init__(self, means: Means, boot: str) -> None:
        self.means = means
        self.connections: dict[Connected, None] = {}
        """The oldest first."""
        self.tick = means.clock.monotonic()
        """The time of the last sweep, for deadlines that may be so much too early."""
        self._prefix = f"req-{boot}-"
        self._numbers = count(1)
        self._version = -1
        self._marks = b""

    def next_id(self) -> str:
        """Name a request: what the answer, the engine's log and the usage record have in common."""
        return f"{self._prefix}{next(self._numbers):x}"

    def marked(self, request_id: str) -> bytes:
        """Write the headers that every answer has."""
        version = self.means.desk.version
        if version != self._version:
            self._version = version
            self._marks = reply.marks(version, self.means.clock.now())
        return self._marks + request_id.encode()

    def sweep(self, now: float) -> None:
        """Let time go on."""
        self.tick = now
        self._version = -1  # the date has moved on
        self.means.engines.sweep(now)
