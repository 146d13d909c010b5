"""Requests that come to replicas of one model, on a virtual clock, by one way to choose.

From event to event: a request comes, a prompt was read, an answer ends. Ours is the gateway's own
code; the others are re-implementations of the rules that they have published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count

from madang.answers import Json
from madang.errors import Rejected
from madang.twin.calls import Asked
from madang.twin.door import Door, fraction
from madang.twin.engines import Call, Engine
from madang.twin.peers import PEERS

OURS = "madang"
NAMES = (OURS, *PEERS)
REPLICAS_MAX = 256
RATE_MAX = 10_000_000
SOON_S = 5.0
FLOOD_FROM, FLOOD_S, LATE_S = 0.25, 600.0, 100.0
"""A flood begins after a quarter of the time and lasts ten minutes, or a quarter too; victims are

who came from then to 100 s after it.
"""
FLOOD_PART, FLOOD_PROMPT, FLOOD_OUTPUT = 0.75, 12_000, 128
"""It asks for three quarters of all there is, in prompts of 12,000 tokens that share nothing."""
FLOODER = "flood"
TELL_EVERY = 500

Tell = Callable[[str, int, int], None]
"""Of a policy, calls that ended so far, and in all."""


@dataclass(frozen=True, slots=True)
class Yard:
    """What requests come to."""

    rates: tuple[float, ...]
    """Prompt tokens per second of each replica."""
    load: float = 1.0
    """How many times as fast as in the trace requests come."""
    unstreamed: float = 0.0
    """What part of the requests, by their number, want their answer whole."""


def replicas_of(text: str) -> tuple[float, ...]:
    """Read how many replicas there are, and how many tokens a second each reads.

    >>> replicas_of("2x12000,1x4000")
    (12000.0, 12000.0, 4000.0)
    """
    rates: list[float] = []
    for part in text.split(","):
        number, times, rate = part.strip().partition("x")
        good = all(each.isascii() and each.isdigit() and 0 < len(each) < 9
                   for each in (number, rate))  # fmt: skip
        if not (good and times and 0 < int(number) <= REPLICAS_MAX and 0 < int(rate) <= RATE_MAX):
            raise Rejected("twin.bad-replicas", subject=text[:80])
        rates += [float(rate)] * int(number)
        if len(rates) > REPLICAS_MAX:
            raise Rejected("twin.bad-replicas", subject=text[:80])
    return tuple(rates)


class Play:
    """One replay by one policy."""

    def __init__(self, asked: Sequence[Asked], yard: Yard, policy: str) -> None:
        self._events: list[tuple[float, int, Engine | None, Call | None]] = []
        self._numbers = count()
        self._engines = [Engine(rate, self._later) for rate in yard.rates]
        self.calls = [
            Call(number, each, each.came_s, is_flood=each.tenant == FLOODER,
                 is_streamed=fraction(number) >= yard.unstreamed)
            for number, each in enumerate(asked)
        ]  # fmt: skip
        tenants = sorted({each.tenant for each in asked})
        self._door = Door(yard.rates, tenants, self._send) if policy == OURS else None
        self._choose = None if self._door else PEERS[policy](self._engines)

    def _later(self, at: float, engine: Engine | None, call: Call | None) -> None:
        heappush(self._events, (at, next(self._numbers), engine, call))

    def _send(self, call: Call, replica: int, now: float) -> None:
        call.replica = replica
        self._engines[replica].take(call, now)

    def run(self) -> Iterator[int]:
        """Play until the last answer has ended; give how many have after each event."""
        for each in self.calls:
            self._later(each.came_s, None, each)
        ended = 0
        while self._events:
            now, _, engine, call = heappop(self._events)
            if engine is None:
                assert call is not None
                self._come(call, now)
            elif call is not None:
                engine.write(call, now)
                if self._door:
                    self._door.first(call, now)
            elif over := engine.end(now):
                ended += 1
                if self._door:
                    self._door.end(over, now)
            yield ended

    def _come(self, call: Call, now: float) -> None:
        if self._door:
            self._door.come(call, now)
        elif self._choose:
            self._send(call, self._choose(call.asked), now)


def played(
    asked: Sequence[Asked], yard: Yard, policies: Sequence[str], flood: bool, tell: Tell
) -> Iterator[tuple[str, Json]]:
    """Play the same requests by each policy, and return the figures of each."""
    for name in policies or ("",):
        if name not in NAMES:
            raise Rejected("twin.no-such-policy", subject=name, known=", ".join(NAMES))
    calm = [replace(each, came_s=each.came_s / yard.load) for each in asked]
    for name in policies:
        play = _run(calm, yard, name, tell)
        if not flood:
            yield name, told(play.calls) | {"re_implemented": name != OURS}
            continue
        since_s, until_s = _span(calm)
        victims = told([c for c in play.calls if since_s <= c.came_s < until_s + LATE_S])
        flooded = [*calm, *flood_of(since_s, until_s, sum(yard.rates))]
        play = _run(sorted(flooded, key=lambda each: each.came_s), yard, name, tell)
        own = [call for call in play.calls if not call.is_flood]
        hit = [call for call in own if since_s <= call.came_s < until_s + LATE_S]
        suffer = told(hit)
        yield (
            name,
            told(own)
            | {
                "victims_ttft_mean_s": suffer["ttft_mean_s"],
                "victims_ttft_p99_s": suffer["ttft_p99_s"],
                "victims_calm_ttft_mean_s": victims["ttft_mean_s"],
                "victims": len(hit),
                "re_implemented": name != OURS,
            },
        )


def _run(asked: Sequence[Asked], yard: Yard, name: str, tell: Tell) -> Play:
    play, told_at = Play(asked, yard, name), 0
    for ended in play.run():
        if ended // TELL_EVERY > told_at:
            told_at = ended // TELL_EVERY
            tell(name, ended, len(play.calls))
    return play


def _span(asked: Sequence[Asked]) -> tuple[float, float]:
    """Return when a flood begins and ends."""
    whole_s = asked[-1].came_s
    since_s = FLOOD_FROM * whole_s
    return since_s, since_s + min(FLOOD_S, FLOOD_FROM * whole_s)


def flood_of(since_s: float, until_s: float, rate: float) -> list[Asked]:
    """Return the requests of one tenant who asks for three quarters of that rate."""
    every_s = FLOOD_PROMPT / (FLOOD_PART * rate)
    number = int((until_s - since_s) / every_s)
    return [
        Asked(since_s + each * every_s, FLOOD_PROMPT, FLOOD_OUTPUT, tenant=FLOODER)
        for each in range(number)
    ]


def told(calls: Sequence[Call]) -> Json:
    """Return the figures of one replay; times in seconds, parts of one.

    `hit_rate`: what part of all prompt tokens was cached. Whoever has the lower one may still have
    the better times: a full queue before a full cache is slower than an empty one before an empty.
    """
    times = sorted(call.first_s - call.came_s for call in calls)
    if not times:
        raise Rejected("twin.no-victims")
    tokens = sum(call.asked.prompt for call in calls)
    return {
        "ttft_mean_s": round(sum(times) / len(times), 4),
        "ttft_p50_s": round(times[len(times) // 2], 4),
        "ttft_p99_s": round(times[min(len(times) - 1, int(len(times) * 0.99))], 4),
        "under_5s": round(sum(each <= SOON_S for each in times) / len(times), 4),
        "hit_rate": round(sum(call.cached for call in calls) / tokens, 4),
        "calls": len(times),
    }
