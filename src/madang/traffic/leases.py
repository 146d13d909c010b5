"""Leases: how several gateways spend one budget, and none of them more than there is.

Control keeps of each budget what has been metered, and of each gateway what it was lent and what of
that has been metered. What was lent and is not metered yet may still be spent: it counts as gone
until the gateway's records have come. So at no moment can more be spent than the limit, whoever
dies when; but for what single requests use above their reservation.

A lease is at most a twentieth of what is left, or what one request needs that waits for it. A
gateway that was killed takes its lease along: it is free again once the next life of that gateway
has metered something, as records come in their order; else when the day or the month ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from msgspec import Meta, Struct

from madang.months import month_of
from madang.traffic.price import day_of, micro_of, moment_of
from madang.traffic.table import Usage

PARTS = 20
"""A lease is one of so many parts of what is left."""
WANTS_MAX = 500
"""Budgets in one question."""
DAY, MONTH = "tokens_per_day", "krw_per_month"

Count = Annotated[int, Meta(ge=0, le=10**18)]
Line = tuple[str, str, int]
"""One budget in one period: its owner (`key/UID`, `project/acme/lab`), what it counts, and the day
(counted from 1970) or the month (as 202611) of Korea."""


class Want(Struct, frozen=True):
    """What a gateway says of one budget when it asks for more."""

    owner: str
    what: str
    period: Count
    lent: Count = 0
    """All it has been lent in this period, as far as it knows."""
    left: Count = 0
    """What of that is neither used nor reserved."""
    short: Count = 0
    """How much more a request needs that waits."""

    @property
    def line(self) -> Line:
        """The budget and its period."""
        return self.owner, self.what, self.period


class Asked(Struct, frozen=True):
    """A gateway's question for leases."""

    gateway: str
    """The uid of its process, the same in each of its lives."""
    boot: str
    """Names this life: the ids of its requests begin with it."""
    number: int
    """Counts its questions: an older one that arrives late is dropped."""
    wants: Annotated[tuple[Want, ...], Meta(max_length=2 * WANTS_MAX)]


class Lent(Struct, frozen=True):
    """What a gateway has been lent of one budget, in all."""

    owner: str
    what: str
    period: int
    lent: int
    beyond: int
    """What could still be lent, to anybody."""


class Spent(Struct):
    """What control keeps of one budget in one period: of all together, or of one gateway's life."""

    owner: str
    what: str
    period: int
    holder: str = ""
    """The life of a gateway; empty: what has been metered of all."""
    gateway: str = ""
    born: int = 0
    """Counts the lives of a gateway, as far as this budget knows them."""
    lent: int = 0
    used: int = 0
    """Metered; of a life only what belongs to its leases."""

    @property
    def line(self) -> Line:
        """The budget and its period."""
        return self.owner, self.what, self.period

    @property
    def out(self) -> int:
        """What was lent and may still be spent, or is on its way to be metered."""
        return max(0, self.lent - self.used)


Books = dict[Line, dict[str, Spent]]
"""By budget and period, then by holder."""


def boot_of(request_id: str) -> str:
    """Return the life of a gateway in which a request was served.

    >>> boot_of("req-a1b2c3-1f")
    'a1b2c3'
    """
    return request_id.removeprefix("req-").rpartition("-")[0]


def owners(key: str, project: str) -> Iterator[str]:
    """Return whose budgets a request of a key counts for."""
    if key:
        yield f"key/{key}"
    yield f"project/{project}"
    yield f"organization/{project.partition('/')[0]}"


def charges(record: Usage) -> Iterator[tuple[Line, int]]:
    """Return what a record counts for, of each budget."""
    tokens, micro = record.prompt_tokens + record.output_tokens, micro_of(record.krw)
    day, month = day_of(record), month_of(moment_of(record)).number
    for owner in owners(record.key_uid, record.payer or record.project):
        if tokens:
            yield (owner, DAY, day), tokens
        if micro:
            yield (owner, MONTH, month), micro


def charge(books: Books, records: Iterable[Usage]) -> None:
    """Count records, each of which must be new; a life that is over gives back what it had."""
    for record in records:
        boot = boot_of(record.id)
        for line, amount in charges(record):
            rows = books.setdefault(line, {})
            rows.setdefault("", Spent(*line)).used += amount
            mine = rows.get(boot)
            if mine is not None and boot:
                mine.used += amount
                for old in [each for each in rows.values() if _is_older(each, mine)]:
                    del rows[old.holder]


def _is_older(other: Spent, mine: Spent) -> bool:
    return bool(other.holder) and other.gateway == mine.gateway and other.born < mine.born


def lend(books: Books, asked: Asked, want: Want, limit: int) -> Lent:
    """Lend as much more of a budget as there may be, and note it.

    What the gateway says that it was lent counts: an answer that it never got has lent nothing. A
    limit that has been lowered below what is out takes back what is not spent.
    """
    rows = books.setdefault(want.line, {})
    mine = rows.get(asked.boot)
    if mine is None:
        lives = [each.born for each in rows.values() if each.gateway == asked.gateway]
        mine = Spent(*want.line, asked.boot, asked.gateway, max(lives, default=0) + 1)
        rows[asked.boot] = mine
    mine.lent = want.lent
    used = rows[""].used if "" in rows else 0
    left = limit - used - sum(each.out for each in rows.values())
    unspent = max(0, want.left)
    if left < 0:
        more = -min(-left, unspent)
    else:
        part = (left + unspent) // PARTS
        more = min(left, max(part - unspent, want.short, 0))
    mine.lent += more
    return Lent(*want.line, mine.lent, max(0, left - more))
