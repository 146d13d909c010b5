"""Waiting for a turn: who goes when, who is refused, what no order of things can break."""

from __future__ import annotations

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from madang.testing.examples import examples
from madang.traffic.desk import Desk
from madang.traffic.exchange import CLIENT_LEFT, Exchange
from madang.traffic.limits import Limits
from madang.traffic.refusal import Refusal
from madang.traffic.table import Endpoint, Key, RouteTable, Target

LIMITS = Limits(slot_requests_max=1, held_per_slot=3, held_s=10)
JSON, EVENTS = "application/json", "text/event-stream"
A, B = (Target(uid, 1, f"http://{uid}", "t") for uid in "ab")
APP = Key("app", "p", "member", uid="key-1", may_infer=True)


def table(*targets, name="bot", key=APP, version=1):
    endpoint = Endpoint("p", name, name, targets, 99)
    return RouteTable(version, (endpoint,), {"digest": key} if key else {})


def desk_of(*targets, limits=LIMITS):
    desk = Desk(limits)
    desk.take(table(*targets))
    return desk


class Caller:
    """One request, and what it was told."""

    def __init__(self, desk, now=0.0, model="bot", words="hi", key=APP, **fields):
        self.desk = desk
        turns = [{"role": "user", "content": words}]
        body = json.dumps({"model": model, "messages": turns, **fields}).encode()
        self.exchange = desk.admit("req", key, "chat", body, now)
        assert isinstance(self.exchange, Exchange)
        self.told = desk.start(self.exchange, self.call, now)

    def call(self, choice):
        assert self.told is None, "called twice, or without waiting"
        self.told = choice

    @property
    def word(self):
        return self.told.code if isinstance(self.told, Refusal) else self.told and self.told.uid

    def ask(self):
        self.exchange.upstream(self.told)
        return self

    def end(self, status=200, now=0.0):
        return self.desk.settle(self.exchange, status, now, 0)


def inflight(desk, now=0.0):
    return desk.pull("gw", 1.0, now).inflight


def waiting(desk):
    return json.loads(desk.health(0))["waiting"]


def test_what_a_replica_can_take_goes_at_once_and_what_is_more_waits():
    desk = desk_of(A, B)
    callers = [Caller(desk) for _ in range(4)]
    assert sorted(each.word for each in callers[:2]) == ["a", "b"]
    assert [each.word for each in callers[2:]] == [None, None]
    assert (inflight(desk), waiting(desk)) == ({"a": 1, "b": 1}, 2)


def test_turns_go_by_arrival_and_nobody_overtakes():
    desk = desk_of(A)
    first, second, third = (Caller(desk) for _ in range(3))
    first.end()
    assert (second.word, third.word) == ("a", None)
    late = Caller(desk)
    second.end()
    assert (third.word, late.word) == ("a", None)
    assert inflight(desk) == {"a": 1}


def test_a_wide_replica_has_a_longer_line():
    desk = desk_of(Target("wide", 1, "http://wide", "t", slots=2), B)
    callers = [Caller(desk) for _ in range(3 + 9)]
    assert sum(each.word is None for each in callers) == 9
    assert Caller(desk).word == "model_busy"


def test_a_full_line_refuses_at_once_and_says_for_how_long_the_front_has_waited():
    desk = desk_of(A)
    for _ in range(4):
        Caller(desk, now=0)
    refusal = Caller(desk, now=7.4).told
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "model_busy", 7)
    assert waiting(desk) == 3


def test_a_line_is_bounded_in_bytes_too():
    desk = desk_of(A, limits=Limits(slot_requests_max=1, held_bytes_max=2500))
    Caller(desk)
    light, *others = [Caller(desk, words="x" * 1000) for _ in range(3)]
    assert [each.word for each in others] == [None, "model_busy"]
    assert Caller(desk).word is None, "a small one still fits"
    assert Caller(desk, words="x" * 1000).word == "model_busy"
    light.end(CLIENT_LEFT)
    assert Caller(desk, words="x" * 1000).word is None


def test_a_line_is_bounded_however_many_slots_there_are():
    many = Target("many", 1, "http://many", "t", slots=50)
    desk = desk_of(many, limits=Limits(slot_requests_max=1, held_per_slot=3, held_max=20))
    callers = [Caller(desk) for _ in range(50 + 20)]
    assert sum(each.word is None for each in callers) == 20
    assert Caller(desk).word == "model_busy"


