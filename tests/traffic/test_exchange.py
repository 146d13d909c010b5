"""One request's way: which replica, which retry, what it is charged."""

from __future__ import annotations

import json

import pytest

from madang.traffic.account import CUT_OFF
from madang.traffic.exchange import CLIENT_LEFT, Exchange
from madang.traffic.limits import Limits
from madang.traffic.refusal import Refusal, from_engine
from madang.traffic.requests import read
from madang.traffic.route import Router
from madang.traffic.table import Endpoint, Key, Target

LIMITS = Limits()
KEY = Key("app", "p", "member", may_infer=True)
JSON, EVENTS = "application/json", "text/event-stream"
FLEET = tuple(Target(uid, 1, f"http://{uid}", "t") for uid in "abc")


@pytest.fixture
def router():
    return Router(LIMITS)


def start(router, *targets, now=0.0, **fields):
    turns = [{"role": "user", "content": "hello " * 20}]
    body = json.dumps({"model": "bot", "messages": turns, **fields}).encode()
    endpoint = Endpoint("p", "bot", "bot", targets, 99)
    return Exchange("req-1", KEY, endpoint, read("chat", body), router, now)


def ask(exchange, now):
    exchange.upstream(exchange.choose(now))


def test_the_replica_is_asked_in_its_own_name(router):
    exchange = start(router, FLEET[0])
    url, body = exchange.upstream(exchange.choose(0))
    assert url == "http://a/v1/chat/completions"
    assert json.loads(body)["model"] == "a"


@pytest.mark.parametrize("fault", ["refused", "lost", "busy", "garbled"])
def test_another_replica_is_asked_once_and_no_more(router, fault):
    exchange = start(router, *FLEET)
    first = exchange.choose(0)
    second = exchange.failed(fault, 0)
    assert isinstance(second, Target)
    assert second.uid != first.uid
    last = exchange.failed(fault, 0)
    assert isinstance(last, Refusal)
    assert (last.status, last.retry_after_s) == (503, 1)
    assert router.inflight == {}


@pytest.mark.parametrize("fault", ["lost", "busy", "garbled"])
def test_one_request_closes_at_most_one_door(router, fault):
    exchange = start(router, *FLEET)
    ask(exchange, 0)
    exchange.failed(fault, 0)
    exchange.failed(fault, 0)
    assert sum(router.take([each], 0) is not None for each in FLEET) == 2


def test_refused_connections_close_every_door_that_refused(router):
    exchange = start(router, *FLEET)
    ask(exchange, 0)
    exchange.failed("refused", 0)
    exchange.failed("refused", 0)
    assert sum(router.take([each], 0) is not None for each in FLEET) == 1


def test_an_idle_connection_that_was_closed_is_no_fault_of_its_replica(router):
    exchange = start(router, FLEET[0])
    ask(exchange, 0)
    assert exchange.failed("lost", 0) is FLEET[0]
    assert exchange.answers(200, JSON, 0) is None


def test_a_refused_connection_is_not_tried_again_at_the_same_place(router):
    exchange = start(router, FLEET[0])
    ask(exchange, 0)
    assert exchange.failed("refused", 0).code == "no_replica"


def test_silence_closes_the_door_before_the_first_byte_only(router):
    before, after = start(router, FLEET[0]), start(router, FLEET[1], stream=True)
    ask(before, 0)
    assert before.silent(300).code == "engine_silent"
    ask(after, 0)
    after.answers(200, EVENTS, 0)
    after.feed(b"data: {}\n\n", 1)
    assert after.silent(300).code == "engine_silent"
    assert router.take([FLEET[0]], 300) is None
    assert router.take([FLEET[1]], 300) is FLEET[1]


def test_each_step_has_its_own_deadline(router):
    exchange = start(router, FLEET[0], stream=True)
    ask(exchange, 10)
    assert exchange.deadline == 10 + LIMITS.first_byte_s
    exchange.answers(200, EVENTS, 20)
    assert exchange.deadline == 20 + LIMITS.first_byte_s
    exchange.feed(b"data: half", 30)
    assert (exchange.deadline, exchange.client_turn) == (30 + LIMITS.gap_s, False)
    exchange.feed(b" event\n\n", 40)
    assert (exchange.deadline, exchange.client_turn) == (40 + LIMITS.client_s, True)
    exchange.engine_turn(50)
    assert (exchange.deadline, exchange.client_turn) == (50 + LIMITS.gap_s, False)
    exchange.feed(b"data: [DONE]\n\n", 60)
    exchange.engine_turn(61)
    assert exchange.deadline == 61 + LIMITS.linger_s
    assert exchange.silent(62) is None
    assert exchange.ended() is None


def test_a_replicas_uid_is_ours_alone(router):
    target = Target("rep-7f", 1, "http://e", "t")
    exchange = start(router, target, stream=True)
    ask(exchange, 0)
    exchange.answers(200, EVENTS, 0)
    said = b'data: {"model": "rep-7f", "choices": [{"text": "\\"model\\": \\"rep-7f\\""}]}\n\n'
    passed = exchange.feed(said, 1)
    assert b'"model": "bot"' in passed
    assert b'\\"rep-7f\\"' in passed


