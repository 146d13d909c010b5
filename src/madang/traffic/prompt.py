"""What of a request decides where it goes: how long its prompt is, and how it begins.

A beginning is known by its hash alone. Each block's hash is seeded with that of the block before
(so it stands for all that lies before it), the first with a secret of the process: who forges a
collision can at worst have a request go to another replica of the same endpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from madang.traffic.shapes import Light

BLOCK_BYTES = 1024
BYTES_PER_TOKEN = 4
"""For estimates only. What is learnt of replicas is learnt by the same measure."""
BLOCKS_MAX = 1024
"""Who shares a megabyte shares enough."""
HASH_BITS = (1 << 60) - 1
"""A number of 60 bits takes two thirds of the memory of one of 64."""


class Prompt(Light):
    """A prompt, and what became of it at the replica that it was sent to last."""

    tokens: float = 0.0
    """An estimate."""
    chain: Sequence[int] = ()
    """The hash of each beginning of whole blocks, the shortest first."""
    block_tokens: float = BLOCK_BYTES / BYTES_PER_TOKEN
    """Tokens of one block, by the same estimate."""
    tells: bool = False
    """The first byte of its answer tells that the prompt was read: a stream, or embeddings."""
    lane: str = ""
    """Whose it is, and for which endpoint."""
    spot: int = -1
    """Where it is now; -1: nowhere."""
    own: float = 0.0
    """Tokens that have to be read for it, and were not by then; 0: it was read."""
    until: float = 0.0
    """Tokens that were to be read until it was, its own with them."""
    written: float = 0.0
    """Tokens of its answer, where it came whole; 0: it isn't known."""
    sent_at: float = 0.0
    read_at: float = 0.0


def chain_of(data: bytes, salt: int) -> list[int]:
    """Return the hash of every beginning of whole blocks.

    >>> one, two = chain_of(b"a" * 2048, 7), chain_of(b"a" * 1024 + b"b" * 1500, 7)
    >>> len(one), len(two), one[0] == two[0], one[1] == two[1]
    (2, 2, True, False)
    """
    found, last = [], salt
    end = min(len(data), BLOCKS_MAX * BLOCK_BYTES)
    for start in range(0, end - BLOCK_BYTES + 1, BLOCK_BYTES):
        last = xxh3_64_intdigest(data[start : start + BLOCK_BYTES], last) & HASH_BITS
        found.append(last)
    return found


def prompt_of(data: bytes, salt: int | None, tells: bool, lane: str = "") -> Prompt:
    """Measure the body of a request; without a salt its beginning is kept nowhere."""
    chain = () if salt is None else chain_of(data, salt)
    return Prompt(len(data) / BYTES_PER_TOKEN, chain, tells=tells, lane=lane)
