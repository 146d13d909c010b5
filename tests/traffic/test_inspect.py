"""Whoever inspects sees what is asked and answered, and passes, changes or refuses it."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from madang.traffic import schema
from madang.traffic.desk import Desk
from madang.traffic.exchange import Exchange
from madang.traffic.limits import Limits
from madang.traffic.refusal import Refusal, invalid
from madang.traffic.requests import Request
from madang.traffic.table import Endpoint, Key, RouteTable, Target

TARGET = Target("rep-1", 1, "http://e", "t")
KEY = Key("app", "a/b", "member", "uid-1", may_infer=True)
SECRET = "010-1234-5678"
NO = invalid("gateway.not-available", "messages", "content_refused")


class Censor:
    """A test's inspector: one word is refused, another is hidden, in both directions."""

    def __init__(self) -> None:
        self.ends: list[bool] = []

    def ask(self, key: Key, endpoint: Endpoint, request: Request) -> Request | Refusal:
        assert (key.project, endpoint.name) == ("a/b", "bot")
        for turn in request.body.messages if isinstance(request.body, schema.Chat) else ():
            if "bomb" in str(turn.content):
                return NO
            if isinstance(turn, schema.UserMessage) and isinstance(turn.content, str):
                turn.content = turn.content.replace(SECRET, "[phone]")
        return request

    def reader(self, key: Key, endpoint: Endpoint, request: Request) -> Censor | None:
        return self

    def read(self, data: bytes, last: bool) -> bytes | Refusal:
        self.ends.append(last)
        if b"poison" in data:
            return NO
        if b"broken" in data:
            raise ValueError
        return data.replace(SECRET.encode(), b"[phone]")


class Blind(Censor):
    """Looks at no answer."""

    def reader(self, key: Key, endpoint: Endpoint, request: Request) -> None:
        return None


def admitted(*inspectors: Any, kind: Any = "chat", **fields: Any) -> Exchange | Refusal:
    desk = Desk(Limits(), inspectors=inspectors)
    endpoint = Endpoint("a/b", "bot", "m", (TARGET,), 4096)
    desk.take(RouteTable(1, (endpoint,), {sha256(b"k").hexdigest(): KEY}))
    said = {"input": SECRET} if kind == "responses" else {}
    body = {"messages": [{"role": "user", "content": SECRET}]} if kind == "chat" else said
    written = json.dumps({"model": "bot", **body, **fields}).encode()
    return desk.admit("id", KEY, kind, written, 0.0)


def begun(*inspectors: Any, **fields: Any) -> Exchange:
    exchange = admitted(*inspectors, **fields)
    assert isinstance(exchange, Exchange)
    assert exchange.choose(0.0) == TARGET
    exchange.upstream(TARGET)
    stream = "text/event-stream" if fields.get("stream") else "application/json"
    assert exchange.answers(200, stream, 0.0) is None
    return exchange


def event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def whole(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1}}).encode()


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_what_is_asked_is_changed_before_any_engine_sees_it(kind: str) -> None:
    exchange = admitted(Censor(), kind=kind)
    assert isinstance(exchange, Exchange)
    body = exchange.upstream(TARGET)[1]
    assert SECRET.encode() not in body
    assert b"[phone]" in body


def test_what_is_asked_is_refused_with_the_reason_of_who_refused() -> None:
    turns = [{"role": "user", "content": "a bomb"}]
    assert admitted(Censor(), messages=turns) == NO
    assert admitted(Blind(), Censor(), messages=turns) == NO


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_an_answer_in_one_piece_is_changed_or_refused(kind: str) -> None:
    for text, hidden in ((f"call {SECRET}", True), ("poison", False), ("broken", False)):
        exchange = begun(Censor(), kind=kind)
        assert exchange.collect(whole(text), 0.0) is None
        answer = exchange.answer(0.0)
        if hidden:
            assert isinstance(answer, bytes)
            assert b"call [phone]" in answer
        else:
            assert isinstance(answer, Refusal)
            assert (answer == NO) == (text == "poison")


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_a_stream_is_inspected_by_whole_events_up_to_its_end(kind: str) -> None:
    censor = Censor()
    exchange = begun(censor, kind=kind, stream=True)
    made = event(f"call {SECRET}") + event("now") + b"data: [DONE]\n\n"
    pieces = [exchange.feed(made[at : at + 50], 0.0) for at in range(0, len(made), 50)]
    assert all(isinstance(each, bytes) for each in pieces)
    passed = b"".join(each for each in pieces if isinstance(each, bytes))
    assert b"call [phone]" in passed
    assert SECRET.encode() not in passed
    assert censor.ends.count(True) == 1
    assert censor.ends[-1]
    assert exchange.feed(b"data: more\n\n", 0.0) == b""


def test_a_stream_is_ended_by_whoever_refuses_what_it_says() -> None:
    exchange = begun(Censor(), stream=True)
    assert isinstance(exchange.feed(event("fine"), 0.0), bytes)
    assert exchange.feed(event("poison"), 0.0) == NO
    usage = exchange.settle(NO.status, 1.0, 2.0)
    assert usage
    assert usage.output_tokens == 2, "what the engine has made is paid for"


def test_who_does_not_look_at_answers_and_nobody_change_nothing() -> None:
    for inspectors in ((), (Blind(),)):
        exchange = begun(*inspectors, stream=True)
        assert exchange.feed(event(SECRET), 0.0) == event(SECRET)
