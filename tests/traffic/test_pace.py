"""How long reading took, told apart from writing where nothing tells when it ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.traffic.pace import READING_LEAST, Pace, reading_s

TIMES = st.floats(1e-3, 1e3)
SEEN = st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1e5), TIMES), min_size=1, max_size=40)


def pace(seen):
    one = Pace()
    for read, written, took_s in seen:
        one.note(read, written, took_s)
    return one


def answers(read_s, written_s, is_stream=lambda number: False, count=200):
    """Return answers of one replica by its seconds for a token read, and for one written."""
    shapes = ((500 + 700 * (n % 5), 0 if is_stream(n) else 50 + 40 * (n % 7)) for n in range(count))
    return [(read, written, read * read_s + written * written_s) for read, written in shapes]


@pytest.mark.parametrize("read_s", [1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("is_stream", [lambda n: False, lambda n: n % 2 == 0],
                         ids=["none-streamed", "half-streamed"])  # fmt: skip
def test_reading_is_told_apart_from_writing(read_s, is_stream):
    one = pace(answers(read_s, 0.02, is_stream))
    seconds = reading_s([one])[0] / one.read
    assert (
        read_s * 0.9 <= seconds <= max(read_s * 1.5, READING_LEAST * one.took_s / one.read * 1.01)
    )


def test_each_replica_has_its_own_time_for_a_token_that_is_written():
    fast, slow = pace(answers(1e-4, 0.01)), pace(answers(5e-4, 0.05))
    one, other = reading_s([fast, slow])
    assert other / slow.read > 3 * one / fast.read


@given(st.lists(SEEN.map(lambda seen: [(read, 0.0, took) for read, _, took in seen]), max_size=4))
def test_of_streams_all_that_was_seen_was_reading(all_seen):
    paces = [pace(seen) for seen in all_seen]
    assert reading_s(paces) == [each.took_s for each in paces]


@given(st.lists(SEEN, min_size=1, max_size=4))
def test_whatever_was_seen_some_of_it_was_reading_and_no_more_than_all(all_seen):
    paces = [pace(seen) for seen in all_seen] + [Pace()]
    for each, seconds in zip(paces, reading_s(paces), strict=True):
        assert READING_LEAST * each.took_s <= seconds <= each.took_s


def test_answers_that_are_all_alike_count_as_reading():
    """What cannot be told apart is taken for what makes others wait."""
    one = pace([(1000.0, 100.0, 3.0)] * 50)
    assert reading_s([one])[0] > 0.9 * one.took_s
