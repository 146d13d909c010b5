"""Events on their way through, however they are cut into pieces."""

from __future__ import annotations

import json
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.traffic.stream import EventStream
from madang.traffic.usage import Tokens, tokens_in


def event(body, end=b"\n\n"):
    return b"data: " + json.dumps(body).encode() + end


WORD = event(
    {"choices": [{"delta": {"content": '"usage": {"choices": []} data: [DONE]\n\ndata:'}}]}
)
NULL = event({"choices": [{"delta": {"content": "x"}}], "usage": None})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"
ANSWER = WORD + NULL + USAGE + DONE


def through(data, sizes, wants_usage=False):
    """Feed data in pieces of these sizes; return what passed, and the stream."""
    stream, passed = EventStream(wants_usage, 10_000), b""
    while data:
        size = sizes.pop() if sizes else len(data)
        piece = stream.feed(data[:size])
        assert not piece or piece.endswith((b"\n\n", b"\r\n\r\n"))
        passed += piece
        data = data[size:]
    return passed, stream


@given(st.lists(st.integers(1, 40)), st.booleans())
def test_however_it_is_cut_the_same_passes(sizes, wants_usage):
    passed, stream = through(ANSWER, sizes, wants_usage)
    assert passed == WORD + NULL + (USAGE if wants_usage else b"") + DONE
    assert stream.tokens == Tokens(5, 0, 2)
    assert stream.done
    assert stream.pieces == 2 + wants_usage


EVENTS = [
    WORD, NULL, USAGE, b"data: {}\n\n", b"data: {}\r\n\r\n", b"data: {\ndata: }\n\n",
    b": nothing\n\n", b"event: x\ndata: {}\n\n", b"data:{}\n\n", b"data: {\n\n",
    b'data: {"a": "[DONE]"}\n\n', b'data: {"a":1,\ndata: [DONE]\n\n', DONE,
]  # fmt: skip


@given(st.lists(st.sampled_from(EVENTS)), st.booleans())
def test_events_that_come_singly_pass_as_those_that_come_together(events, wants_usage):
    events = [WORD, *takewhile(lambda each: b"\ndata: [DONE]" not in b"\n" + each, events), DONE]
    singly, together = EventStream(wants_usage, 10_000), EventStream(wants_usage, 10_000)
    passed = b"".join(map(singly.feed, events))
    assert together.feed(b"".join(events)) == passed
    assert (singly.tokens, singly.pieces, singly.done) == (
        together.tokens, together.pieces, together.done,
    )  # fmt: skip


@given(st.lists(st.integers(1, 40)))
def test_lines_that_end_in_two_bytes_pass_as_well(sizes):
    passed, stream = through(ANSWER.replace(b"\n\n", b"\r\n\r\n"), sizes)
    assert passed == (WORD + NULL + DONE).replace(b"\n\n", b"\r\n\r\n")
    assert stream.tokens == Tokens(5, 0, 2)
    assert stream.done


@given(st.integers(0, len(ANSWER) - 1))
def test_whatever_the_engine_dies_at_only_whole_events_have_passed(at):
    passed, stream = through(ANSWER[:at], [])
    assert not stream.done
    assert (WORD + NULL).startswith(passed)
    assert stream.pieces == passed.count(b"\n\n")


def test_what_comes_after_the_end_is_dropped():
    passed, stream = through(DONE + WORD, [])
    assert passed == DONE
    assert stream.feed(WORD) == b""
    assert stream.pieces == 0


def test_usage_in_an_event_that_holds_more_is_read_and_passed_on():
    both = event({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}})
    passed, stream = through(both, [])
    assert passed == both
    assert stream.tokens == Tokens(1, 0, 0)


def test_an_event_over_the_bound_is_refused():
    stream = EventStream(False, 100)
    with pytest.raises(OverflowError):
        stream.feed(b"data: " + b"x" * 100)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, Tokens(3, 0, 4)),
        (
            {"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}},
            Tokens(3, 2, 0),
        ),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": None}}, Tokens(3, 0, 0)),
        ({"usage": {"prompt_tokens": -1}}, None),
        ({"usage": {"prompt_tokens": "3"}}, None),
        ({"usage": {"prompt_tokens": 2**60}}, None),
        ({"usage": None}, None),
        ({}, None),
        ([], None),
    ],
)
def test_usage_is_believed_only_if_it_makes_sense(body, tokens):
    assert tokens_in(json.dumps(body).encode())[0] == tokens
