"""What a key, its project and its organization may ask of models: five limits, one reservation.

Requests and tokens count for 60 seconds each (a ring of seconds: never more than the limit in any
60 seconds, whatever the moment they are looked at). What costs money, tokens of a day and won of a
month, comes as leases from control (`purse`), and nothing is let in beyond what was leased.

`reserve` looks at every limit first and takes from all or from none; `settle` puts what was really
used in place of what was reserved; `release` leaves no trace. Times are seconds that only go
forward; money is in millionths of a won, whole numbers, so that sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import ceil, inf

from madang.months import day_ends, day_number, month_of
from madang.traffic.leases import DAY, MONTH, WANTS_MAX, Lent, Want
from madang.traffic.price import MICRO
from madang.traffic.purse import Purse
from madang.traffic.refusal import Limited, Refusal, limited, unavailable
from madang.traffic.shapes import Light
from madang.traffic.table import Allowance, Key, RouteTable

WINDOW_S = 60
SLOTS = WINDOW_S + 1
"""A request of second 0.9 must still count at 60.1."""
SOON_S = 1
"""When to come back for what is free again once some request ends, or a lease has come."""

AHEAD_S = 60.0
"""So long before a day ends, leases of the next are asked for."""
UNCONFIRMED = "budget_unconfirmed"
"""The code of what a lease may let in a moment later."""

Owner = tuple[str, str]
"""`key` and its uid; `project` or `organization` and its name."""


class Account:
    """What one owner may use, and uses."""

    __slots__ = (
        "allowance", "concurrent", "concurrent_max", "day", "is_lent", "month", "name", "owner",
        "requests", "requests_at", "requests_max", "requests_told", "second", "tokens", "tokens_at",
        "tokens_max", "tokens_told",
    )  # fmt: skip

    def __init__(self, owner: Owner, name: str) -> None:
        self.owner, self.name = owner, name
        self.allowance = Allowance()
        """The limits as they were given; those below may be what others leave of them."""
        self.requests_max = self.tokens_max = self.concurrent_max = inf
        self.requests_told = self.tokens_told = b""
        self.requests = self.tokens = self.concurrent = 0
        self.second = 0
        self.requests_at, self.tokens_at = [0] * SLOTS, [0] * SLOTS
        self.day, self.month = Purse(), Purse()
        self.is_lent = False
        """Whether either has a limit: else there is nothing to count in them."""

    def allow(self, allowance: Allowance) -> None:
        """Take other limits; what is used stays used."""
        self.allowance = allowance
        self.requests_max = _most(allowance.requests_per_minute)
        self.tokens_max = _most(allowance.tokens_per_minute)
        self.concurrent_max = _most(allowance.concurrent)
        self.requests_told = _told("requests", allowance.requests_per_minute)
        self.tokens_told = _told("tokens", allowance.tokens_per_minute)
        self.day.allow(allowance.tokens_per_day)
        krw = allowance.krw_per_month
        self.month.allow(None if krw is None else krw * MICRO)
        self.is_lent = allowance.tokens_per_day is not None or krw is not None

    def begin(self, day: int, month: int) -> None:
        """Start what counts by the day or the month anew, if another has begun."""
        self.day.begin(day)
        self.month.begin(month)

    def roll(self, second: int) -> None:
        """Forget what is older than the window."""
        if second - self.second >= SLOTS:
            self.requests_at, self.tokens_at = [0] * SLOTS, [0] * SLOTS
            self.requests = self.tokens = 0
        else:
            for slot in range(self.second + 1, second + 1):
                self.requests -= self.requests_at[slot % SLOTS]
                self.tokens -= self.tokens_at[slot % SLOTS]
                self.requests_at[slot % SLOTS] = self.tokens_at[slot % SLOTS] = 0
        self.second = second

    def free_in(self, used_at: list[int], needed: float, now: float) -> int:
        """Return in how many seconds so much of a window is free again."""
        freed = 0
        for second in range(self.second - WINDOW_S, self.second + 1):
            freed += used_at[second % SLOTS]
            if freed >= needed:
                return max(1, ceil(second + SLOTS - now))
        return WINDOW_S

    def empty_in(self, used_at: list[int], now: float) -> int:
        """Return in how many seconds all of a window is free again."""
        for second in range(self.second, self.second - SLOTS, -1):
            if used_at[second % SLOTS]:
                return max(1, ceil(second + SLOTS - now))
        return 0


class Reserve(Light):
    """What one request has taken of its accounts."""

    line: tuple[Account, ...]
    second: int
    tokens: int
    micro: int
    day: int
    month: int


class Budgets:
    """All accounts of one gateway process."""

    def __init__(self) -> None:
        self._accounts: dict[Owner, Account] = {}
        self._lines: dict[str, tuple[Account, ...]] = {}
        self._day = self._month = 0
        self._at = self._day_ends = 0.0
        self.hungry: Callable[[], None] = _nobody
        """Called when a request waits for a lease."""

    def take(self, table: RouteTable) -> None:
        """Hold to the limits of another table; whoever had an account goes on with it."""
        wanted = {
            ("key", key.uid): (key.limits, f"key/{key.name}")
            for key in table.keys.values() if key.limits is not None
        }  # fmt: skip
        for place, limits in table.limits.items():
            kind = "project" if "/" in place else "organization"
            wanted[kind, place] = limits, f"{kind}/{place}"
        for owner in self._accounts.keys() - wanted.keys():
            del self._accounts[owner]
        for owner, (limits, name) in wanted.items():
            account = self._accounts.get(owner)
            if account is None:
                account = self._accounts[owner] = Account(owner, name)
                account.begin(self._day, self._month)
            account.allow(limits)
        self._lines = {}

    def begin(self, at: float) -> None:
        """Note the time of day, in Unix seconds: with each day and month purses begin anew."""
        self._at = at
        if at >= self._day_ends:
            self._day, self._month = day_number(at), month_of(at).number
            self._day_ends = day_ends(self._day)
            for account in self._accounts.values():
                account.begin(self._day, self._month)

    def line(self, key: Key) -> tuple[Account, ...]:
        """Return the accounts that a key's requests count for: those that have a limit."""
        line = self._lines.get(key.uid)
        if line is None:
            home = key.project
            places = (("project", home), ("organization", home.partition("/")[0]))
            found = (self._accounts.get(owner) for owner in (("key", key.uid), *places))
            line = self._lines[key.uid] = tuple(each for each in found if each is not None)
        return line

    def wants(self, at: float) -> tuple[Want, ...]:
        """Return what control is to be asked for now, in Unix seconds, and note that it is."""
        self.begin(at)
        is_late = self._day_ends - at <= AHEAD_S
        found: list[Want] = []
        for owner, purse, what in self._purses():
            if len(found) >= WANTS_MAX:
                break
            if purse.wants(at):
                purse.asked_at = at
                short = max(0, purse.wanted - int(purse.left))
                left = max(0, int(purse.left))
                found.append(Want(owner, what, purse.period, purse.lent, left, short))
            if is_late and (ahead := self._next(what)) > max(purse.period, purse.ahead_period):
                purse.ahead_period, purse.ahead = ahead, 0
                found.append(Want(owner, what, ahead))
        return tuple(found)

    def _next(self, what: str) -> int:
        """Return the day or the month that begins when this day ends."""
        return self._day + 1 if what == DAY else month_of(self._day_ends).number

    def _purses(self) -> Iterator[tuple[str, Purse, str]]:
        """Yield every purse that needs leases, with its owner and what it counts."""
        for owner, account in self._accounts.items():
            for purse, what in ((account.day, DAY), (account.month, MONTH)):
                if purse.most is not None:
                    yield "/".join(owner), purse, what

    def lend(self, lents: Iterable[Lent]) -> None:
        """Take what control has lent."""
        for lent in lents:
            kind, _, name = lent.owner.partition("/")
            if account := self._accounts.get((kind, name)):
                purse = account.day if lent.what == DAY else account.month
                purse.lend(lent.period, lent.lent, lent.beyond)

    def missed(self, wants: Iterable[Want]) -> None:
        """Note that control did not answer: it is to be asked again."""
        for want in wants:
            kind, _, name = want.owner.partition("/")
            if account := self._accounts.get((kind, name)):
                purse = account.day if want.what == DAY else account.month
                purse.asked_at, purse.ahead_period = -inf, min(purse.ahead_period, purse.period)

    def reserve(
        self, line: tuple[Account, ...], tokens: int, micro: int, now: float
    ) -> Reserve | Refusal:
        """Take one request, so many tokens and so much money of all accounts, or of none."""
        second = int(now)
        for account in line:
            if second > account.second:
                account.roll(second)
            if (
                account.requests >= account.requests_max
                or account.concurrent >= account.concurrent_max
                or account.tokens + tokens > account.tokens_max
                or (account.is_lent and (account.day.left < tokens or account.month.left < micro))
            ):
                return self._refuse(account, line, (tokens, micro), now)
        slot = second % SLOTS
        for account in line:
            account.requests += 1
            account.requests_at[slot] += 1
            account.concurrent += 1
            account.tokens += tokens
            account.tokens_at[slot] += tokens
            if account.is_lent:
                account.day.left -= tokens
                account.month.left -= micro
        return Reserve(line, second, tokens, micro, self._day, self._month)

    def settle(self, reserve: Reserve, tokens: int, micro: int) -> None:
        """Put what was really used in place of what was reserved.

        What began on another day, or in another month, counts for that in which it ends.
        """
        more, dearer = tokens - reserve.tokens, micro - reserve.micro
        of_day = more if reserve.day == self._day else tokens
        of_month = dearer if reserve.month == self._month else micro
        for account in reserve.line:
            account.concurrent -= 1
            if account.is_lent:
                account.day.left -= of_day
                account.month.left -= of_month
            if account.second - reserve.second < SLOTS:
                account.tokens += more
                account.tokens_at[reserve.second % SLOTS] += more
            elif more > 0:
                account.tokens += more
                account.tokens_at[account.second % SLOTS] += more

    def release(self, reserve: Reserve) -> None:
        """Take a reservation back: nothing was used."""
        self.settle(reserve, 0, 0)
        for account in reserve.line:
            if account.second - reserve.second < SLOTS:
                account.requests -= 1
                account.requests_at[reserve.second % SLOTS] -= 1

    def _refuse(
        self, account: Account, line: tuple[Account, ...], asked: tuple[int, int], now: float
    ) -> Refusal:
        """Say which limit it is, whose, what is left of it and when there is more."""
        tokens, micro = asked
        told = headers(line, now)
        if account.requests >= account.requests_max:
            most = account.allowance.requests_per_minute or 0
            left = account.requests_max - account.requests
            wait_s = account.free_in(account.requests_at, 1 - left, now)
            limit = Limited("requests_per_minute", account.name, most, max(0, left), 1, wait_s)
        elif account.concurrent >= account.concurrent_max:
            most = account.allowance.concurrent or 0
            limit = Limited("concurrent", account.name, most, 0, 1, SOON_S)
        elif account.tokens + tokens > account.tokens_max:
            most = account.allowance.tokens_per_minute or 0
            left = account.tokens_max - account.tokens
            wait_s = account.free_in(account.tokens_at, tokens - left, now)
            limit = Limited("tokens_per_minute", account.name, most, max(0, left), tokens, wait_s)
        elif account.day.left < tokens:
            ends = day_ends(self._day)
            return self._spent(DAY, account, tokens, ends, told)
        else:
            ends = month_of(self._at).ends
            return self._spent(MONTH, account, micro, ends, told)
        return limited(limit, told)

    def _spent(self, name: str, account: Account, asked: int, ends: float, told: bytes) -> Refusal:
        """Say that a purse has too little: for good, or until control has lent more."""
        is_day = name == DAY
        purse, unit = (account.day, 1) if is_day else (account.month, MICRO)
        left = purse.left + purse.beyond
        if asked <= (purse.most or 0) and (asked <= left or not purse.known):
            purse.wanted = max(purse.wanted, asked)
            self.hungry()
            return unavailable(
                UNCONFIRMED, "gateway.budget-unconfirmed", limit=name, of=account.name
            )
        wait_s = max(1, ceil(ends - self._at))
        most = purse.most or 0
        shown = [round(each / unit, 3) if unit > 1 else int(each) for each in (most, left, asked)]
        return limited(
            Limited(name, account.name, shown[0], max(0, shown[1]), shown[2], wait_s), told
        )


