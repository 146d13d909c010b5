"""What is called for of each endpoint: for control, which makes replicas come and go by it."""

from __future__ import annotations

from collections.abc import Mapping

from madang.traffic.exchange import Exchange, Place
from madang.traffic.table import Demand


class Demands:
    """How many requests of each endpoint are in hand, and were at most since control last heard."""

    def __init__(self) -> None:
        self._busy: dict[Place, int] = {}
        self._peaks: dict[Place, int] = {}
        self._telling: dict[Place, int] = {}
        """The peaks that control is being told, and may not hear."""

    def come(self, exchange: Exchange) -> None:
        """Count one that is to be served; whoever is counted already isn't again."""
        if exchange.is_counted:
            return
        exchange.is_counted, place = True, exchange.place
        self._busy[place] = busy = self._busy.get(place, 0) + 1
        if busy > self._peaks.get(place, 0):
            self._peaks[place] = busy

    def go(self, exchange: Exchange) -> None:
        """Count one less, however it went."""
        if exchange.is_counted:
            exchange.is_counted, place = False, exchange.place
            self._busy[place] -= 1
            if not self._busy[place]:
                del self._busy[place]

    def told(self, waiting: Mapping[Place, tuple[int, float]]) -> dict[str, Demand]:
        """Return it by `project/name`; `waiting` is how many wait where, and the first how long."""
        for place, peak in self._peaks.items():
            self._telling[place] = max(peak, self._telling.get(place, 0))
        self._peaks = dict(self._busy)
        return {
            "/".join(place): Demand(self._busy.get(place, 0), peak, *waiting.get(place, (0, 0.0)))
            for place, peak in self._telling.items()
        }

    def heard(self) -> None:
        """Note that control has heard what was told last."""
        self._telling = {}
