"""What tokens of a service take of its accelerators: won by the prices of pools, and watt hours.

What replicas did while their accelerators were busy is added up with their meters. A token that is
written counts for as much as four that are read, and one that had been kept for a quarter of one:
as publishers of prices mostly have it. These weights say who of those who ask pays what; together
they pay what the busy time costs, whatever the weights. What stood idle costs whoever holds it.

Once a day of Korea the sums become rates, which hold for all of that day, so that a bill can be
worked out again; then what is older counts a tenth less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from madang.errors import Value
from madang.months import DAY_S, KOREA_S, day_number
from madang.planning.action import Action, Unkept, Verb
from madang.planning.layout import MILLI, watts_of
from madang.planning.quotas import HOUR_S, Prices
from madang.planning.snapshot import Snapshot
from madang.resources.place import Pool
from madang.resources.power import Watts, published
from madang.resources.resource import AnyResource, Reason, Ref
from madang.resources.service import Service, rates_of
from madang.resources.tariff import KindRates, Rates, Served, Tariff, Tokens

CACHED, OUTPUT = 0.25, 4.0
"""What these count for, where a token that is read counts for one."""
KEPT = 0.9
"""What a day's sums count for on the next."""
LEAST_TOKENS = 10_000
"""Nothing is said of a service that has served less,"""
LEAST_S = 60.0
"""or for a shorter time, of one accelerator."""
KINDS_MAX = 16
"""So many kinds are kept of a service: those that did most."""
MILLION = 10**6
DIGITS = 4
"""A rate is rounded to so many digits, so that people can work with it."""


@dataclass(frozen=True, slots=True)
class _Figures:
    """What one kind costs and draws in its pool."""

    krw_per_hour: float
    watts: Watts | None


def weighed(served: Served) -> float:
    """Return how many tokens that are read it would have been, by the time that they take.

    >>> weighed(Served(pool="main", accelerator="cpu", prompt=1000, cached=400, output=50))
    900.0
    """
    fresh = max(0, served.prompt - served.cached)
    return fresh + CACHED * served.cached + OUTPUT * served.output


def rates(amount: float, tokens: float) -> Rates:
    """Return what a million tokens take, of an amount that so many weighed ones took.

    >>> rates(900.0, 1_000_000)
    Rates(input=900.0, cached=225.0, output=3600.0)
    """
    each = amount / tokens * MILLION
    return Rates(input=_round(each), cached=_round(CACHED * each), output=_round(OUTPUT * each))


def _round(rate: float) -> float:
    return float(f"{rate:.{DIGITS}g}")


def more(
    before: tuple[Served, ...], where: tuple[str, str], busy: int, tokens: Tokens
) -> tuple[Served, ...]:
    """Add what a replica did, in a pool on a kind, to the sums: those that did most are kept."""
    known = {(each.pool, each.accelerator): each for each in before}
    own = known.get(where) or Served(pool=where[0], accelerator=where[1])
    prompt, cached, output = tokens
    known[where] = Served(
        pool=own.pool, accelerator=own.accelerator, busy=own.busy + busy,
        prompt=own.prompt + prompt, cached=own.cached + cached, output=own.output + output,
    )  # fmt: skip
    most = sorted(known.values(), key=lambda s: (-s.busy, s.pool, s.accelerator))[:KINDS_MAX]
    return tuple(sorted(most, key=lambda s: (s.pool, s.accelerator)))


def plan_tariffs(snapshot: Snapshot) -> Iterator[Action]:
    """Say for each service what its tokens take from now on, where a day has begun since."""
    today, prices = day_number(snapshot.now), Prices(snapshot)
    for _, service in sorted(snapshot.services.items()):
        if service.deleted_at is None and _is_due(service, today):
            yield _priced(service, today, prices, snapshot)


def wake_s(snapshot: Snapshot) -> float | None:
    """Return the seconds until rates are made anew; None: nothing has been served."""
    if any(is_enough(each.status.served) for each in snapshot.services.values()):
        return DAY_S - (snapshot.now + KOREA_S) % DAY_S
    return None


def is_enough(served: Iterable[Served]) -> bool:
    """Tell whether enough was served for a price to be made of it."""
    own = tuple(served)
    busy_s = sum(each.busy for each in own) / MILLI
    return busy_s >= LEAST_S and sum(weighed(each) for each in own) >= LEAST_TOKENS