def headers(line: tuple[Account, ...], now: float) -> bytes:
    """Write the `x-ratelimit-*` headers of an answer: of the account that has least left.

    Each has a line end before it.
    """
    second = int(now)
    requests = tokens = None
    fewest: float = inf
    least: float = inf
    for account in line:
        if second > account.second:
            account.roll(second)
        if (left := account.requests_max - account.requests) < fewest:
            requests, fewest = account, left
        if (left := account.tokens_max - account.tokens) < least:
            tokens, least = account, left
    written = b""
    if requests is not None:
        is_used = requests.requests_at[second % SLOTS]
        empty_s = SLOTS if is_used else requests.empty_in(requests.requests_at, now)
        written = requests.requests_told % (max(0, fewest), empty_s)
    if tokens is not None:
        is_used = tokens.tokens_at[second % SLOTS]
        empty_s = SLOTS if is_used else tokens.empty_in(tokens.tokens_at, now)
        written += tokens.tokens_told % (max(0, least), empty_s)
    return written


def _told(of: str, most: int | None) -> bytes:
    """Write the headers of a limit, but for what is left of it and when it is whole again."""
    said = {"limit": most or 0, "remaining": "%d", "reset": "%ds"}
    return "".join(f"\r\nx-ratelimit-{name}-{of}: {said[name]}" for name in said).encode()


def _nobody() -> None:
    """Tell nobody."""


def _most(limit: int | None) -> float:
    return inf if limit is None else limit
