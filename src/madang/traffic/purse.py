"""What costs money is spent from a purse: control fills it, lease by lease, and nobody else does.

A purse counts for one day or one month of Korea. What it was lent and what is left of it are whole
numbers: tokens, or millionths of a won. All of it is lost when its period ends.
"""

from __future__ import annotations

from math import inf

AGAIN_S = 5.0
"""So often it is asked whether a budget that is spent has anything left again;"""
RENEW_S = 60.0
"""and so often what control knows of any."""
NEVER = -inf


class Purse:
    """One owner's tokens of a day, or money of a month, as far as they were lent to us."""

    __slots__ = (
        "ahead", "ahead_period", "asked_at", "beyond", "known", "left", "lent", "low", "most",
        "period", "wanted",
    )  # fmt: skip

    def __init__(self) -> None:
        self.most: int | None = None
        """The limit; None: there is none, and `left` is without end."""
        self.left: float = inf
        """What may still be reserved; below nothing once more was used than was reserved."""
        self.lent = 0
        """All leases of this period together."""
        self.beyond = 0
        """What control could still lend, to anybody, when it was asked last."""
        self.period = 0
        self.wanted = 0
        """The largest request that was refused for lack of a lease."""
        self.known = False
        """Whether control has said what is left in this period."""
        self.asked_at = NEVER
        """When control was asked last, in Unix seconds;"""
        self.low = 0.0
        """more is asked for once less than that is left."""
        self.ahead = self.ahead_period = 0
        """What was lent for the period to come, so that nobody waits when it begins."""

    def allow(self, most: int | None) -> None:
        """Take another limit."""
        if (most is None) != (self.most is None):
            self.left, self.lent, self.beyond, self.ahead = inf if most is None else 0.0, 0, 0, 0
        if most != self.most:
            self.asked_at, self.known = NEVER, False
        self.most = most

    def begin(self, period: int) -> None:
        """Start anew if this is another day or month."""
        if period == self.period:
            return
        self.period, self.wanted, self.beyond, self.asked_at = period, 0, 0, NEVER
        self.known = False
        if self.most is not None:
            self.lent = self.ahead if self.ahead_period == period else 0
            self.left, self.low, self.ahead = float(self.lent), float(self.lent // 2), 0

    def wants(self, at: float) -> bool:
        """Tell whether control is to be asked for more now."""
        if self.most is None:
            return False
        wait_s = AGAIN_S if self.asked_at != NEVER and not self.beyond else 0.0
        is_low = self.left < self.low or self.wanted > 0 or self.asked_at == NEVER
        return at - self.asked_at >= wait_s and (is_low or at - self.asked_at >= RENEW_S)

    def lend(self, period: int, lent: int, beyond: int) -> None:
        """Take what control has lent in all for a period, and what it could still lend."""
        if self.most is None:
            return
        if period == self.period:
            self.left += lent - self.lent
            self.lent, self.beyond, self.wanted = lent, beyond, 0
            self.low, self.known = self.left // 2 if self.left > 0 else self.left, True
        elif period > self.period:
            self.ahead_period, self.ahead = period, lent
