"""Whose turn it is: a queue that gives each tenant its weighted share of what a model can do.

Weighted virtual token counters (VTC: Sheng et al., arXiv 2401.00588): each tenant has a counter of
the tokens that it was served, by its weight, and whoever has the least goes first. A tenant that
comes back is lifted to those that wait, so that nobody saves turns up by staying away. Whoever's
prompt begins with what a replica has in its cache may go ahead of that order, as long as its
counter is within a slack (DLPM, arXiv 2501.14312). No clock, no chance: the same calls, the same
order. A turn costs the logarithm of how many tenants wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

from msgspec import Struct

from madang.traffic.shapes import Fixed, LightFixed

T = TypeVar("T")

STALE_MIN = 64
"""So many marks of an order that has changed may lie about before they are swept."""


class Rule(Fixed, frozen=True, kw_only=True):
    """How turns are given."""

    batch_part: float = 1 / 16
    """Batch work comes after all else, but for this part of the tokens while some waits."""
    looked_at: int = 8
    """So many tenants, those next in order, are asked for a prompt that is cached."""
    window_s: float = 60.0
    """What a weight gains is counted in windows of so long,"""
    gained_part: float = 0.25
    """and is at most this part of the tokens that all were served in one; then it weighs 1."""
    tenants_max: int = 4096
    """So many tenants are remembered; who is forgotten begins like one who comes back."""


class Claim(LightFixed, frozen=True):
    """What somebody asks for."""

    tenant: str
    tokens: float
    """What it is likely to cost; what it did is told by `charge`."""
    weight: float = 1.0
    """Of the tenant, above 0: with 2 it gets twice the tokens of one with 1."""
    is_batch: bool = False
    """It can wait for all that isn't."""


class _Lane(Struct):
    """Those of one tenant and one class who wait, the first to come first."""

    waiting: OrderedDict[object, tuple[int, Claim]]
    mark: int = 0
    """The number of the one entry of the heap that counts."""


class _Tenant(Struct):
    name: str
    counter: float
    """Tokens by weight."""
    lanes: tuple[_Lane, _Lane]
    window: int = 0
    gained: float = 0.0
    """Tokens that its weight has spared it in that window."""
    waits: int = 0
    """How many of it wait, in both lanes."""


Entry = tuple[float, int, int, _Tenant]
"""The counter, since when the first has waited, the mark, whose."""


