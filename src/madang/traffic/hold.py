"""Waiting for a turn: a line before each endpoint whose replicas have as much as they may have.

Turns go by `share`: each project by its weight, however many requests it sends. A line is bounded
in number, bytes, tokens and time, and when it is full, whoever has most of it gives way: a flood
keeps nobody else out. Whoever is refused here has cost no engine anything. Times are seconds that
only go forward.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from msgspec import Struct

from madang.traffic.exchange import Exchange, Place
from madang.traffic.limits import Limits
from madang.traffic.refusal import Refusal, unavailable
from madang.traffic.share import Claim, Share
from madang.traffic.table import Endpoint, Target, Usage

Call = Callable[[Target | Refusal], None]
"""How one who waits is told what came of it. It must not ask for a turn there and then."""

OUTPUT_COST = 2.0
"""A token that is written costs as much as so many that are read (VTC, arXiv 2401.00588, 5.1)."""
OUTPUT_TOKENS = 128.0
"""What an answer is taken to be long before one was seen."""
OUTPUT_LEARNT = 0.05
"""How much each answer moves that."""


class _Weight(Struct):
    """How much of a line a project fills."""

    count: int = 0
    bytes: int = 0
    tokens: float = 0.0

    def add(self, exchange: Exchange, sign: int) -> None:
        self.count += sign
        self.bytes += sign * exchange.request.body_bytes
        self.tokens += sign * exchange.request.prompt_tokens

    def part(self, most: _Weight) -> float:
        """Return what part of the most that may be it is, in whichever way it is largest."""
        return max(
            self.count / max(1, most.count), self.bytes / most.bytes, self.tokens / most.tokens
        )


class _Line:
    """Those who wait for one endpoint."""

    def __init__(self) -> None:
        self.share = Share[Exchange]()
        self.calls: OrderedDict[Exchange, Call] = OrderedDict()
        """The first to come, or to come again, first."""
        self.all = _Weight()
        self.own: dict[str, _Weight] = {}
        """Of each project that waits."""
        self.output_tokens = OUTPUT_TOKENS

    def add(self, exchange: Exchange, claim: Claim, call: Call, first: bool) -> None:
        self.share.add(exchange, claim, urgent=first)
        self.calls[exchange] = exchange.call = call
        self.all.add(exchange, 1)
        self.own.setdefault(exchange.tenant, _Weight()).add(exchange, 1)

    def remove(self, exchange: Exchange) -> None:
        self.share.drop(exchange)
        self.all.add(exchange, -1)
        own = self.own[exchange.tenant]
        own.add(exchange, -1)
        if not own.count:
            del self.own[exchange.tenant]
        del self.calls[exchange]
        exchange.call = None


class Hold:
    """The lines of one gateway."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lines: dict[Place, _Line] = {}

    @property
    def waiting(self) -> dict[Place, int]:
        """How many wait, by endpoint; only where somebody does."""
        return {place: len(line.calls) for place, line in self._lines.items() if line.calls}

    def waits(self, now: float) -> dict[Place, tuple[int, float]]:
        """Return how many wait at each endpoint, and for how long the first of them has."""
        return {
            place: (len(line.calls), next(iter(line.calls)).held_s(now))
            for place, line in self._lines.items()
            if line.calls
        }

    def has_line(self, place: Place) -> bool:
        """Tell whether somebody waits there, so that whoever comes must wait too."""
        line = self._lines.get(place)
        return line is not None and bool(line.calls)

    def leads(self, exchange: Exchange) -> bool:
        """Tell whether one who comes now is next: nobody waits, or nobody who had less."""
        line = self._lines.get(exchange.place)
        return line is None or not line.calls or line.share.leads(self._claim(exchange, line))

    def pass_by(self, exchange: Exchange, now: float) -> None:
        """Charge the project of one that had its turn at once, since nobody waits."""
        line = self._lines.get(exchange.place) or self._line(exchange.place)
        exchange.claim = claim = self._claim(exchange, line)
        line.share.pass_by(claim, now)

    def enter(
        self, exchange: Exchange, call: Call, now: float, first: bool = False
    ) -> Refusal | None:
        """Take a place, or one in front; the refusal when the line is as long as it may be.

        The front is for who had its turn, and met a replica that failed.
        """
        line = self._line(exchange.place)
        while not self._fits(exchange, line):
            if (victim := self._whose(exchange, line)) is None:
                return self._busy(exchange, line, now)
            self._call(victim, self._busy(victim, line, now))
        line.add(exchange, self._claim(exchange, line), call, first)
        exchange.hold(now)
        return None

    def leave(self, exchange: Exchange) -> Call | None:
        """Give up a place; None: there was none."""
        if call := exchange.call:
            self._lines[exchange.place].remove(exchange)
        return call

    def give_back(self, exchange: Exchange, now: float) -> None:
        """Give back what a turn was charged that came to nothing."""
        claim, exchange.claim = exchange.claim, None
        if claim:
            self._line(exchange.place).share.charge(claim, -claim.tokens, now)

    def settle(self, exchange: Exchange, usage: Usage | None, now: float) -> None:
        """Charge what was used instead of what it was taken to be; nothing, if nobody was asked."""
        claim, exchange.claim = exchange.claim, None
        line = self._lines.get(exchange.place)
        if claim is None or line is None:
            return
        cost = 0.0
        if usage:
            read = max(0, usage.prompt_tokens - usage.cached_tokens)
            cost = read + OUTPUT_COST * usage.output_tokens
            if usage.first_token_s is not None:
                line.output_tokens += OUTPUT_LEARNT * (usage.output_tokens - line.output_tokens)
        line.share.charge(claim, cost - claim.tokens, now)

    def serve(self, now: float) -> None:
        """Call all whose turn has come, or whose time is up, everywhere."""
        for place in tuple(self._lines):
            self.serve_at(place, now)

    def serve_at(self, place: Place, now: float) -> None:
        """Do as `serve` does, at one place."""
        line = self._lines.get(place)
        if line is None or not line.calls:
            return
        self._expire(line, now)
        while found := self._turn(line, now):
            front, choice = found
            if isinstance(choice, Target):
                front.claim = line.share.claim(front)
                line.share.take(front, now)
            self._call(front, choice)

    def _turn(self, line: _Line, now: float) -> tuple[Exchange, Target | Refusal] | None:
        """Return whose turn it is, and what comes of it; None: nobody's.

        A prompt that is cached may go a little before its turn.
        """
        first = line.share.next()
        slack = first.slack_tokens if first else 0.0
        warm = line.share.next(slack, lambda each: each.cached_tokens)
        for each in (warm, first) if warm is not first else (first,):
            if each and (choice := each.turn(now)):
                return each, choice
        return None

    def review(self, judge: Callable[[Exchange], Endpoint | Refusal]) -> None:
        """Look at all again with a new table: who may wait on follows its endpoint."""
        for line in tuple(self._lines.values()):
            for exchange in tuple(line.calls):
                found = judge(exchange)
                if isinstance(found, Refusal):
                    self._call(exchange, found)
                else:
                    exchange.move(found)

    def keep(self, places: Iterable[Place]) -> None:
        """Forget who was served what at every endpoint that is not among these."""
        known = set(places)
        self._lines = {p: line for p, line in self._lines.items() if p in known or line.calls}

    def _expire(self, line: _Line, now: float) -> None:
        """Refuse those who came first and have waited too long: turns may never reach them."""
        for exchange in tuple(line.calls):
            if now < exchange.deadline:
                break
            if late := exchange.turn(now):
                self._call(exchange, late)

    def _line(self, place: Place) -> _Line:
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = _Line()
        return line

    def _claim(self, exchange: Exchange, line: _Line) -> Claim:
        key, request = exchange.key, exchange.request
        written = min(line.output_tokens, request.output_tokens_max)
        tokens = request.prompt_tokens + OUTPUT_COST * written
        return Claim(key.project, tokens, key.weight, request.is_batch)

    def _most(self, exchange: Exchange) -> _Weight:
        limits = self.limits
        per_slot = exchange.slots * limits.held_per_slot
        count = limits.held_max if exchange.is_held else min(per_slot, limits.held_max)
        return _Weight(count, limits.held_bytes_max, limits.held_tokens_max)

    def _fits(self, exchange: Exchange, line: _Line) -> bool:
        most, all_of, request = self._most(exchange), line.all, exchange.request
        return (
            all_of.count < most.count
            and all_of.bytes + request.body_bytes <= most.bytes
            and all_of.tokens + request.prompt_tokens <= most.tokens
        )

    def _whose(self, exchange: Exchange, line: _Line) -> Exchange | None:
        """Return who gives way to one that comes; None: nobody has more of the line than it would.

        Where its project would have more than its equal part nobody is looked at: a flood is cheap.
        """
        most, mine = self._most(exchange), _Weight()
        if own := line.own.get(exchange.tenant):
            mine = _Weight(own.count, own.bytes, own.tokens)
        mine.add(exchange, 1)
        projects = len(line.own) + (exchange.tenant not in line.own)
        if mine.part(most) * projects > 1:
            return None
        name = max(line.own, key=lambda each: line.own[each].part(most))
        return line.share.newest(name) if line.own[name].part(most) > mine.part(most) else None

    def _busy(self, exchange: Exchange, line: _Line, now: float) -> Refusal:
        waited_s = next((each.held_s(now) for each in line.calls), 0.0)
        wait_s = max(1, round(waited_s))
        return unavailable("model_busy", "gateway.model-busy", wait_s, model=exchange.model)

    def _call(self, exchange: Exchange, choice: Target | Refusal) -> None:
        if call := self.leave(exchange):
            call(choice)
