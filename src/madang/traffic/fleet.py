"""What is learnt of replicas, as plain lists: how much each has to read, how fast it reads.

A replica's place in all lists is its spot. A prompt that is sent somewhere now waits for what was
sent there and is not read yet, at the pace that was learnt of that replica alone, so that unequal
hardware needs no word of anybody. The pace is that of all prompts read there, late ones counting
more: tokens and seconds are summed apart, so that a short prompt says little. Those that are about
as fast as each other share what was learnt of them. Where nothing tells that a prompt was read, it
counts as read once it should have been, and its pace is learnt when its answer has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any

from madang.traffic.limits import Limits
from madang.traffic.pace import Pace, reading_s
from madang.traffic.prefixes import Matches
from madang.traffic.prompt import Prompt
from madang.traffic.table import Target

SLOT_TOKENS_PER_S = 500.0
"""What a slot is taken to read before anything was learnt; only what replicas differ by counts."""
HELD_MEMORY = 0.98
"""What is known of how long requests stay weighs so much after one more."""
FIRST_TOKENS = 256.0
"""What others show of a replica weighs as much as a prompt of so many tokens."""
BUSY_S = 0.05
"""What a fully used replica is slower than an idle one at what comes after the prompt."""
LEAST_TOKENS = 1.0
"""A prompt that is cached whole still costs something."""
PART = 0.25
"""Of what replicas are to have to read, what one tenant may have there that goes on and on."""
KIN = 1.5
"""Replicas that seem to differ by less count as equally fast: by what they happen to read and write

