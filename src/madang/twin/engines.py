"""A replica as the twin knows it: prompts one after the other, answers all at once.

A prompt is read at the replica's rate, less up to 35 % for the answers that it writes at the same
time, but for the leading blocks that its cache has: 2,000 blocks of 512 tokens, the least recently
used goes first. A token of each answer takes 12 ms and 0.4 ms more for every answer; 64 at most.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from madang.twin.calls import BLOCK_TOKENS, Asked

CACHE_BLOCKS = 2_000
ANSWERS_MAX = 64
SLOWED = 0.35
TOKEN_S, ANSWER_S = 0.012, 0.0004


@dataclass(slots=True)
class Call:
    """One request on its way through the twin."""

    number: int
    asked: Asked
    came_s: float
    replica: int = -1
    first_s: float = -1.0
    """When its first token came."""
    cached: int = 0
    """Tokens of its prompt that were not read again."""
    is_flood: bool = False
    is_streamed: bool = True
    """Its answer comes piece by piece; else nobody hears of it before its last token."""


Later = Callable[[float, "Engine", "Call | None"], None]
"""How an engine is called back: when, and with whose prompt is read, or None for an end."""


@dataclass(slots=True)
class Engine:
    """One replica."""

    rate: float
    """Prompt tokens per second, while it writes nothing."""
    later: Later
    cache: OrderedDict[int, None] = field(default_factory=OrderedDict)
    waiting: deque[Call] = field(default_factory=deque)
    reading: Call | None = None
    requests: int = 0
    blocks: int = 0
    """Of the prompts that wait, are read or answered."""
    written: float = 0.0
    """Tokens of each answer, since the beginning."""
    _at: float = 0.0
    _ends: list[tuple[float, int, Call]] = field(default_factory=list)
    _due: float = -1.0

    def take(self, call: Call, now: float) -> None:
        """Let a prompt wait for its turn."""
        self.requests += 1
        self.blocks += len(call.asked.chain) + 1
        self.waiting.append(call)
        self._read(now)

    def _read(self, now: float) -> None:
        """Begin the next prompt, if none is being read and one more may be answered."""
        if self.reading or not self.waiting or len(self._ends) >= ANSWERS_MAX:
            return
        call = self.reading = self.waiting.popleft()
        chain, cache, depth = call.asked.chain, self.cache, 0
        while depth < len(chain) and chain[depth] in cache:
            depth += 1
        for block in chain:
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > CACHE_BLOCKS:
            cache.popitem(last=False)
        call.cached = min(depth * BLOCK_TOKENS, call.asked.prompt - 1)
        rate = self.rate * (1 - SLOWED * len(self._ends) / ANSWERS_MAX)
        self.later(now + (call.asked.prompt - call.cached) / rate, self, call)

    def write(self, call: Call, now: float) -> None:
        """Note that a prompt was read: its answer begins, and the next prompt."""
        self._pass(now)
        self.reading, call.first_s = None, now
        heappush(self._ends, (self.written + call.asked.output, call.number, call))
        self._plan(now)
        self._read(now)

    def _pass(self, now: float) -> None:
        """Write on until now."""
        if self._ends:
            self.written += (now - self._at) / self._token_s
        self._at = now

    @property
    def _token_s(self) -> float:
        return TOKEN_S + ANSWER_S * len(self._ends)

    def _plan(self, now: float) -> None:
        """Have the first answer end when it should, as long as nothing changes."""
        self._due = -1.0
        if self._ends:
            self._due = now + max(0.0, self._ends[0][0] - self.written) * self._token_s
            self.later(self._due, self, None)

    def end(self, now: float) -> Call | None:
        """End an answer; None: the plan has changed meanwhile."""
        if now != self._due:
            return None
        self._pass(now)
        written, _, call = heappop(self._ends)
        self.written = max(self.written, written)
        self.requests -= 1
        self.blocks -= len(call.asked.chain) + 1
        self._plan(now)
        self._read(now)
        return call
