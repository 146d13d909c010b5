"""Choosing a replica: the one where a prompt is read first, that is not known to be failing.

The predicted time to the first token is what a replica has to read, and what of this prompt it has
not cached, at the pace that was learnt of it. A token that must be read counts for more than its
own time, since it delays whoever comes next: the more, the more prompts wait. No engine is asked.

A target that lets requests wait without a byte is suspected, and asked only when no other can be:
it may hang, or only be busy. Time is an argument, in seconds that only go forward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf

from msgspec import Struct

from madang.traffic.fleet import LEAST_TOKENS, Fleet
from madang.traffic.health import Health, Identity, identity
from madang.traffic.limits import Limits
from madang.traffic.prefixes import Matches, Prefixes
from madang.traffic.prompt import Prompt
from madang.traffic.table import Target

KEEN, KEENER = 0.35, 2.0
"""What a token to be read costs others, as a part of its own time, and with each prompt that waits

at a replica; tried on the first 40 minutes of the conversation trace (`madang twin routing`).
"""
LOOKS = 4
"""How busy replicas are is looked at anew after a quarter as many requests as there are."""
CREWS_MAX = 4096
SPOTS_MAX = 4096


class _Some(Struct):
    """Some replicas of one endpoint, ready to be chosen from."""

    spots: list[int]
    """In the order of their uids."""
    bits: int
    """The same, as bits."""
    weight: float = 1.0
    """Their part of the requests, beside that of the others."""


class _Crew(Struct):
    """The replicas of one endpoint."""

    targets: Sequence[Target]
    by_spot: dict[int, Target]
    all: _Some
    groups: dict[str, _Some]
    """Where there is more than one."""
    keen_s: float = 0.0
    look_in: int = 0


class Router:
    """What one gateway knows of its targets: requests under way, paces, caches, failures."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._health = Health(limits)
        self._fleet = Fleet(limits)
        self._prefixes = Prefixes(limits.prefixes_max)
        self._spots: dict[Identity, int] = {}
        self._gone: set[Identity] = set()
        """Not in the table any more, with requests under way."""
        self._free: deque[tuple[int, int]] = deque()
        """Spots of those that are gone, by when: they are taken anew once no prefix is theirs."""
        self._crews: dict[int, _Crew] = {}
        self._credits: dict[str, float] = {}
        """What each group has coming of the next request."""
        self._turn = 0

    @property
    def inflight(self) -> dict[str, int]:
        """Requests under way, by the uid of the replica; only those that have any."""
        found: dict[str, int] = {}
        for (uid, _), spot in self._spots.items():
            if count := self._fleet.requests[spot]:
                found[uid] = found.get(uid, 0) + count
        return found

    def silent(self, now: float) -> dict[str, float]:
        """Return for how long each target with requests under way has let them wait, by its uid."""
        fleet = self._fleet
        busy = ((uid, spot) for (uid, _), spot in self._spots.items() if fleet.requests[spot])
        return {uid: fleet.silent_s(spot, now) for uid, spot in busy}

    def take(
        self, targets: Sequence[Target], now: float, without: str = "", prompt: Prompt | None = None
    ) -> Target | None:
        """Pick the target where a prompt is read first, and count one more request on it.

        Without a prompt it is the one with the least requests per slot; among equals the turn goes
        round in the order of their uids. None: all are failing, or have as much as they may have;
        `may_wait` tells which.
        """
        prompt = prompt or Prompt()
        crew = self._crew(targets)
        self._fleet.settle(now)
        self._turn += not without
        some = self._group(crew) if crew.groups else crew.all
        if not crew.look_in:
            self._look(crew)
        crew.look_in -= 1
        chosen, matches = self._best(crew, some, prompt)
        failing = self._health.failing
        if chosen < 0 or without or failing or self._is_suspect(chosen, now):
            chosen, matches = self._around(crew, some, prompt, self._fit(targets, now, without))
        if chosen < 0 or self._has_its_part(crew, chosen, prompt):
            return None
        self._send(prompt, chosen, matches, now)
        target = crew.by_spot[chosen]
        if failing:
            self._health.try_out(target)
        return target

    def _best(self, crew: _Crew, some: _Some, prompt: Prompt) -> tuple[int, Matches]:
        """Return the best spot of these, if any has room, and what each has of the prompt."""
        spots = some.spots
        matches = self._prefixes.find(prompt.chain, some.bits)
        if len(spots) == 1:  # nothing to compare: only whether it has room
            spot = spots[0]
            return (spot if self._fleet.wait_s[spot] < inf else -1), matches
        start = self._turn % (len(spots) or 1)
        return self._fleet.best(
            spots[start:] + spots[:start], prompt, matches, crew.keen_s
        ), matches

    def _around(
        self, crew: _Crew, some: _Some, prompt: Prompt, fit: Sequence[Target]
    ) -> tuple[int, Matches]:
        """Choose among those that may be asked: of this group first, then of any."""
        may = {self._spots[identity(each)] for each in fit}
        found: tuple[int, Matches] = (-1, [])
        for each in (some, crew.all) if crew.groups else (some,):
            if spots := [spot for spot in each.spots if spot in may]:
                found = self._best(crew, _Some(spots, _bits(spots)), prompt)
            if found[0] >= 0:
                return found
        return found

    def _send(self, prompt: Prompt, spot: int, matches: Matches, now: float) -> None:
        """Count a request on a spot, and note what its replica will have cached."""
        own = prompt.tokens
        if prompt.chain:
            depth = _depth(matches, spot) if len(matches) > 1 else matches[0][1]
            own -= depth * prompt.block_tokens
            room = self._fleet.cache_tokens[spot] / prompt.block_tokens
            self._prefixes.note(prompt.chain, spot, depth, room)
        self._fleet.send(prompt, spot, max(LEAST_TOKENS, own) if prompt.tokens else 0.0, now)

    def cached_tokens(self, targets: Sequence[Target], prompt: Prompt) -> float:
        """Return how many tokens of a prompt some target has, or had until lately."""
        matches = self._prefixes.find(prompt.chain, self._crew(targets).all.bits)
        return matches[-1][1] * prompt.block_tokens

    def tokens_per_s(self, targets: Sequence[Target]) -> float:
        """Return how much of prompts these read in a second, all together, as learnt."""
        spots = self._crew(targets).all.spots if targets else []
        return len(spots) / self._fleet.mean_pace_s(spots) if spots else 0.0

    def may_wait(self, targets: Sequence[Target], now: float, without: str = "") -> bool:
        """Tell whether there is a target that does well, if only it had room."""
        return bool(self._fit(targets, now, without))

    def _fit(self, targets: Sequence[Target], now: float, without: str) -> list[Target]:
        """Return those to be asked, with room or without: suspects only if there is no other."""
        self._crew(targets)
        is_open = self._health.is_open
        fit = [each for each in targets if each.uid != without and is_open(each, now)]
        return [e for e in fit if not self._is_suspect(self._spots[identity(e)], now)] or fit

    def _is_suspect(self, spot: int, now: float) -> bool:
        fleet = self._fleet
        return bool(fleet.requests[spot]) and fleet.silent_s(spot, now) >= self.limits.suspect_s

    def _group(self, crew: _Crew) -> _Some:
        """Return those whose turn it is, by weight: none gets further behind than one request."""
        due, groups = self._credits, crew.groups
        total = sum(some.weight for some in groups.values())
        for name, some in groups.items():
            due[name] = due.get(name, 0.0) + some.weight / (total or 1.0)
        name = max(groups, key=lambda name: due[name])
        due[name] -= 1.0
        return groups[name]

    def _has_its_part(self, crew: _Crew, spot: int, prompt: Prompt) -> bool:
        """Tell whether a tenant may send no more where there is enough to read.

        Who sends little is never kept from the replica that is best for it. A flood waits in the
        gateway, where turns are given, and not in the queues of engines, where all would wait.
        """
        fleet, most = self._fleet, self.limits.unread_tokens_max
        if fleet.unread[spot] < most:
            return False
        return fleet.has_its_part(prompt.lane, most * len(crew.all.spots))

    def _look(self, crew: _Crew) -> None:
        """Look anew at how busy all are, and what a token to be read costs others."""
        fleet, spots = self._fleet, crew.all.spots
        fleet.even(spots)
        if len(spots) < 2:  # one is chosen whatever that costs
            crew.look_in = LOOKS
            return
        crew.look_in = 1 + len(spots) // LOOKS
        waiting = sum([fleet.prompts[spot] for spot in spots]) / len(spots)
        crew.keen_s = fleet.mean_pace_s(spots) * (KEEN + KEENER * waiting)

    def _crew(self, targets: Sequence[Target]) -> _Crew:
        """Return what is kept of an endpoint's replicas, as long as it has just these."""
        crew = self._crews.get(id(targets))
        if crew is not None and crew.targets is targets and len(crew.by_spot) == len(targets):
            return crew
        by_spot = {self._spot(each): each for each in sorted(targets, key=lambda each: each.uid)}
        groups: dict[str, _Some] = {}
        for spot, target in by_spot.items():
            some = groups.setdefault(target.group, _Some([], 0, target.weight))
            some.spots.append(spot)
            some.bits |= 1 << spot
        weighty = {name: some for name, some in groups.items() if some.weight > 0}
        every = _Some(list(by_spot), _bits(by_spot))
        crew = _Crew(targets, by_spot, every, weighty if len(groups) > 1 else {})
        if len(self._crews) >= CREWS_MAX:
            self._crews.clear()
        self._crews[id(targets)] = crew
        return crew

    def _spot(self, target: Target) -> int:
        """Return a target's place in all lists; one that is new gets one that nobody has."""
        who = identity(target)
        self._gone.discard(who)
        spot = self._spots.get(who)
        if spot is None:
            free, turns = self._free, self._prefixes.turns
            if not free or (free[0][0] + 2 > turns and len(self._fleet) < SPOTS_MAX):
                spot = len(self._fleet)
            else:
                at, spot = free.popleft()
                if at + 2 > turns:
                    self._prefixes.clear()
            self._spots[who] = spot
            self._fleet.enrol(target, spot)
        return spot

    def hear(self, prompt: Prompt, now: float) -> None:
        """Note that the target of a request has sent something: whatever waits there waits anew."""
        fleet, spot = self._fleet, prompt.spot
        fleet.quiet_s[spot], fleet.quiet_at[spot] = 0.0, now

    def read(self, prompt: Prompt, now: float) -> bool:
        """Note the first byte of an answer; False: it doesn't tell that the prompt was read."""
        if prompt.tells:
            self._fleet.read(prompt, now)
        return prompt.tells

    def give_back(self, target: Target, now: float, prompt: Prompt | None = None) -> None:
        """Count one request less on a target; whether it did well is told separately."""
        spot = prompt.spot if prompt else self._spots[identity(target)]
        assert self._fleet.requests[spot], "given back more often than taken"
        self._fleet.leave(prompt or Prompt(spot=spot), now)
        if self._gone and not self._fleet.requests[spot]:
            self._free_if_gone(identity(target))
        if self._health.failing:
            self._health.end(target)

    def praise(self, target: Target) -> None:
        """Remember that a target answered."""
        if self._health.failing:
            self._health.praise(target)

    def blame(self, target: Target, now: float) -> None:
        """Leave a target alone for a while, twice as long each time it fails in a row."""
        self._health.blame(target, now)

    def wait_s(self, targets: Iterable[Target], now: float) -> float:
        """Return how long until the first of these failing targets may be tried again."""
        return self._health.wait_s(targets, now)

    def keep(self, targets: Iterable[Target]) -> None:
        """Forget what is known of every target that is not among these, once nothing is there."""
        live = list(targets)
        known = {identity(each) for each in live}
        self._health.keep(known)
        self._crews.clear()
        names = {each.group for each in live}
        self._credits = {name: self._credits[name] for name in self._credits if name in names}
        self._gone = {who for who in self._spots if who not in known}
        for who in tuple(self._gone):
            if not self._fleet.requests[self._spots[who]]:
                self._free_if_gone(who)

    def _free_if_gone(self, who: Identity) -> None:
        if who in self._gone:
            self._gone.discard(who)
            self._free.append((self._prefixes.turns, self._spots.pop(who)))


def _depth(matches: Matches, spot: int) -> int:
    """Return how many leading blocks a spot has."""
    bit = 1 << spot
    for bits, depth in matches:
        if bits & bit:
            return depth
    raise AssertionError("it is none of those that were compared")


def _bits(spots: Iterable[int]) -> int:
    return sum(1 << spot for spot in spots)
