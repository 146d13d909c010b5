"""What is known of caches, by what was sent where."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from madang.traffic.prefixes import Prefixes
from madang.traffic.prompt import BLOCK_BYTES, HASH_BITS, chain_of, prompt_of

A, B, C = 0b001, 0b010, 0b100
ALL = A | B | C


def depth_of(matches, bit):
    return next(depth for bits, depth in matches if bits & bit)


def test_a_spot_has_the_beginnings_that_it_was_sent():
    known = Prefixes(100)
    known.note([1, 2, 3], 0, 0, 100)
    known.note([1, 2], 1, 0, 100)
    assert known.find([1, 2, 3, 4], ALL) == [(C, 0), (B, 2), (A, 3)]
    assert known.find([9], ALL) == [(ALL, 0)]
    assert known.find([], ALL) == [(ALL, 0)]
    assert known.find([1, 2, 3], A) == [(A, 3)], "others are not told of"


def test_what_a_cache_must_have_lost_is_not_counted_on():
    known = Prefixes(10_000)
    known.note([1, 2], 0, 0, 10)
    for start in range(100, 120, 2):
        known.note([start, start + 1], 0, 0, 10)
    assert known.find([1, 2], A) == [(A, 0)]
    assert known.find([118, 119], A) == [(A, 2)]


def test_what_is_used_again_and_again_is_kept():
    known = Prefixes(10_000)
    for start in range(100, 400, 4):
        known.note([1, 2], 0, depth_of(known.find([1, 2], A), A), 10)
        known.note([start, start + 1], 0, 0, 10)
        assert known.find([1, 2], A) == [(A, 2)]


def test_a_small_cache_forgets_sooner_than_a_large_one():
    known = Prefixes(10_000)
    known.note([1, 2], 0, 0, 4)
    known.note([1, 2], 1, 0, 1000)
    for start in range(100, 400, 2):
        known.note([start, start + 1], 0, 0, 4)
    assert known.find([1, 2], A | B) == [(A, 0), (B, 2)]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 30), max_size=8)), max_size=60),
    st.integers(2, 40),
)
def test_the_table_is_bounded_and_says_of_nobody_what_it_was_not_sent(sent, most):
    known, told = Prefixes(most), {0: set(), 1: set(), 2: set()}
    for spot, chain in sent:
        known.note(chain, spot, 0, 20)
        told[spot].update(chain)
        assert len(known) <= most + 2 * 8
    for chain in ([1, 2, 3], list(range(8))):
        matches = known.find(chain, ALL)
        assert sum(bits for bits, _ in matches) == ALL
        assert [depth for _, depth in matches] == sorted(depth for _, depth in matches)
        for spot, blocks in told.items():
            assert set(chain[: depth_of(matches, 1 << spot)]) <= blocks


@given(st.binary(max_size=5000), st.binary(max_size=5000), st.binary(max_size=3000))
def test_prompts_share_as_many_blocks_as_their_common_beginning_has(head, one, other):
    first, second = chain_of(head + one, 7), chain_of(head + other, 7)
    shared = sum(a == b for a, b in zip(first, second, strict=False))
    assert first[:shared] == second[:shared], "equal blocks are leading ones"
    assert shared >= len(head) // BLOCK_BYTES
    assert all(0 <= each <= HASH_BITS for each in first)


def test_nobody_without_the_secret_can_tell_what_a_block_hashes_to():
    body = b"a" * 2 * BLOCK_BYTES
    assert set(chain_of(body, 1)).isdisjoint(chain_of(body, 2))


def test_a_prompt_is_measured_by_its_bytes():
    prompt = prompt_of(b"a" * 4096, 7, tells=True)
    assert (prompt.tokens, len(prompt.chain), prompt.block_tokens) == (1024, 4, 256)
