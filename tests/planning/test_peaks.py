"""The largest entry of a row, and its first column, as if all of it were looked through."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.planning.placement import peaks
from madang.planning.placement.peaks import BLOCK, Peaks
from madang.testing.examples import examples

STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=60)


@settings(max_examples=examples(80))
@given(st.integers(0, 10**6), STEPS)
def test_the_first_largest_of_each_slice_is_found_whatever_changed(seed, steps):
    chance = np.random.default_rng(seed)
    edges = np.cumsum([0, *chance.integers(1, 3 * BLOCK, 3)])
    slices = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    matrix = chance.integers(0, 4, (4, edges[-1])).astype(np.float64)
    matrix[matrix == 0] = -np.inf
    found = Peaks(matrix, slices)
    for row, changes in steps:
        for at in chance.integers(0, edges[-1], changes * 40):
            old, new = matrix[:, at].copy(), chance.integers(0, 5, 4).astype(np.float64)
            found.rewrite(int(at), old, new)
        for part, (most, block) in zip(slices, found.highest(row), strict=True):
            assert most == matrix[row, part].max()
            assert found.first(row, block) == part.start + matrix[row, part].argmax()


def test_many_marked_blocks_are_looked_through_at_once():
    wide = (peaks.FEW + 4) * BLOCK
    matrix = np.zeros((1, wide))
    matrix[0, ::BLOCK] = 2.0
    found = Peaks(matrix, [slice(0, wide)])
    for at in range(0, wide - BLOCK, BLOCK):
        found.rewrite(at, np.array([2.0]), np.array([1.0]))
    assert found.highest(0) == [(2.0, wide // BLOCK - 1)]
    assert found.first(0, wide // BLOCK - 1) == wide - BLOCK