def test_a_stream_is_charged_by_what_the_engine_says(router):
    exchange = start(router, FLEET[0], stream=True, now=5.0)
    ask(exchange, 5)
    exchange.answers(200, EVENTS, 6)
    exchange.feed(b'data: {"choices": [{}]}\n\n', 7)
    usage = b'{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}'
    exchange.feed(b"data: " + usage + b"\n\ndata: [DONE]\n\n", 8)
    record = exchange.settle(200, now=9.0, at=1000.0)
    assert (record.prompt_tokens, record.output_tokens, record.estimated) == (9, 1, False)
    assert (record.first_token_s, record.duration_s, record.at) == (2, 4, 1000)
    assert router.inflight == {}


def test_a_stream_that_broke_is_charged_by_what_was_delivered(router):
    exchange = start(router, FLEET[0], stream=True)
    ask(exchange, 0)
    exchange.answers(200, EVENTS, 0)
    exchange.feed(b"data: {}\n\ndata: {}\n\ndata: {", 1)
    assert exchange.ended().code == "engine_lost"
    record = exchange.settle(502, 2, 0)
    assert (record.output_tokens, record.estimated, record.status) == (2, True, 502)
    assert record.prompt_tokens > 0


def test_nothing_delivered_is_nothing_charged(router):
    exchange = start(router, FLEET[0])
    ask(exchange, 0)
    record = exchange.settle(504, 1, 0)
    assert (record.prompt_tokens, record.output_tokens, record.estimated) == (0, 0, False)
    assert record.replica == "a"


def test_who_leaves_while_a_replica_is_at_work_pays_for_the_prompt(router):
    exchange = start(router, FLEET[0])
    ask(exchange, 0)
    record = exchange.settle(CLIENT_LEFT, 1, 0)
    assert (record.output_tokens, record.estimated) == (0, True)
    assert record.prompt_tokens == exchange.opened(0, 0).usage.prompt_tokens > 20
    assert router.inflight == {}


def test_who_leaves_after_a_replica_gave_no_answer_pays_nothing(router):
    exchange = start(router, FLEET[0])
    ask(exchange, 0)
    assert isinstance(exchange.failed("refused", 0), Refusal)
    assert exchange.settle(CLIENT_LEFT, 1, 0).prompt_tokens == 0


def test_what_is_written_down_of_an_open_request_is_how_it_began(router):
    exchange = start(router, FLEET[0], stream=True)
    assert not exchange.is_asked
    ask(exchange, 1)
    assert exchange.is_asked
    assert exchange.answers(200, EVENTS, 2) is None
    exchange.feed(b"data: {}\n\ndata: {}\n\n", 3)
    assert exchange.passed == 2
    opened = exchange.opened(4, 1e9).usage
    assert (opened.status, opened.output_tokens, opened.duration_s) == (CUT_OFF, 0, 4)
    assert (opened.key, opened.payer, opened.replica, opened.at) == ("app", "p", "a", 1e9)
    told = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n\n'
    exchange.feed(told, 5)
    assert exchange.passed == 5, "the engine knows better"


def test_a_request_that_reached_no_replica_leaves_no_record(router):
    exchange = start(router)
    assert exchange.choose(0).code == "no_replica"
    assert exchange.settle(503, 0, 0) is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 7}', b'{"detail": [1]}'])
def test_an_engine_that_refuses_without_words_is_still_understood(body):
    refusal = from_engine(400, body)
    assert (refusal.status, refusal.code) == (400, "refused_by_engine")
    assert refusal.values == {"status": 400, "words": ""}


TOO_LONG = [
    {"error": {"code": 400, "message": "no", "type": "exceed_context_size_error", "n_ctx": 8}},
    {"error": {"code": "context_length_exceeded", "message": "no"}},
    {"object": "error", "message": "This model's maximum context length is 8 tokens.", "code": 400},
    {"error": {"message": "The input is longer than the model's context length (8 tokens)."}},
]


@pytest.mark.parametrize("body", TOO_LONG)
def test_a_request_over_the_context_is_told_by_the_code_that_programs_look_for(body):
    refusal = from_engine(400, json.dumps(body).encode())
    assert (refusal.status, refusal.code) == (400, "context_length_exceeded")
    assert refusal.values["words"] in json.dumps(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "too long"}', "too long"),
        (b'{"detail": "too long"}', "too long"),
        (b'{"error": {"message": "too long", "code": [4], "type": {"a": 1}}}', "too long"),
        (json.dumps({"error": {"message": "x" * 900}}).encode(), "x" * 500),
    ],
)
def test_an_engines_words_are_passed_on_up_to_their_bound(body, said):
    assert from_engine(422, body).values["words"] == said


def test_a_503_is_no_answer(router):
    exchange = start(router, *FLEET)
    ask(exchange, 0)
    assert exchange.answers(503, JSON, 0) == "busy"


def test_our_own_lack_of_open_files_is_no_replicas_fault(router):
    exchange = start(router, *FLEET)
    ask(exchange, 0)
    refusal = exchange.failed("short", 0)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "overloaded", 1)
    assert all(router.take([each], 0) for each in FLEET)