def _is_due(service: Service, today: int) -> bool:
    """Tell whether rates are to be made; a clock that was set back makes no other ones."""
    tariff = service.status.tariff
    return is_enough(service.status.served) and (tariff is None or tariff.day < today)


def _priced(service: Service, today: int, prices: Prices, snapshot: Snapshot) -> Action:
    status = service.status
    fresh = tariff_of(status.served, today, prices, snapshot)
    before = status.tariff
    served = status.served
    if before is not None:
        served = tuple(_faded(each, KEPT ** (today - before.day)) for each in served)
    writes: tuple[AnyResource, ...] = (service.with_status(tariff=fresh, served=served),)
    if service.spec.price is not None or fresh.krw == (before and before.krw):
        return Action(Verb.METER, Unkept("tariff", "meter"), Reason(code="meter.read"), writes)
    reason = Reason(code="price.none")
    if fresh.krw is not None:
        reason = Reason(code="price.derived", values=fresh.krw.model_dump())
    return Action(Verb.PRICE_SERVICE, service, reason, writes)


def _faded(served: Served, part: float) -> Served:
    counts = {name: round(getattr(served, name) * part) for name in _COUNTS}
    return Served(pool=served.pool, accelerator=served.accelerator, **counts)


_COUNTS = ("busy", "prompt", "cached", "output")


def tariff_of(
    served: tuple[Served, ...], day: int, prices: Prices, snapshot: Snapshot
) -> Tariff:  # fmt: skip
    """Return what tokens take by these sums, at what accelerators cost now."""
    known = {(s.pool, s.accelerator): _figures(s, prices, snapshot) for s in served}
    own = [(each, known[each.pool, each.accelerator]) for each in served]
    tokens = sum(weighed(each) for each, _ in own)
    won = sum(_hours(each) * figures.krw_per_hour for each, figures in own)
    drawn = [_drawn_wh(each, figures) for each, figures in own]
    wh = None if None in drawn else sum(each for each in drawn if each is not None)
    return Tariff(
        day=day,
        krw=rates(won, tokens) if won else None,
        wh=None if wh is None else rates(wh, tokens),
        kinds=tuple(_of_kind(each, figures) for each, figures in own),
    )


def _hours(served: Served) -> float:
    return served.busy / MILLI / HOUR_S


def _drawn_wh(served: Served, figures: _Figures) -> float | None:
    return None if figures.watts is None else _hours(served) * figures.watts.full


def _of_kind(served: Served, figures: _Figures) -> KindRates:
    tokens, wh = weighed(served), _drawn_wh(served, figures)
    return KindRates(
        pool=served.pool, accelerator=served.accelerator, hours=_round(_hours(served)),
        tokens=served.prompt + served.output, krw_per_hour=figures.krw_per_hour,
        wh=rates(wh, tokens) if wh is not None and tokens else None,
    )  # fmt: skip


def _figures(served: Served, prices: Prices, snapshot: Snapshot) -> _Figures:
    """Return what a kind costs and draws, also once no such accelerator is left."""
    pool = snapshot.all(Pool).get(Ref("", served.pool))
    spec = next(
        (a.spec for _, a in sorted(snapshot.accelerators.items())
         if a.spec.accelerator == served.accelerator), None,
    )  # fmt: skip
    watts = watts_of(spec, pool.spec if pool else None) if spec else published(served.accelerator)
    return _Figures(prices.of(served.pool, served.accelerator), watts)


def findings(service: Service) -> Iterator[Reason]:
    """Say what its tokens cost and why, and what they draw."""
    krw, tariff, is_set = rates_of(service), service.status.tariff, service.spec.price is not None
    if krw is not None:
        values: dict[str, Value] = krw.model_dump()
        yield Reason(code="price.set" if is_set else "price.derived", values=values)
    for each in tariff.kinds if tariff else ():
        yield from _of(each, krw is not None and not is_set)


def _of(each: KindRates, is_base: bool) -> Iterator[Reason]:
    where: dict[str, Value] = {"pool": each.pool, "accelerator": each.accelerator}
    if is_base:
        learnt = {"hours": each.hours, "tokens": each.tokens, "krw": each.krw_per_hour}
        yield Reason(code="price.of-kind", values=where | learnt)
    if each.wh is not None:
        yield Reason(code="price.wh-of-kind", values=where | each.wh.model_dump())
