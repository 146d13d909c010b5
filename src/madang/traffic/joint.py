"""Several processes that are one gateway: what each lets in counts for all of them.

Each tells what it does and reads what the others told, where they are told apart by name; how that
travels is the gateway's. A request is told first and then all is read, and taken back where that
makes it too many: of two who come at once at least one sees the other, so no limit is overrun.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from madang.traffic.budgets import SLOTS, Account, Budgets, Reserve
from madang.traffic.refusal import Refusal
from madang.traffic.table import RouteTable

WINDOW_SLOTS = SLOTS
"""So many seconds what was told of rates counts."""
Numbers = tuple[int, int, int, int, int]
"""A second; two numbers that count until their minute is over; two while their process lives."""


class Seat(Protocol):
    """One name that is counted."""

    def tell(self, numbers: Numbers) -> None:
        """Tell the others what is so here."""

    def elsewhere(self, second: int) -> Numbers:
        """Return the sums of what the others told, and when the last of them did."""

    def leave(self) -> None:
        """Count no more."""


class Others(Protocol):
    """The other processes of this gateway."""

    processes: int
    """How many there are to be, this one too."""

    def seat(self, name: str) -> Seat | None:
        """Count a name from now on; None: no more can be counted."""


class _Place(NamedTuple):
    """An account's seat, and its limits as if there were nobody else."""

    seat: Seat | None
    requests_max: float
    tokens_max: float
    concurrent_max: float


class JointBudgets(Budgets):
    """The accounts of one of several processes.

    While others let something in, the limits here are what they leave of the whole. An account
    for which there is no seat holds to its part of them, whatever the others do.
    """

    def __init__(self, others: Others) -> None:
        super().__init__()
        self._others = others
        self._places: dict[Account, _Place] = {}

    def take(self, table: RouteTable) -> None:
        """Hold to the limits of another table, as `Budgets` does."""
        super().take(table)
        before, self._places = self._places, {}
        for account in self._accounts.values():
            place = before.pop(account, None)
            seat = place.seat if place else self._others.seat("/".join(account.owner))
            limits = account.requests_max, account.tokens_max, account.concurrent_max
            if seat is None:
                part = self._others.processes
                account.requests_max = max(1, account.requests_max / part)
                account.tokens_max = max(1, account.tokens_max / part)
                account.concurrent_max = max(1, account.concurrent_max / part)
            self._places[account] = _Place(seat, *limits)
            self._look(account, account.second)
        for gone in before.values():
            if gone.seat:
                gone.seat.leave()

    def reserve(
        self, line: tuple[Account, ...], tokens: int, micro: int, now: float
    ) -> Reserve | Refusal:
        """Take one request of all accounts, or of none, beside what others take."""
        second = int(now)
        taken = super().reserve(line, tokens, micro, now)
        if isinstance(taken, Refusal):  # by what others had let in when we last looked
            for account in line:
                self._look(account, second)
            taken = super().reserve(line, tokens, micro, now)
        if isinstance(taken, Refusal):
            return taken
        self._tell(line)
        for account in line:
            self._look(account, second)
            if (
                account.requests > account.requests_max
                or account.concurrent > account.concurrent_max
                or account.tokens > account.tokens_max
            ):
                refused = self._refuse(account, line, (tokens, micro), now)
                self.release(taken)
                return refused
        return taken

    def settle(self, reserve: Reserve, tokens: int, micro: int) -> None:
        """Put what was really used in place of what was reserved."""
        super().settle(reserve, tokens, micro)
        self._tell(reserve.line)

    def release(self, reserve: Reserve) -> None:
        """Take a reservation back: nothing was used."""
        super().release(reserve)
        self._tell(reserve.line)

    def refresh(self, now: float) -> None:
        """Tell what of each minute is over, though nobody asks for anything here."""
        second = int(now)
        for account in self._places:
            if second > account.second and (account.requests or account.tokens):
                account.roll(second)
                self._tell((account,))

    def _tell(self, line: tuple[Account, ...]) -> None:
        for each in line:
            place = self._places.get(each)
            if place and place.seat:
                place.seat.tell((each.second, each.requests, int(each.tokens), each.concurrent, 0))

    def _look(self, account: Account, second: int) -> None:
        """Leave of the limits what others have not taken."""
        place = self._places.get(account)
        if not place or not place.seat:
            return
        _, requests, tokens, concurrent, _ = place.seat.elsewhere(second)
        account.requests_max = place.requests_max - requests
        account.tokens_max = place.tokens_max - tokens
        account.concurrent_max = place.concurrent_max - concurrent
