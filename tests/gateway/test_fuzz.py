"""The same bytes to our reading of HTTP and to h11's: never another request, never one more.

What we refuse and h11 takes is no difference: a front may be stricter than what stands behind it.
`python bench/fuzz.py` sends fifty thousand.
"""

from __future__ import annotations

import pytest

from madang.testing.fuzz import CORPUS, compare, mutants, read_by_us

SEED = 20261127


def test_no_mutant_of_a_request_is_read_in_two_ways() -> None:
    told = compare(mutants(3_000, SEED))
    assert told.differences == []
    assert told.same > 1_500, "or the mutants are too wild to tell anything"


@pytest.mark.parametrize("size", [1, 7])
def test_how_bytes_are_cut_into_reads_changes_nothing(size: int) -> None:
    for said in mutants(400, SEED + 1):
        assert read_by_us(said, size) == read_by_us(said), said


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_known_to_smuggle_does_not(name: str) -> None:
    """Each hides a second request from one of two readers; here it is refused, and never seen."""
    requests = read_by_us(CORPUS[name])
    assert b"/hidden" not in [each.target for each in requests]
