"""Placement: which accelerators one replica gets, and if none, which rule holds which node back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from madang.planning.ask import Ask, Filter, Refused
from madang.planning.place.ground import Ground
from madang.planning.placement.placer import Choice
from madang.resources.holding import Holding

NO_ROOM = frozenset({
    "placement.nowhere", "placement.no-gang", "placement.nowhere-whole", "placement.no-gang-whole",
})  # fmt: skip
"""Why something waits for nothing but room."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where it goes."""

    node: str
    accelerators: tuple[str, ...]
    kind: str
    whole: bool
    """It has accelerators that could be shared for itself alone."""
    ask: Ask
    """The one of the ways in which it was asked that is met."""

    def holding(self) -> Holding:
        """Return what is held by what is put there."""
        return Holding(**self.held())

    def held(self) -> dict[str, Any]:
        """Return the fields that say what is held."""
        ask = self.ask
        return {
            "node": self.node, "accelerators": self.accelerators, "whole": self.whole,
            "memory_bytes": ask.memory_bytes, "cores": ask.cores,
            "host_memory_bytes": ask.host_memory_bytes,
        }  # fmt: skip


def place(ask: Ask, ground: Ground, but: Collection[str] = ()) -> Placement | Refused:
    """Choose accelerators of one node and one kind: those whose loss harms the others least.

    `but`: not on these nodes.

    See `placement.columns` for what harm is. Equal places go to the first name in order, so that
    the order of nodes does not matter.
    """
    found = ground.choose(ask, but)
    if found is None:
        stocks = ground.layout.stocks
        barred = {stock.kind for stock in stocks if stock.bars_all(ask) is Filter.NO_WATTS}
        return Refused(ask, ground.fell(ask), tuple(sorted(barred)))
    return placement(*found, ground)


def placement(choice: Choice, way: Ask, ground: Ground) -> Placement:
    """Say by names what was chosen by numbers."""
    layout, host = ground.layout, choice.host
    stock = layout.stocks[layout.fleet.kind[host]]
    names = (name for device in choice.devices for name in layout.devices[host][device])
    is_whole = stock.shared and stock.is_whole(way)
    return Placement(layout.nodes[host], tuple(sorted(names)), stock.kind, is_whole, way)
