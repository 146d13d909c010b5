"""The account of a request while it is open: what is written down so that no crash loses it.

An entry is one of three: a request was sent to a replica, so much of its answer has passed, its
account is closed. What was opened and never closed is settled at what last passed.
"""

from __future__ import annotations

from msgspec import Struct, structs

from madang.traffic.price import MICRO, cost_micro
from madang.traffic.table import Price, Usage

CUT_OFF = 500
"""The status recorded of a request whose gateway died under it."""


class Opened(Struct, frozen=True, array_like=True, tag="o"):
    """A request that a replica was asked for."""

    usage: Usage
    """What it would have used if nothing came back: its prompt, by our own count."""
    reserve: int = 0
    """Tokens that were taken of its budgets."""
    price: Price | None = None
    wh: Price | None = None
    """What tokens draw, in watt hours per million."""


class Passed(Struct, frozen=True, array_like=True, tag="p"):
    """How many output tokens of each open stream have been passed on by now."""

    at: float
    """Unix seconds."""
    tokens: tuple[tuple[str, int], ...]
    """By id of the request."""


class Closed(Struct, frozen=True, array_like=True, tag="c"):
    """A request that is over."""

    usage: Usage


Entry = Opened | Passed | Closed


class Standing:
    """Requests that were opened and not closed, as a list of entries tells of them."""

    def __init__(self) -> None:
        self._open: dict[str, Opened] = {}
        self._passed: dict[str, tuple[int, float]] = {}

    def read(self, entry: Entry) -> None:
        """Take the next entry; one that was carried on into another file is the same again."""
        if isinstance(entry, Opened):
            self._open[entry.usage.id] = entry
        elif isinstance(entry, Closed):
            self._open.pop(entry.usage.id, None)
            self._passed.pop(entry.usage.id, None)
        else:
            known = ((name, count) for name, count in entry.tokens if name in self._open)
            self._passed.update((name, (count, entry.at)) for name, count in known)

    def settled(self) -> list[Closed]:
        """Close every account that is open, each at what last passed; marked as estimated."""
        return [self._settle(each) for each in self._open.values()]

    def _settle(self, opened: Opened) -> Closed:
        usage = opened.usage
        count, at = self._passed.get(usage.id, (0, usage.at))
        micro, wh = (
            cost_micro(each, usage.prompt_tokens, 0, count) for each in (opened.price, opened.wh)
        )
        return Closed(
            structs.replace(
                usage,
                at=at,
                output_tokens=count,
                duration_s=max(0.0, usage.duration_s + at - usage.at),
                estimated=True,
                krw=micro / MICRO,
                wh=wh / MICRO,
            )
        )
