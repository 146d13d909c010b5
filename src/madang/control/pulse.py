"""Whether engines that were ready still live: what tells one that is busy from one that hangs.

Gathers evidence, and judges nothing: planning does. All times are seconds that only go forward.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from madang.control.gateways import Gateways
from madang.planning.snapshot import Probed, Pulse
from madang.ports import Clock
from madang.supervisor.protocol import Process

IDLE_SHARE = 0.01
"""Less than this share of one processor is next to nothing: questions alone take less."""
IDLE_S = 0.05
"""And so much time is always free: the kernel counts in hundredths of a second."""

Key = tuple[str, int]
"""uid and epoch."""


@dataclass(slots=True)
class _Heart:
    """What is known of one engine."""

    answered_s: float
    misses: int = 0
    strange: int = 0
    detail: str = ""
    cpu_s: float = 0.0
    """Processor time it had used when it was last seen at work,"""
    worked_s: float = 0.0
    """and when that was;"""
    looked_s: float = 0.0
    """and when it was last looked at."""
    halted: bool = False


class Pulses:
    """One heart per engine that has said who it is."""

    def __init__(self, clock: Clock, gateways: Gateways) -> None:
        self._clock = clock
        self._gateways = gateways
        self._hearts: dict[Key, _Heart] = {}

    def hear(self, key: Key, answer: Probed | None) -> None:
        """Note what came of a question; an engine is known from its first answer."""
        now_s = self._clock.monotonic()
        if answer is None:
            if heart := self._hearts.get(key):
                heart.misses += 1
            return
        heart = self._hearts.setdefault(key, _Heart(now_s, worked_s=now_s, looked_s=now_s))
        heart.answered_s, heart.misses = now_s, 0
        heart.strange = 0 if answer.healthy else heart.strange + 1
        heart.detail = answer.detail

    def look(self, process: Process) -> None:
        """Note what the kernel says of it; a time that is not known counts as work."""
        heart = self._hearts.get((process.uid, process.epoch))
        if heart is None:
            return
        now_s, used_s = self._clock.monotonic(), process.cpu_s - heart.cpu_s
        free_s = IDLE_S + IDLE_SHARE * (now_s - heart.worked_s)
        if not process.cpu_s or used_s < 0 or used_s > free_s:
            heart.cpu_s, heart.worked_s = process.cpu_s, now_s
        heart.looked_s, heart.halted = now_s, process.halted

    def keep(self, keys: Collection[Key]) -> None:
        """Forget every engine that is not among these."""
        for key in self._hearts.keys() - keys:
            del self._hearts[key]

    def now(self) -> dict[Key, Pulse]:
        """Return the pulse of every engine that gives cause to look: few, of however many."""
        silent, now_s = self._gateways.silent(), self._clock.monotonic()
        return {
            key: _pulse(heart, silent.get(key[0]), now_s)
            for key, heart in self._hearts.items()
            if heart.misses or heart.strange or key[0] in silent
        }


def _pulse(heart: _Heart, silent_s: float | None, now_s: float) -> Pulse:
    mute_s = now_s - heart.answered_s
    return Pulse(
        misses=heart.misses,
        mute_s=mute_s if silent_s is None else min(mute_s, silent_s),
        idle_s=heart.looked_s - heart.worked_s,
        halted=heart.halted,
        quiet_s=silent_s or 0.0,
        strange=heart.strange,
        detail=heart.detail,
    )
