"""What there is of each kind of accelerators, and which of them an ask waits for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from madang.planning.ask import Ask
from madang.planning.layout import MILLI, Layout
from madang.planning.place.gangs import Want
from madang.planning.place.ground import UNSEEN, free_of
from madang.planning.placement.fit import fitting
from madang.planning.placement.fleet import NO_DEVICE
from madang.planning.quotas import NOTHING, Books, needed_milli
from madang.planning.snapshot import Snapshot
from madang.resources.holding import Holding
from madang.resources.resource import Ref


class Waits(NamedTuple):
    """For what an ask waits."""

    kind: str
    milli: int
    """Thousandths of accelerators that it would hold, on all its nodes together."""


class Yard:
    """All that is in sight and well, as if no job ran; services keep what they have."""

    def __init__(self, layout: Layout, snapshot: Snapshot) -> None:
        self._layout = layout
        self._board = free_of(layout, snapshot, but_jobs=True).board()
        self._cards = snapshot.accelerators
        self.capacity: Counter[str] = Counter()
        """Accelerators by kind."""
        self.units: dict[str, int] = {}
        """In how many parts each of a kind is counted: one, unless some are shared."""
        for host, devices in enumerate(layout.devices):
            stock = layout.stocks[layout.fleet.kind[host]]
            kept = self.units.get(stock.kind, 1)
            self.units[stock.kind] = MILLI if stock.shared else kept
            if self._board.cpu_milli[host] != UNSEEN:
                well = (n for d, n in enumerate(devices) if self._board.free[host, d] != NO_DEVICE)
                self.capacity[stock.kind] += sum(map(len, well))
        self._known: dict[Want, Waits | None] = {}

    def waits(self, want: Want) -> Waits | None:
        """Return for what is waited: of all kinds that would do, the one of which there is most.

        None: it could start nowhere, even if every job made room for it.
        """
        if want not in self._known:
            ways = {each.kind: each for each in self._ways(want)}
            best = min(ways, key=lambda kind: (-self.capacity[kind], kind), default=None)
            self._known[want] = None if best is None else ways[best]
        return self._known[want]

    def allowed(
        self, books: Books, project: str, want: Want, but: Holding = NOTHING
    ) -> Want | None:
        """Return what quotas leave of an ask, `but` what it takes over; None: nothing."""
        left = books.narrow(project, want.ask, want.nodes, self._layout.stocks, but)
        return replace(want, ask=left) if isinstance(left, Ask) else None

    def _ways(self, want: Want) -> list[Waits]:
        stocks, kinds, found = self._layout.stocks, self._layout.fleet.kind, []
        for option in self._layout.options(want.ask):
            fits = fitting(self._board, option.demand)
            for kind in sorted({stocks[k].kind for k in option.demand.kinds}):
                own = [k for k in option.demand.kinds if stocks[k].kind == kind]
                if np.count_nonzero(fits & np.isin(kinds, own)) >= want.nodes:
                    milli = max(needed_milli(option.ask, stocks[k], want.nodes) for k in own)
                    found.append(Waits(kind, milli))
        return found

    def held(self, places: tuple[Holding, ...]) -> Waits | None:
        """Return what somebody has, and of which kind; None: nothing that is known."""
        kind, milli = "", 0
        for place in places:
            for name in place.accelerators:
                card = self._cards.get(Ref("", name))
                if card is None:
                    continue
                spec = card.spec
                is_part = spec.shared and not place.whole
                part = -(-MILLI * place.memory_bytes // max(1, spec.memory_bytes))
                kind, milli = spec.accelerator, milli + (part if is_part else MILLI)
        return Waits(kind, milli) if kind else None