def test_who_waits_too_long_is_refused_before_an_engine_sees_it():
    desk = desk_of(A)
    busy, early, late = Caller(desk), Caller(desk, now=0), Caller(desk, now=5)
    busy.end(now=10)
    assert early.word == "waited_too_long"
    assert (early.told.status, early.told.retry_after_s) == (503, 10)
    assert late.word == "a"
    assert early.end() is None, "no replica was asked: no record"


def test_a_deadline_that_passes_while_nobody_ends_is_the_callers_too():
    desk = desk_of(A)
    Caller(desk)
    waits = Caller(desk)
    assert waits.exchange.deadline == 10
    assert waits.exchange.silent(10).code == "waited_too_long"
    desk.serve(10)
    assert waits.word == "waited_too_long"


def test_who_leaves_gives_up_its_place():
    desk = desk_of(A)
    busy, leaves, stays = Caller(desk), Caller(desk), Caller(desk)
    assert leaves.end(CLIENT_LEFT) is None
    assert waiting(desk) == 1
    busy.end()
    assert (leaves.word, stays.word) == (None, "a")


def test_who_leaves_just_as_its_turn_comes_passes_it_on():
    desk = desk_of(A)
    busy, leaves, stays = (Caller(desk) for _ in range(3))
    busy.end()
    assert leaves.word == "a"
    assert leaves.end(CLIENT_LEFT) is None, "no engine was asked"
    assert stays.word == "a"
    stays.end()
    assert inflight(desk) == {}


def test_lines_of_two_endpoints_are_apart():
    desk = desk_of(A)
    bot, cat = Endpoint("p", "bot", "bot", (A,), 9), Endpoint("p", "cat", "cat", (B,), 9)
    desk.take(RouteTable(2, (bot, cat), {"digest": APP}))
    assert [Caller(desk).word for _ in range(5)] == ["a", None, None, None, "model_busy"]
    assert Caller(desk, model="cat").word == "b"


@pytest.mark.parametrize(
    ("news", "word"),
    [
        (table(A, version=2, name="cat"), "model_not_found"),
        (table(version=2), "model_not_ready"),
        (table(A, version=2, key=None), "key_revoked"),
        (table(A, version=2, key=Key("app", "p", "viewer", uid="key-1")), "role_too_low"),
        (table(A, version=2, key=Key("app", "q", "member", "key-1", may_infer=True)),
         "model_not_found"),
        (table(A, version=2), None),
    ],
)  # fmt: skip
def test_a_new_table_is_applied_to_those_who_wait(news, word):
    desk = desk_of(A)
    Caller(desk)
    waits = Caller(desk)
    desk.take(news)
    assert waits.word == word
    assert waiting(desk) == (word is None)


def test_a_replica_that_comes_takes_from_the_line():
    desk = desk_of(A)
    Caller(desk)
    waits = Caller(desk)
    desk.take(table(A, B, version=2))
    late = Caller(desk)
    desk.serve(1)
    assert (waits.word, late.word) == ("b", None), "nobody overtakes the line"


def test_a_replica_is_free_when_it_has_said_all_however_slow_the_client_is():
    desk = desk_of(A)
    slow, waits = Caller(desk, stream=True).ask(), Caller(desk)
    slow.exchange.answers(200, EVENTS, 1)
    slow.exchange.feed(b"data: {}\n\n", 1)
    assert not slow.exchange.done
    slow.exchange.feed(b"data: [DONE]\n\n", 2)
    assert slow.exchange.done
    desk.free(slow.exchange, 2)
    assert waits.word == "a"
    record = slow.end(CLIENT_LEFT, now=40)
    assert (record.output_tokens, record.status) == (1, CLIENT_LEFT)
    assert inflight(desk) == {"a": 1}


def test_who_met_a_dying_replica_waits_in_front():
    desk = desk_of(A, B)
    callers = [Caller(desk) for _ in range(4)]
    unlucky = next(each for each in callers if each.word == "b")
    other = next(each for each in callers if each.word == "a")
    assert desk.failed(unlucky.exchange, "refused", unlucky.call, 0) is None
    unlucky.told = None
    other.end()
    assert unlucky.word == "a"
    assert [each.word for each in callers[2:]] == [None, None]
    assert inflight(desk) == {"a": 1}


def test_a_line_without_a_replica_that_could_be_asked_is_told_so():
    desk = desk_of(A)
    busy, waits = Caller(desk), Caller(desk)
    choice = desk.failed(busy.exchange, "refused", busy.call, 0)
    assert choice.code == "no_replica"
    busy.end(503)
    assert waits.word == "no_replica"
    assert waits.told.retry_after_s == 1


