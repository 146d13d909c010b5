"""Waiting for a turn: a line before each endpoint whose replicas have as much as they may have.

First come, first served; bounded in number, bytes and time. Whoever is refused here has cost no
engine anything. Times are seconds that only go forward.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from madang.traffic.exchange import Exchange, Place
from madang.traffic.limits import Limits
from madang.traffic.refusal import Refusal, unavailable
from madang.traffic.table import Endpoint, Target

Call = Callable[[Target | Refusal], None]
"""How one who waits is told what came of it. It must not ask for a turn there and then."""


class _Line:
    """Those who wait for one endpoint, in their order."""

    def __init__(self) -> None:
        self.calls: OrderedDict[Exchange, Call] = OrderedDict()
        self.bytes = 0


class Hold:
    """The lines of one gateway; an endpoint for which nobody waits has none."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lines: dict[Place, _Line] = {}

    @property
    def waiting(self) -> dict[Place, int]:
        """How many wait, by endpoint; only where somebody does."""
        return {place: len(line.calls) for place, line in self._lines.items()}

    def has_line(self, place: Place) -> bool:
        """Tell whether somebody waits there, so that whoever comes must wait too."""
        return place in self._lines

    def enter(
        self, exchange: Exchange, call: Call, now: float, first: bool = False
    ) -> Refusal | None:
        """Take a place at the end, or in front; the refusal when the line is as long as it may be.

        The front is for who had its turn, and met a replica that failed.
        """
        line = self._lines.get(exchange.place) or _Line()
        limits = self._limits
        most = min(exchange.slots * limits.held_per_slot, limits.held_max)
        heavy = line.bytes + exchange.body_bytes > limits.held_bytes_max
        if heavy or len(line.calls) >= most:
            waited_s = (each.held_s(now) for each in line.calls)
            wait_s = max(1, round(next(waited_s, 0.0)))
            return unavailable("model_busy", "gateway.model-busy", wait_s, model=exchange.model)
        self._lines[exchange.place] = line
        line.calls[exchange] = call
        line.bytes += exchange.body_bytes
        if first:
            line.calls.move_to_end(exchange, last=False)
        exchange.hold(now)
        return None

    def leave(self, exchange: Exchange) -> Call | None:
        """Give up a place; None: there was none."""
        line = self._lines.get(exchange.place)
        if line is None or exchange not in line.calls:
            return None
        line.bytes -= exchange.body_bytes
        call = line.calls.pop(exchange)
        if not line.calls:
            del self._lines[exchange.place]
        return call

    def serve(self, now: float, places: Iterable[Place] | None = None) -> None:
        """Call all whose turn has come, or whose time is up; everywhere, or at these places."""
        for place in tuple(self._lines) if places is None else places:
            while line := self._lines.get(place):
                front = next(iter(line.calls))
                choice = front.turn(now)
                if choice is None:
                    break
                self._call(front, choice)

    def review(self, judge: Callable[[Exchange], Endpoint | Refusal]) -> None:
        """Look at all again with a new table: who may wait on follows its endpoint."""
        for line in tuple(self._lines.values()):
            for exchange in tuple(line.calls):
                found = judge(exchange)
                if isinstance(found, Refusal):
                    self._call(exchange, found)
                else:
                    exchange.move(found)

    def _call(self, exchange: Exchange, choice: Target | Refusal) -> None:
        if call := self.leave(exchange):
            call(choice)
