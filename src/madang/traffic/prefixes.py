"""Which replica was sent which beginnings of prompts: what it may still have in its cache.

Known from our own dispatches alone; no engine is asked. A table in two generations, each a plain
dict from the hash of a beginning to the replicas that were sent it, as bits of one number: under
100 bytes an entry. What a replica was sent in the older one counts until so much more was sent to
it that its cache, which forgets what was used least recently, has lost the half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

Matches = list[tuple[int, int]]
"""Spots, as bits, and the number of leading blocks that just these have; the least first."""


class Prefixes:
    """The beginnings of prompts, by who has them. Spots are small numbers, one for a replica."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max // 2
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        """Blocks that were new to a spot since the young generation began."""
        self._sent_old: dict[int, int] = {}
        """And those of the generation before."""
        self._until: dict[int, float] = {}
        """How many may be sent to a spot until the old generation no longer counts for it."""
        self._room: dict[int, float] = {}
        """Blocks that the cache of a spot holds."""
        self._trusted = 0
        """Spots for which the old generation counts, as bits."""
        self._new = 0
        self._turn_at = inf
        """So many new blocks end the young generation: half of what the caches in use hold."""
        self._bits: dict[int, int] = {}
        self.turns = 0
        """How many generations have ended: after two, nothing older is known."""

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, chain: Sequence[int], spots: int) -> Matches:
        """Tell which of these spots, as bits, have how many leading blocks."""
        matches: Matches = []
        young, old, trusted = self._young.get, self._old.get, self._trusted
        for depth, block in enumerate(chain):
            left = young(block, 0) & spots
            if left == spots:
                continue
            left |= old(block, 0) & trusted & spots
            if left != spots:
                matches.append((spots ^ left, depth))
                if not left:
                    return matches
                spots = left
        matches.append((spots, len(chain)))
        return matches

    def note(self, chain: Sequence[int], spot: int, depth: int, room: float) -> None:
        """Note that a spot, whose cache holds that many blocks, is sent them; it had the first."""
        young, bit = self._young, self._bits.get(spot)
        if bit is None:
            bit = self._bits[spot] = 1 << spot
        for block in chain:
            known = young.get(block, 0)
            if not known & bit:
                young[block] = known | bit if known else bit
        fresh = len(chain) - depth
        if spot not in self._sent:
            self._sent[spot], self._room[spot] = 0, room
            self._turn_at = sum(self._room[each] for each in self._sent) / 2
        self._sent[spot] += fresh
        self._new += fresh
        if self._sent[spot] > self._until.get(spot, inf):
            self._trusted &= ~bit
        if self._new >= self._turn_at or len(young) >= self._entries_max:
            self._turn()

    def _turn(self) -> None:
        """Begin a new generation."""
        self._old, self._young = self._young, {}
        self._sent_old, self._sent = self._sent, {}
        self._until = {s: self._room[s] - sent / 2 for s, sent in self._sent_old.items()}
        self._trusted = sum(1 << spot for spot, most in self._until.items() if most >= 0)
        self._new, self._turn_at = 0, inf
        self._room = {spot: self._room[spot] for spot in self._sent_old}
        self._bits = {spot: 1 << spot for spot in self._sent_old}
        self.turns += 1

    def clear(self) -> None:
        """Forget all."""
        self._turn()
        self._turn()