def test_a_hung_replica_gets_no_more_while_another_does_well():
    desk = desk_of(A, B, limits=Limits(slot_requests_max=2, suspect_s=5))
    callers = [Caller(desk) for _ in range(2)]
    hung = next(each for each in callers if each.word == "a")
    well = [each for each in callers if each is not hung]
    well[0].ask().exchange.answers(200, JSON, 5)
    later = [Caller(desk, now=6) for _ in range(4)]
    assert [each.word for each in later] == ["b", None, None, None]
    assert inflight(desk) == {"a": 1, "b": 2}


def test_all_bodies_in_hand_are_bounded_together():
    desk = desk_of(A, limits=Limits(bodies_bytes_max=1000))
    assert [desk.carry(600), desk.carry(400)] == [None, None]
    assert desk.carry(1).code == "overloaded"
    desk.leave(600)
    assert desk.carry(600) is None


FLOOD, QUIET = (Key(name, f"p/{name}", "member", uid=name, where="", may_infer=True)
                for name in ("flood", "quiet"))  # fmt: skip


def shared(*targets, **limits):
    """Return a desk at which two projects call one model."""
    desk = Desk(Limits(**{"slot_requests_max": 1, "held_per_slot": 8, "held_s": 10} | limits))
    endpoint = Endpoint("p", "bot", "bot", targets, 99)
    desk.take(RouteTable(1, (endpoint,), {"f": FLOOD, "q": QUIET}))
    return desk


def several(desk, key, number, **said):
    return [Caller(desk, model="p/bot", key=key, **said) for _ in range(number)]


def answer(caller, tokens):
    used = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    caller.exchange.answers(200, JSON, 0)
    caller.exchange.collect(json.dumps({"usage": used}).encode(), 0)
    caller.exchange.answer(0)
    caller.end()


def served(*callers):
    """End whoever is being served, again and again; return in which order they came."""
    order, left = [], list(callers)
    while now := next((each for each in left if isinstance(each.told, Target)), None):
        order.append(now)
        left.remove(now)
        now.ask()
        answer(now, 100)
    return order


def test_projects_take_turns_however_many_requests_each_sends():
    desk = shared(A)
    flood = several(desk, FLOOD, 7)
    quiet = several(desk, QUIET, 2)
    order = served(*flood, *quiet)
    assert [order.index(each) for each in quiet] == [2, 4]
    assert len(order) == 9


def test_a_full_line_makes_room_for_a_project_that_has_less_of_it():
    desk = shared(A)
    flood = several(desk, FLOOD, 9)
    assert several(desk, FLOOD, 1)[0].word == "model_busy"
    quiet = several(desk, QUIET, 5)
    assert [each.word for each in quiet] == [None] * 4 + ["model_busy"]
    assert [each.word for each in flood] == ["a", *[None] * 4, *["model_busy"] * 4]
    assert waiting(desk) == 8


def test_a_line_is_bounded_in_tokens_too():
    desk = shared(A, held_tokens_max=1000)
    flood = several(desk, FLOOD, 4, words="x" * 1400)
    assert [each.word for each in flood] == ["a", None, None, "model_busy"]
    assert several(desk, QUIET, 1, words="x" * 1400)[0].word is None
    assert [each.word for each in flood] == ["a", None, "model_busy", "model_busy"]


def test_a_project_that_weighs_more_gets_more_turns():
    desk = shared(A, held_per_slot=99)
    heavy = structs.replace(QUIET, weight=3.0)
    one, other = several(desk, FLOOD, 20), several(desk, heavy, 20)
    order = served(*one, *other)[1:17]
    assert sum(each in other for each in order) > sum(each in one for each in order)


@pytest.mark.parametrize("tier", ["flex", "batch"])
def test_who_says_that_slower_is_fine_waits_for_all_others(tier):
    desk = shared(A)
    busy = several(desk, FLOOD, 1)
    batch = several(desk, QUIET, 1, service_tier=tier)
    others = several(desk, FLOOD, 3)
    assert served(*busy, *batch, *others)[-1] is batch[0]


def warmed(desk, words):
    """Let the flood's own beginning be known to be cached."""
    for caller in several(desk, FLOOD, 1, words=words):
        caller.ask()
        answer(caller, 100)


