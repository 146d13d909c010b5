"""How others choose a replica, as they have published it: our re-implementations, not their code.

They send at once, and an engine reads in the order of arrival. Each is told what it asks engines
for at that very moment, as if asking took no time.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import cycle

from madang.twin.calls import BLOCK_TOKENS, Asked
from madang.twin.engines import CACHE_BLOCKS, Engine

Choose = Callable[[Asked], int]

SGLANG_MATCH, SGLANG_APART, SGLANG_TIMES = 0.3, 64, 1.5
"""cache_threshold, balance_abs_threshold, balance_rel_threshold: the router's own defaults."""
SGLANG_BLOCKS = (1 << 26) // (4 * BLOCK_TOKENS)
"""max_tree_size, 2^26 characters, in blocks."""
LLM_D_QUEUE, LLM_D_CACHE, LLM_D_PREFIX = 2.0, 2.0, 3.0
"""Weights of the scorers of queue, of cache use and of prefixes, as published with it."""
LLM_D_BLOCKS = 31_250
"""lruCapacityPerServer."""
SEED = 1


class Tree:
    """The blocks that a replica was sent, the least recent forgotten first."""

    def __init__(self, most: int) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._most = most

    def match(self, chain: Sequence[int]) -> int:
        """Return how many leading blocks it has."""
        for depth, block in enumerate(chain):
            if block not in self._blocks:
                return depth
        return len(chain)

    def add(self, chain: Sequence[int]) -> None:
        """Note what it is sent."""
        for block in chain:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)


def round_robin(engines: Sequence[Engine]) -> Choose:
    """One after the other."""
    turns = cycle(range(len(engines)))
    return lambda _: next(turns)


def least_request(engines: Sequence[Engine]) -> Choose:
    """The one with the least requests under way; among equals by chance."""
    draw = random.Random(SEED)  # noqa: S311 (a draw that can be made again)
    return lambda _: _least([each.requests for each in engines], draw)


def sglang_like(engines: Sequence[Engine]) -> Choose:
    """The longest match if it is long enough and loads are even, else the least requests.

    `cache_aware` of sglang-router 0.3, with the repair by which what matches nowhere goes by load
    (sgl-project/sglang, pull request 14650).
    """
    draw = random.Random(SEED)  # noqa: S311
    trees = [Tree(SGLANG_BLOCKS) for _ in engines]

    def choose(asked: Asked) -> int:
        loads = [each.requests for each in engines]
        matches = [tree.match(asked.chain) for tree in trees]
        most, least = max(loads), min(loads)
        uneven = most - least > SGLANG_APART and most > SGLANG_TIMES * least
        long = max(matches) * BLOCK_TOKENS > SGLANG_MATCH * asked.prompt
        chosen = matches.index(max(matches)) if long and not uneven else _least(loads, draw)
        trees[chosen].add(asked.chain)
        return chosen

    return choose


def llm_d_like(engines: Sequence[Engine]) -> Choose:
    """The best sum of three scores: short queue, free cache, known prefix.

    Of llm-d's inference scheduler, with its approximate index of prefixes.
    """
    draw = random.Random(SEED)  # noqa: S311
    trees = [Tree(LLM_D_BLOCKS) for _ in engines]

    def choose(asked: Asked) -> int:
        queues = [len(each.waiting) for each in engines]
        most, least = max(queues), min(queues)
        costs = [
            -LLM_D_QUEUE * ((most - queue) / (most - least) if most > least else 1.0)
            - LLM_D_CACHE * (1 - min(1.0, engine.blocks / CACHE_BLOCKS))
            - LLM_D_PREFIX * (tree.match(asked.chain) / len(asked.chain) if asked.chain else 0.0)
            for queue, engine, tree in zip(queues, engines, trees, strict=True)
        ]
        chosen = _least(costs, draw)
        trees[chosen].add(asked.chain)
        return chosen

    return choose


def _least(costs: Sequence[float], draw: random.Random) -> int:
    least = min(costs)
    return draw.choice([index for index, cost in enumerate(costs) if cost == least])


PEERS: dict[str, Callable[[Sequence[Engine]], Choose]] = {
    "round-robin": round_robin,
    "least-request": least_request,
    "sglang-like": sglang_like,
    "llm-d-like": llm_d_like,
}
