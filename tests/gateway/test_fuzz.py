"""The same bytes to our reading of HTTP and to h11's: never another request, never one more.

What we refuse and h11 takes is no difference: a front may be stricter than what stands behind it.
`python bench/fuzz.py` sends fifty thousand.
"""

from __future__ import annotations

import pytest

from madang.testing.fuzz import CORPUS, SEEDS, compare, cut, mutants, read_by_us

SEED = 20261127


def test_no_mutant_of_a_request_is_read_in_two_ways() -> None:
    told = compare(mutants(3_000, SEED))
    assert told.differences == []
    assert told.same > 1_500, "or the mutants are too wild to tell anything"


def test_nor_is_one_whose_head_may_be_known_from_the_request_before_it() -> None:
    told = compare(mutants(3_000, SEED), behind=SEEDS[0])
    assert told.differences == []
    assert told.same > 1_500, "or the mutants are too wild to tell anything"


def asking(head: bytes, body: bytes) -> bytes:
    return b"POST /a HTTP/1.1\r\nHost: x\r\n%b%b" % (head % len(body), body)


LENGTH = b"Content-Length: %d\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n"
ASKED = (
    *SEEDS,
    asking(LENGTH, b"hello, hello"),
    asking(b"Content-Length: %06d\r\n\r\n", b"hello, hello"),
    asking(b"X: y\r\n" + LENGTH, b"hello"),
    asking(LENGTH, b"Content-Length: 2\r\n\r\n"),
    *(asking(form, SEEDS[0] + end) for form, end in ((LENGTH, b""), (CHUNKED, b"\r\n0\r\n\r\n"))),
    *(asking(form, SEEDS[5] + end) for form, end in ((LENGTH, b""), (CHUNKED, b"\r\n0\r\n\r\n"))),
    b"POST /a HTTP/1.1\r\nX: " + SEEDS[0],
    b"\r\n\r\n",
    *mutants(20, SEED + 2),
)
"""Some with a request as their body, or as a header."""


@pytest.mark.parametrize("again", [asking(LENGTH, b"hello"), asking(LENGTH, b""), SEEDS[1]])
def test_requests_are_the_same_whether_their_heads_are_known_or_not(again: bytes) -> None:
    """Wherever the bytes between are cut in two; read byte by byte no head is ever known."""
    for asked in ASKED:
        whole = read_by_us(*cut(again + asked + again, 1))
        for at in range(len(asked) + 1):
            reads = (again, asked[:at], asked[at:] + again), (again, asked[:at], asked[at:], again)
            assert [read_by_us(*each) for each in reads] == [whole] * 2, (asked, at)


@pytest.mark.parametrize("size", [1, 7])
def test_how_bytes_are_cut_into_reads_changes_nothing(size: int) -> None:
    for said in mutants(400, SEED + 1):
        assert read_by_us(*cut(said, size)) == read_by_us(said), said


@pytest.mark.parametrize("name", CORPUS)
def test_what_is_known_to_smuggle_does_not(name: str) -> None:
    """Each hides a second request from one of two readers; here it is refused, and never seen."""
    requests = read_by_us(CORPUS[name])
    assert b"/hidden" not in [each.target for each in requests]