@pytest.mark.parametrize(
    ("slack_s", "passed"), [(0.0, 1), (4.0, 5)], ids=["no slack", "a few seconds"]
)
def test_a_cached_prompt_goes_ahead_for_seconds_of_a_slow_replica_only(slack_s, passed):
    desk = shared(A, held_per_slot=99, slack_tokens=1e9, slack_s=slack_s)
    words = "same beginning " * 400
    warmed(desk, words)
    busy = several(desk, FLOOD, 1, words=words)
    quiet = several(desk, QUIET, 1, words="other " * 900)
    flood = several(desk, FLOOD, 60, words=words)
    order = served(*busy, *quiet, *flood)
    assert 1 <= order.index(quiet[0]) <= 30
    assert order.index(quiet[0]) >= passed


def test_what_was_really_used_decides_whose_turn_is_next():
    desk = shared(A)
    first = several(desk, FLOOD, 1)[0].ask()
    flood, quiet = several(desk, FLOOD, 2), several(desk, QUIET, 2)
    answer(first, 9000)
    order = served(*flood, *quiet)
    assert set(order[:2]) == set(quiet), "what was written cost as much as many turns"


def test_a_turn_that_met_no_engine_costs_nothing():
    desk = shared(A)
    gone = several(desk, FLOOD, 1)[0]
    flood, quiet = several(desk, FLOOD, 1)[0], several(desk, QUIET, 1)[0]
    gone.end(CLIENT_LEFT)
    assert flood.word == "a"
    assert quiet.word is None


def test_who_waits_behind_a_project_that_is_always_served_is_refused_in_time():
    desk = shared(A, held_s=10)
    several(desk, FLOOD, 1)
    waits = several(desk, QUIET, 1)[0]
    desk.serve(10)
    assert waits.word == "waited_too_long"


class Crowd(RuleBasedStateMachine):
    """Any order of arrivals, ends, failures, departures, tables and time passing."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.version = 1
        self.desk = desk_of(A, B)
        self.callers = []

    def some(self, data, which):
        found = [each for each in self.callers if which(each)]
        return data.draw(st.sampled_from(found)) if found else None

    @rule()
    def arrive(self):
        outcome = Caller(self.desk, self.now)
        self.callers.append(outcome)

    @precondition(lambda self: self.callers)
    @rule(data=st.data(), status=st.sampled_from([200, CLIENT_LEFT]))
    def end(self, data, status):
        caller = data.draw(st.sampled_from(self.callers))
        caller.end(status, self.now)
        self.callers.remove(caller)

    @rule(data=st.data(), fault=st.sampled_from(["refused", "lost", "busy", "garbled"]))
    def fail(self, data, fault):
        caller = self.some(data, lambda each: isinstance(each.told, Target))
        if caller:
            caller.told = None
            choice = self.desk.failed(caller.exchange, fault, caller.call, self.now)
            caller.told = choice or caller.told

    @rule(served=st.sampled_from([(A,), (B,), (A, B)]))
    def reroute(self, served):
        self.version += 1
        self.desk.take(table(*served, version=self.version))

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds):
        self.now += seconds
        self.desk.serve(self.now)

    @invariant()
    def every_slot_is_held_once(self):
        under_way = [each.word for each in self.callers if isinstance(each.told, Target)]
        assert inflight(self.desk) == {uid: under_way.count(uid) for uid in set(under_way)}

    @invariant()
    def no_bound_is_exceeded(self):
        assert all(count <= 1 for count in inflight(self.desk).values())
        assert waiting(self.desk) <= 6

    @invariant()
    def whoever_is_told_nothing_waits(self):
        assert waiting(self.desk) == sum(each.told is None for each in self.callers)

    def teardown(self):
        for caller in self.callers:
            caller.end(CLIENT_LEFT, self.now)
        assert (inflight(self.desk), waiting(self.desk)) == ({}, 0)


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(TestCrowd.settings, max_examples=examples(100))


def test_the_next_has_its_turn_as_soon_as_a_prompt_was_read():
    desk = desk_of(A, limits=Limits(unread_tokens_max=100))
    first = Caller(desk, words="long " * 200, stream=True).ask()
    second = Caller(desk)
    assert (first.word, second.word) == ("a", None)
    first.exchange.answers(200, EVENTS, 1)
    first.exchange.feed(b'data: {"choices": []}\n\n', 2)
    assert second.word == "a"


def test_a_cached_prompt_goes_before_another_that_came_sooner():
    desk = desk_of(A, limits=LIMITS)
    head = "you are a clerk " * 200
    first = Caller(desk, words=head).ask()
    others = [
        Caller(desk, words="other " * 400, key=QUIET, model="p/bot"),
        Caller(desk, words=head + "?"),
    ]
    first.end()
    assert [each.word for each in others] == [None, "a"]
