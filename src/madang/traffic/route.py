"""Choosing a replica: the least busy one that is not known to be failing.

Passive health with a half-open door: a target that failed is left alone for a while, then one
request tries it. A target that lets requests wait without a byte is suspected, and asked only
when no other can be: it may hang, or only be busy. Time is an argument, in seconds that only go
forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from madang.traffic.limits import Limits
from madang.traffic.table import Target


class _Health(Struct):
    """What is remembered of a target that failed last."""

    failures: int
    out_until: float
    trying: bool = False
    """One request is on its way to see whether the target is back."""


class _Silence(Struct):
    """How long requests have waited for a byte of a target, since its last one."""

    waited_s: float
    """Up to `since`; time without requests does not count."""
    since: float
    waits: bool = True
    """Whether any request is under way now."""

    def at(self, now: float) -> float:
        return self.waited_s + (now - self.since if self.waits else 0.0)


class Router:
    """What one gateway knows of its targets: requests under way and recent failures."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inflight: dict[str, int] = {}
        self._failing: dict[tuple[str, int], _Health] = {}
        self._silent: dict[tuple[str, int], _Silence] = {}
        self._turn = 0

    @property
    def inflight(self) -> dict[str, int]:
        """Requests under way, by the uid of the replica; only those that have any."""
        return {uid: count for uid, count in self._inflight.items() if count}

    def silent(self, now: float) -> dict[str, float]:
        """Return for how long each target with requests under way has let them wait, by its uid."""
        return {uid: s.at(now) for (uid, _), s in self._silent.items() if s.waits}

    def take(self, targets: Sequence[Target], now: float, without: str = "") -> Target | None:
        """Pick the target with the least requests per slot and count one more on it.

        Among equals the turn goes round in the order of their uids. None: all are failing, or have
        as many requests as they may have; `may_wait` tells which.
        """
        fit = [each for each in self._fit(targets, now, without) if self._has_room(each)]
        if not fit:
            return None
        loads = [self._inflight.get(each.uid, 0) / each.slots for each in fit]
        least = min(loads)
        equals = [each for each, load in zip(fit, loads, strict=True) if load == least]
        chosen = min(equals, key=lambda each: each.uid) if len(equals) == 1 else self._next(equals)
        self._inflight[chosen.uid] = self._inflight.get(chosen.uid, 0) + 1
        silence = self._silent.setdefault(_identity(chosen), _Silence(0.0, now))
        if not silence.waits:
            silence.since, silence.waits = now, True
        if health := self._failing.get(_identity(chosen)):
            health.trying = True
        return chosen

    def may_wait(self, targets: Sequence[Target], now: float, without: str = "") -> bool:
        """Tell whether there is a target that does well, if only it had room."""
        return bool(self._fit(targets, now, without))

    def _fit(self, targets: Sequence[Target], now: float, without: str) -> list[Target]:
        """Return those to be asked, with room or without: suspects only if there is no other."""
        fit = [each for each in targets if each.uid != without and self._open(each, now)]
        return [each for each in fit if not self._is_suspect(each, now)] or fit

    def _has_room(self, target: Target) -> bool:
        most = target.slots * self._limits.slot_requests_max
        return self._inflight.get(target.uid, 0) < most

    def _is_suspect(self, target: Target, now: float) -> bool:
        silence = self._silent.get(_identity(target))
        return silence is not None and silence.waits and silence.at(now) >= self._limits.suspect_s

    def _next(self, equals: Iterable[Target]) -> Target:
        ordered = sorted(equals, key=lambda each: each.uid)
        self._turn += 1
        return ordered[self._turn % len(ordered)]

    def _open(self, target: Target, now: float) -> bool:
        health = self._failing.get(_identity(target))
        return health is None or (now >= health.out_until and not health.trying)

    def hear(self, target: Target, now: float) -> None:
        """Note that a target has sent something: whatever waits for it waits anew."""
        if silence := self._silent.get(_identity(target)):
            silence.waited_s, silence.since = 0.0, now

    def give_back(self, target: Target, now: float) -> None:
        """Count one request less on a target; whether it did well is told separately."""
        left = self._inflight.get(target.uid, 0) - 1
        assert left >= 0, "given back more often than taken"
        if left:
            self._inflight[target.uid] = left
        else:
            del self._inflight[target.uid]
            silence = self._silent[_identity(target)]
            silence.waited_s, silence.waits = silence.at(now), False
        if health := self._failing.get(_identity(target)):
            health.trying = False

    def praise(self, target: Target) -> None:
        """Remember that a target answered."""
        self._failing.pop(_identity(target), None)

    def blame(self, target: Target, now: float) -> None:
        """Leave a target alone for a while, twice as long each time it fails in a row."""
        health = self._failing.setdefault(_identity(target), _Health(0, now))
        health.failures += 1
        doubled = self._limits.out_s * 2 ** min(health.failures - 1, 16)
        health.out_until = now + min(doubled, self._limits.out_s_max)

    def wait_s(self, targets: Iterable[Target], now: float) -> float:
        """Return how long until the first of these failing targets may be tried again."""
        outs = [each.out_until for t in targets if (each := self._failing.get(_identity(t)))]
        return max(0.0, min(outs, default=now) - now)

    def keep(self, targets: Iterable[Target]) -> None:
        """Forget the failures and silences of every target that is not among these."""
        known = {_identity(each) for each in targets}
        self._failing = {each: self._failing[each] for each in self._failing if each in known}
        self._silent = {e: s for e, s in self._silent.items() if e in known or s.waits}


def _identity(target: Target) -> tuple[str, int]:
    """A replica that was placed anew starts with a clean record."""
    return target.uid, target.epoch