those of one kind seem to. Where they do differ by less, what waits there tells enough.
"""


class Lane:
    """What one tenant has to read at all replicas of an endpoint."""

    __slots__ = ("had", "unread")

    def __init__(self) -> None:
        self.unread = 0.0
        """Tokens of prompts that are under way and not read yet."""
        self.had = 0.0
        """The same, and what was read since it last had nothing."""


class Fleet:
    """The numbers of all replicas; which of them are live is known to the router."""

    def __init__(self, limits: Limits) -> None:
        self._per_slot = limits.slot_requests_max
        self.requests: list[int] = []
        """Under way."""
        self.prompts: list[int] = []
        """Of them, those whose prompt is not read yet."""
        self.unread: list[float] = []
        """Tokens of these."""
        self.lanes: dict[str, Lane] = {}
        """The same, by whose they are; only of who has any."""
        self.pace_s: list[float] = []
        """Seconds per token."""
        self.wait_s: list[float] = []
        """Until a prompt that is sent now would be begun; inf: it may not be sent."""
        self.quiet_s: list[float] = []
        """How long requests had waited for a byte, when the last began to wait or ended."""
        self.quiet_at: list[float] = []
        self.cache_tokens: list[float] = []
        """What the cache for prompts holds; inf where nobody said."""
        self._slots: list[int] = []
        self._paces: list[Pace] = []
        self._held_s: list[float] = []
        """How long a request stays once its prompt is read."""
        self._due: list[tuple[float, float, int, Prompt]] = []
        """Prompts of which nothing tells that they were read: by when they should have been, and

        when they were sent.
        """
        self._number = 0

    def __len__(self) -> int:
        return len(self.requests)

    def enrol(self, target: Target, spot: int) -> None:
        """Take in a replica of which nothing is known, at a spot that is free or the next."""
        pace_s = 1 / (SLOT_TOKENS_PER_S * target.slots)
        fresh: list[tuple[list[Any], Any]] = [
            (self.requests, 0), (self.prompts, 0), (self.unread, 0.0), (self.pace_s, pace_s),
            (self.wait_s, 0.0), (self.quiet_s, 0.0), (self.quiet_at, 0.0),
            (self._slots, target.slots), (self._paces, Pace()),
            (self._held_s, 0.0), (self.cache_tokens, target.kv_tokens or inf),
        ]  # fmt: skip
        for numbers, value in fresh:
            numbers[spot : spot + 1] = [value]
        self._weigh(spot)

    def even(self, spots: Sequence[int]) -> None:
        """Say anew how fast these replicas of one endpoint are.

        Of which little was seen counts as about as fast, by slot, as all are. Those that are nearly
        equally fast count as equally fast: else, while none has anything to read, all that is new
        would go to the one that seems the fastest by chance, which then has more to read than
        others, and loses what it has cached.
        """
        slots, paces = self._slots, [self._paces[spot] for spot in spots]
        read = sum([each.read for each in paces], 0.0)
        if not read:
            return
        tokens = {spot: self._paces[spot].read + FIRST_TOKENS for spot in spots}
        seconds = dict(zip(spots, reading_s(paces), strict=True))
        first_s = FIRST_TOKENS * sum([seconds[s] * slots[s] for s in spots], 0.0) / read
        seen = [((seconds[s] + first_s / slots[s]) / tokens[s], s) for s in spots]
        groups: list[list[tuple[float, int]]] = []
        most_s = 0.0
        for own_s, spot in sorted(seen):
            if own_s > most_s:
                most_s = own_s * KIN
                groups.append([])
            groups[-1].append((own_s, spot))
        for kin in groups:
            took_s = sum([own_s * tokens[spot] for own_s, spot in kin], 0.0)
            mean_s = took_s / sum([tokens[spot] for _, spot in kin], 0.0)
            for _, spot in kin:
                self.pace_s[spot] = mean_s

    def _weigh(self, spot: int) -> None:
        """Say anew how long a prompt would wait there."""
        requests, slots = self.requests[spot], self._slots[spot]
        if requests >= slots * self._per_slot:
            self.wait_s[spot] = inf
            return
        wait_s = self.unread[spot] * self.pace_s[spot] + BUSY_S * requests / slots
        if requests >= slots:
            wait_s += self._held_s[spot] * (requests + 1 - slots) / slots
        self.wait_s[spot] = wait_s

    def mean_pace_s(self, spots: Sequence[int]) -> float:
        """Return the seconds per token of replicas like these, by what they read together."""
        return len(spots) / sum([1 / self.pace_s[spot] for spot in spots], 0.0)

    def best(self, spots: Iterable[int], prompt: Prompt, matches: Matches, keen_s: float) -> int:
        """Return the spot where a prompt would be read first, or -1; among equals the first.

        `keen_s` is what a token that must be read costs others, in seconds; `matches` tells what
        need not be read.
        """
        wait_s, pace_s = self.wait_s, self.pace_s
        own = max(LEAST_TOKENS, prompt.tokens - matches[0][1] * prompt.block_tokens)
        if not prompt.tokens:
            own = 0.0
        least, chosen = inf, -1
        for spot in spots:
            cost = wait_s[spot] + own * pace_s[spot]
            if cost < least:
                least, chosen = cost, spot
        least += own * keen_s
        for bits, depth in matches[1:]:
            own = max(LEAST_TOKENS, prompt.tokens - depth * prompt.block_tokens)
            costs_s = own * keen_s
            left = bits
            while left:
                bit = left & -left
                left ^= bit
                spot = bit.bit_length() - 1
                cost = wait_s[spot] + own * pace_s[spot] + costs_s
                if cost < least:
                    least, chosen = cost, spot
        return chosen

    def send(self, prompt: Prompt, spot: int, own: float, now: float) -> None:
        """Note that a prompt is sent to a spot, where so many of its tokens must be read."""
        requests, ahead = self.requests, self.unread[spot]
        if not requests[spot]:
            self.quiet_at[spot] = now
        requests[spot] += 1
        prompt.spot, prompt.own, prompt.sent_at, prompt.until = spot, own, now, ahead + own
        if own:
            lane = self.lanes.get(prompt.lane) or self.lanes.setdefault(prompt.lane, Lane())
            self.prompts[spot] += 1
            self.unread[spot] = unread = ahead + own
            lane.unread += own
            lane.had += own
            if not prompt.tells:
                self._number += 1
                due_at = now + unread * self.pace_s[spot]
                heappush(self._due, (due_at, now, self._number, prompt))
        self._weigh(spot)

    def read(self, prompt: Prompt, now: float, learn: bool = True) -> None:
        """Note that a prompt was read, if that was not noted before."""
        if prompt.spot >= 0 and prompt.own:
            self._read(prompt, now, learn)
            self._weigh(prompt.spot)

    def _read(self, prompt: Prompt, now: float, learn: bool) -> None:
        spot, own = prompt.spot, prompt.own
        prompt.own, prompt.read_at = 0.0, now
        self.prompts[spot] = more = self.prompts[spot] - 1
        self.unread[spot] = self.unread[spot] - own if more else 0.0
        lane = self.lanes[prompt.lane]
        lane.unread -= own
        if lane.unread <= LEAST_TOKENS / 2:
            del self.lanes[prompt.lane]
        took_s = now - prompt.sent_at
        if learn and took_s > 0:
            self._paces[spot].note(prompt.until, 0.0, took_s)

    def has_its_part(self, name: str, all_of: float) -> bool:
        """Tell whether a tenant may send no more, where all may have so many tokens to read.

        Who had nothing may send that much at once: a few long texts are no flood. Who goes on
        before they are read has a part of it.
        """
        lane = self.lanes.get(name)
        return lane is not None and lane.unread >= all_of * PART and lane.had >= all_of

    def settle(self, now: float) -> None:
        """Take those prompts as read that say nothing of it, and should have been by now."""
        due = self._due
        while due and due[0][0] <= now:
            _, sent_at, _, prompt = heappop(due)
            if prompt.own and prompt.sent_at == sent_at:
                self.read(prompt, now, learn=False)

    def leave(self, prompt: Prompt, now: float) -> None:
        """Note that a request has left, its prompt read or not."""
        spot, took_s = prompt.spot, now - prompt.sent_at
        if prompt.written and not prompt.tells and prompt.until and took_s > 0:
            self._paces[spot].note(prompt.until, prompt.written, took_s)
        if prompt.own:
            slower = took_s > prompt.until * self.pace_s[spot]
            self._read(prompt, now, learn=prompt.tells and slower)
        elif prompt.read_at:
            self._held_s[spot] += (now - prompt.read_at - self._held_s[spot]) * (1 - HELD_MEMORY)
        self.requests[spot] -= 1
        prompt.spot, prompt.read_at, prompt.written = -1, 0.0, 0.0
        if not self.requests[spot]:
            self.quiet_s[spot] += now - self.quiet_at[spot]
        self._weigh(spot)

    def silent_s(self, spot: int, now: float) -> float:
        """Return how long requests have waited for a byte; time without any doesn't count."""
        quiet_s = self.quiet_s[spot]
        return quiet_s + (now - self.quiet_at[spot] if self.requests[spot] else 0.0)