class Share(Generic[T]):
    """Those who wait for one model. Items are told apart by what they hash to.

    `now` is seconds that only go forward.
    """

    def __init__(self, rule: Rule | None = None) -> None:
        self._rule = rule or Rule()
        self._tenants: dict[str, _Tenant] = {}
        self._claims: dict[T, Claim] = {}
        self._urgent: OrderedDict[T, None] = OrderedDict()
        self._heaps: tuple[list[Entry], list[Entry]] = ([], [])
        self._live = [0, 0]
        self._numbers = count(1)
        self._tokens = 0.0
        self._floor = 0.0
        self._last = ""
        self._owed = 0.0
        self._window, self._window_ends = 0, self._rule.window_s
        self._served = self._served_before = 0.0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._claims)

    def __contains__(self, item: T) -> bool:
        """Tell whether it waits."""
        return item in self._claims

    @property
    def tokens(self) -> float:
        """What all who wait are likely to cost."""
        return self._tokens

    @property
    def tenants(self) -> dict[str, int]:
        """How many of each tenant wait, but for those whose turn it had been."""
        return {name: each.waits for name, each in self._tenants.items() if each.waits}

    def claim(self, item: T) -> Claim:
        """Return what one who waits asks for; raises KeyError for who doesn't."""
        return self._claims[item]

    def held(self, tenant: str) -> int:
        """Return how many of a tenant wait, but for those whose turn it had been."""
        known = self._tenants.get(tenant)
        return known.waits if known else 0

    def newest(self, tenant: str) -> T | None:
        """Return the last to come of a tenant, batch work before all else; None: none waits."""
        known = self._tenants.get(tenant)
        for lane in reversed(known.lanes) if known else ():
            if lane.waiting:
                last: T = next(reversed(lane.waiting))  # type: ignore[assignment]
                return last
        return None

    def oldest(self, tenant: str) -> T | None:
        """Return the first to come of a tenant that is no batch work; None: none waits."""
        known = self._tenants.get(tenant)
        return self._front(known, False) if known and known.lanes[False].waiting else None

    def counter(self, tenant: str) -> float:
        """Return the tokens by weight that a tenant counts as having been served."""
        known = self._tenants.get(tenant)
        return known.counter if known else self._least()

    def add(self, item: T, claim: Claim, urgent: bool = False) -> None:
        """Let it wait. Urgent is what had its turn, and lost it by no fault of its own: it is next.

        What such a turn was charged has to be given back first, by `charge`.
        """
        assert item not in self._claims, "it waits"
        self._claims[item] = claim
        self._tokens += claim.tokens
        if urgent:
            self._urgent[item] = None
            self._urgent.move_to_end(item, last=False)
            return
        tenant = self._arrived(claim.tenant)
        lane = tenant.lanes[claim.is_batch]
        lane.waiting[item] = (next(self._numbers), claim)
        tenant.waits += 1
        if len(lane.waiting) == 1:
            self._live[claim.is_batch] += 1
            self._push(tenant, claim.is_batch)

    def next(self, slack: float = 0.0, cached: Callable[[T], float] | None = None) -> T | None:
        """Return whose turn it is, without taking it away; None: nobody waits.

        `cached` tells how many tokens of a prompt some replica has: of those whose tenants are at
        most `slack` tokens by weight past the first in order, whoever has most goes first.
        """
        if self._urgent:
            return next(iter(self._urgent))
        is_batch = self._is_batch_turn()
        if slack <= 0 or cached is None:
            entry = self._top(is_batch)
            return self._front(entry[3], is_batch) if entry else None
        return self._warmest(is_batch, slack, cached)

    def leads(self, claim: Claim) -> bool:
        """Tell whether one who comes now would be next, or has had as little as whoever is."""
        is_batch = self._is_batch_turn()
        if self._urgent or (self._claims and claim.is_batch != is_batch):
            return False
        known, entry = self._tenants.get(claim.tenant), self._top(is_batch)
        if entry is None or known is None:
            return True
        return not known.waits and known.counter <= entry[0]

    def take(self, item: T, now: float) -> None:
        """Let one go whose turn it is, and charge its tenant what it is likely to cost."""
        claim = self._claims[item]
        if self._live[True] and item not in self._urgent:
            self._owe(claim)
        self._leave(item)
        tenant = self._tenants.get(claim.tenant) or self._arrived(claim.tenant)
        self._serve(tenant, claim, now)

    def drop(self, item: T) -> bool:
        """Let one go without its turn; False: it didn't wait."""
        if item not in self._claims:
            return False
        self._leave(item)
        return True

    def pass_by(self, claim: Claim, now: float) -> None:
        """Charge for one that need not wait, since nobody does."""
        tenant = self._tenants.get(claim.tenant)
        if tenant is None or claim.tenant != self._last or self._claims:
            tenant = self._arrived(claim.tenant)
        self._serve(tenant, claim, now)

    def charge(self, claim: Claim, tokens: float, now: float) -> None:
        """Correct what a tenant was charged: more tokens, or less than 0 for those it didn't take.

        Of a tenant that was forgotten meanwhile there is nothing to give back.
        """
        tenant = self._tenants.get(claim.tenant)
        if tenant is None and tokens > 0:
            tenant = self._arrived(claim.tenant)
        if tenant is None:
            return
        tenant.counter += tokens - self._gain(tenant, tokens, claim.weight, now)
        if tokens < 0 and tenant.waits:
            for is_batch in (False, True):
                if tenant.lanes[is_batch].waiting:
                    self._push(tenant, is_batch)

    def _arrived(self, name: str) -> _Tenant:
        """Return a tenant of whom somebody is there: lifted, if it comes back."""
        tenant = self._tenants.get(name)
        if tenant is None:
            self._forget_some()
            lanes = (_Lane(OrderedDict()), _Lane(OrderedDict()))
            tenant = self._tenants[name] = _Tenant(name, self._least(), lanes)
        elif not tenant.waits:
            tenant.counter = max(tenant.counter, self._least())
        return tenant

    def _least(self) -> float:
        """Return the least counter of those who wait; when nobody does, of who left last."""
        if self._live[False] or self._live[True]:
            both = (self._top(is_batch) for is_batch in (False, True))
            return min(entry[0] for entry in both if entry)
        last = self._tenants.get(self._last)
        return last.counter if last else self._floor

    def _serve(self, tenant: _Tenant, claim: Claim, now: float) -> None:
        tenant.counter += claim.tokens - self._gain(tenant, claim.tokens, claim.weight, now)
        self._last, self._floor = tenant.name, tenant.counter

    def _gain(self, tenant: _Tenant, tokens: float, weight: float, now: float) -> float:
        """Return what a weight spares a tenant of so many tokens; what they cost it, below 1."""
        if now >= self._window_ends:
            self._begin_window(int(now // self._rule.window_s))
        self._served = served = max(0.0, self._served + tokens)
        if weight == 1:
            return 0.0
        gain = tokens * (1 - 1 / weight)
        if weight <= 1 or tokens < 0:
            return gain
        if tenant.window != self._window:
            tenant.window, tenant.gained = self._window, 0.0
        most = self._rule.gained_part * max(served, self._served_before)
        gain = max(0.0, min(gain, most - tenant.gained))
        tenant.gained += gain
        return gain

    def _begin_window(self, window: int) -> None:
        self._served_before = self._served if window == self._window + 1 else 0.0
        self._window, self._served = window, 0.0
        self._window_ends = (window + 1) * self._rule.window_s

    def _is_batch_turn(self) -> bool:
        """Tell whether batch work goes next: nothing else waits, or it has waited for its part."""
        if not (self._live[False] and self._live[True]):
            return bool(self._live[True])
        entry = self._top(True)
        assert entry is not None
        _, claim = next(iter(entry[3].lanes[True].waiting.values()))
        return self._owed >= max(1.0, claim.tokens)

    def _owe(self, claim: Claim) -> None:
        """Count, while batch work waits, what it is to get of what is served."""
        part = self._rule.batch_part
        self._owed += part * max(1.0, claim.tokens)
        if claim.is_batch:
            self._owed = max(0.0, self._owed - max(1.0, claim.tokens))

    def _leave(self, item: T) -> None:
        claim = self._claims.pop(item)
        self._tokens = self._tokens - claim.tokens if self._claims else 0.0
        if item in self._urgent:
            del self._urgent[item]
            return
        tenant = self._tenants[claim.tenant]
        lane = tenant.lanes[claim.is_batch]
        del lane.waiting[item]
        tenant.waits -= 1
        if not lane.waiting:
            lane.mark = 0
            self._live[claim.is_batch] -= 1
            if claim.is_batch and not self._live[True]:
                self._owed = 0.0

    def _front(self, tenant: _Tenant, is_batch: bool) -> T:
        first: T = next(iter(tenant.lanes[is_batch].waiting))  # type: ignore[assignment]
        return first

    def _entry(self, tenant: _Tenant, is_batch: bool) -> Entry:
        lane = tenant.lanes[is_batch]
        since, _ = next(iter(lane.waiting.values()))
        lane.mark = next(self._numbers)
        return tenant.counter, since, lane.mark, tenant

    def _push(self, tenant: _Tenant, is_batch: bool) -> None:
        """Put a tenant where it belongs now; where it was before doesn't count any more."""
        heap = self._heaps[is_batch]
        heappush(heap, self._entry(tenant, is_batch))
        if len(heap) > 2 * self._live[is_batch] + STALE_MIN:
            heap[:] = [each for each in heap if each[3].lanes[is_batch].mark == each[2]]
            heapify(heap)

    def _top(self, is_batch: bool) -> Entry | None:
        """Return who is first in order. Entries are mended as they come up, not as they change."""
        heap = self._heaps[is_batch]
        while heap:
            counter, since, mark, tenant = heap[0]
            lane = tenant.lanes[is_batch]
            if lane.mark != mark:
                heappop(heap)
            elif counter < tenant.counter or since < next(iter(lane.waiting.values()))[0]:
                heapreplace(heap, self._entry(tenant, is_batch))
            else:
                return heap[0]
        return None

    def _warmest(self, is_batch: bool, slack: float, cached: Callable[[T], float]) -> T | None:
        """Return, of those within the slack, whose prompt is cached most; the first of equals."""
        heap, seen = self._heaps[is_batch], list[Entry]()
        while len(seen) < self._rule.looked_at and (entry := self._top(is_batch)):
            if seen and entry[0] > seen[0][0] + slack:
                break
            seen.append(heappop(heap))
        for entry in seen:
            heappush(heap, entry)
        fronts = [self._front(entry[3], is_batch) for entry in seen]
        return max(fronts, key=cached, default=None)

    def _forget_some(self) -> None:
        """Forget half of the tenants once there are too many: those who least go without."""
        if len(self._tenants) < self._rule.tenants_max:
            return
        idle = [each for each in self._tenants.values() if not each.waits]
        idle.sort(key=lambda each: each.counter)
        for each in idle[: len(self._tenants) // 2]:
            del self._tenants[each.name]
