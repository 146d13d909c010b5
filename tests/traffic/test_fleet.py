"""Where a prompt is read first: by what waits there, what is cached there, how fast it reads."""

from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from madang.testing.examples import examples
from madang.traffic.fleet import KIN, Fleet
from madang.traffic.limits import Limits
from madang.traffic.prompt import Prompt
from madang.traffic.route import SPOTS_MAX, Router
from madang.traffic.table import Target

WIDE = Limits(slot_requests_max=1000, unread_tokens_max=1e9, suspect_s=1e9)


def target(uid, **more):
    return Target(uid, more.pop("epoch", 1), f"http://{uid}", "t", more.pop("slots", 4), **more)


FLEET = tuple(target(uid) for uid in "abc")


def prompt(tokens, *chain):
    return Prompt(float(tokens), chain, tells=True)


def sent(router, fleet, asked, now=0.0):
    return router.take(fleet, now, "", asked).uid


def test_a_prompt_goes_where_its_beginning_was_sent_before():
    router = Router(WIDE)
    for number in range(3):
        first, again = prompt(1000, number, number + 10), prompt(1200, number, number + 10)
        where = router.take(FLEET, 0, "", first)
        router.read(first, 0.1)
        router.give_back(where, 0.2, first)
        back = router.take(FLEET, 1, "", again)
        assert back is where
        router.give_back(back, 1, again)


def test_it_goes_elsewhere_when_more_waits_there_than_the_cache_saves():
    router = Router(WIDE)
    first = prompt(1000, 1, 2)
    where = router.take(FLEET, 0, "", first)
    router.read(first, 0.1)
    for number in range(20):
        router.take([where], 0.2, "", prompt(1000, number + 50))
    assert router.take(FLEET, 0.3, "", prompt(1000, 1, 2)) is not where


def test_long_prompts_keep_others_away_and_short_ones_do_not():
    router = Router(WIDE)
    long = sent(router, FLEET, prompt(50_000))
    assert long not in {sent(router, FLEET, prompt(100)) for _ in range(12)}


def test_a_fast_replica_is_found_by_its_answers_and_gets_its_part():
    router, paces = Router(WIDE), {"a": 1e-4, "b": 1e-4, "c": 1e-3}
    taken, now = [], 0.0
    free_at = dict.fromkeys(paces, 0.0)
    for _ in range(300):
        now += 0.06
        asked = prompt(1000)
        where = router.take(FLEET, now, "", asked)
        free_at[where.uid] = max(now, free_at[where.uid]) + 1000 * paces[where.uid]
        taken.append((free_at[where.uid], where, asked))
        for entry in sorted(taken, key=lambda each: each[0]):
            if entry[0] <= now:
                router.read(entry[2], entry[0])
                router.give_back(entry[1], now, entry[2])
                taken.remove(entry)
        if len(taken) > 40:
            break
    assert len(taken) <= 40, "the slow one is not given a third"


def whole(paces, count, every_s=0.3, written=100, token_s=0.01):
    """Send prompts whose answers come whole, most of their time for writing; say where each went.

    One is read after the other, and all are written at once.
    """
    router, fleet, places = Router(WIDE), tuple(target(uid) for uid in paces), []
    free_at, ends = dict.fromkeys(paces, 0.0), []
    for number in range(count):
        now = number * every_s
        for entry in sorted(ends, key=lambda each: each[0]):
            if entry[0] <= now:
                ends.remove(entry)
                entry[2].written = entry[3]
                router.give_back(entry[1], entry[0], entry[2])
        asked = Prompt(500.0 + 1000 * (number % 3), tells=False)
        tokens = written + 20 * (number % 7)
        where = router.take(fleet, now, "", asked)
        free_at[where.uid] = read_at = (
            max(now, free_at[where.uid]) + asked.tokens * paces[where.uid]
        )
        ends.append((read_at + tokens * token_s, where, asked, tokens))
        places.append(where.uid)
    return places


@pytest.mark.parametrize("times", [3, 6])
def test_a_fast_replica_is_found_by_answers_that_come_whole(times):
    places = whole({"a": 2e-4, "b": 2e-4, "c": 2e-4 * times}, 240)[-120:]
    assert places.count("c") < min(places.count("a"), places.count("b")) / 2


def test_equal_replicas_get_equal_parts_though_answers_come_whole():
    places = whole(dict.fromkeys("abcd", 2e-4), 200, every_s=0.2)[-100:]
    assert all(15 <= places.count(uid) <= 35 for uid in "abcd")


def test_an_answer_of_which_nothing_is_known_teaches_nothing():
    fleet, slow = Fleet(WIDE), Prompt(1000.0)
    fleet.enrol(FLEET[0], 0)
    before = fleet.pace_s[0]
    fleet.send(slow, 0, slow.tokens, 0.0)
    fleet.settle(1.0)
    fleet.leave(slow, 500.0)
    fleet.even([0])
    assert fleet.pace_s[0] == before


@given(st.lists(st.tuples(st.floats(1, 5000), st.booleans(), st.booleans(), st.floats(0, 9)),
                max_size=30), st.randoms(use_true_random=False))  # fmt: skip
def test_what_is_counted_is_nothing_once_all_have_left(sent, draw):
    fleet, now, there = Fleet(WIDE), 0.0, []
    for spot, each in enumerate(FLEET):
        fleet.enrol(each, spot)
    for tokens, tells, is_whole, later_s in sent:
        asked = Prompt(tokens, tells=tells, lane=draw.choice("xy"))
        fleet.send(asked, draw.randrange(3), tokens, now)
        asked.written = 50.0 * (is_whole and not tells)
        there.append(asked)
        now += later_s
        fleet.settle(now)
    draw.shuffle(there)
    for asked in there:
        fleet.leave(asked, now)
    fleet.even(range(3))
    assert (fleet.requests, fleet.prompts, fleet.unread, fleet.lanes) == (
        [0] * 3,
        [0] * 3,
        [0] * 3,
        {},
    )
    assert fleet.wait_s == [0.0] * 3
    assert all(isfinite(each) and each > 0 for each in fleet.pace_s)


def one_by_one(paces, count):
    """Send prompts that share nothing, each once the one before was answered; say where."""
    router, fleet, places = Router(WIDE), tuple(target(uid) for uid in paces), []
    for number in range(count):
        asked = prompt(1000, number)
        where = router.take(fleet, number, "", asked)
        router.read(asked, number + 1000 * paces[where.uid])
        router.give_back(where, number + 0.9, asked)
        places.append(where.uid)
    return places


@settings(max_examples=examples(30))
@given(st.lists(st.floats(1.0, KIN - 0.01), min_size=2, max_size=12))
def test_what_is_new_is_spread_over_replicas_that_seem_to_differ_by_chance(by_chance):
    paces = {f"r{spot:02}": 1e-4 * factor for spot, factor in enumerate(by_chance)}
    places = one_by_one(paces, 40 * len(paces))[-20 * len(paces) :]
    assert {places.count(uid) for uid in paces} == {20}


@pytest.mark.parametrize("times", [2, 10])
def test_what_is_new_goes_to_those_that_are_faster_while_nothing_waits_there(times):
    paces = {"a": 1e-4, "b": 1.2e-4, "c": 1e-4 * times, "d": 1.2e-4 * times}
    places = one_by_one(paces, 100)[-40:]
    assert set(places) == {"a", "b"}
    assert min(places.count("a"), places.count("b")) >= 10


def test_who_has_as_much_to_read_as_it_may_have_is_sent_nothing_more():
    router = Router(Limits(unread_tokens_max=1000))
    first = prompt(5000)
    assert router.take(FLEET[:1], 0, "", first)
    assert router.take(FLEET[:1], 0, "", prompt(1)) is None
    assert router.may_wait(FLEET[:1], 0)
    router.read(first, 1)
    assert router.take(FLEET[:1], 1, "", prompt(1))


def test_a_few_long_texts_at_once_are_no_flood_but_who_goes_on_waits():
    """A replica is to have 1,000 tokens to read: so much at once, then no more than 250."""
    router, there = Router(Limits(unread_tokens_max=1000)), FLEET[:1]

    def goes(tokens, lane="own", now=0):
        asked = Prompt(float(tokens), tells=True, lane=lane)
        return asked if router.take(there, now, "", asked) else None

    def read(now, *prompts):
        for each in prompts:
            router.read(each, now)
            router.give_back(FLEET[0], now, each)

    others = goes(1000, "others")
    assert others, "from now on there is enough to read"
    first = goes(600)
    assert first
    second = goes(300)
    assert second
    third = goes(200)
    assert third, "it had not all of it yet"
    assert goes(1) is None
    read(1, first, second)
    fourth = goes(60, now=1)
    assert fourth, "it has less than a part of it"
    assert goes(1, now=1) is None
    assert goes(1, "somebody", now=1)
    read(2, third, fourth)
    assert goes(600, now=2), "it had nothing there"
    assert goes(399, now=2)
    assert goes(1, now=2)
    assert goes(1, now=2) is None
    assert others.own, "and all the while there was enough to read"


def test_an_answer_that_does_not_tell_when_its_prompt_was_read_holds_nobody_up_for_ever():
    router = Router(Limits(unread_tokens_max=1000, suspect_s=1e9))
    assert router.take(FLEET[:1], 0, "", Prompt(2000.0))
    assert router.take(FLEET[:1], 0, "", Prompt(1.0)) is None
    assert router.take(FLEET[:1], 60, "", Prompt(1.0))


@pytest.mark.parametrize("part", [0.1, 0.25, 0.5])
def test_a_canary_gets_its_part(part):
    router = Router(WIDE)
    fleet = (
        *(target(uid, group="old", weight=1 - part) for uid in "abc"),
        target("new", group="new", weight=part),
    )
    got = [sent(router, fleet, prompt(100, number)) for number in range(200)]
    assert abs(got.count("new") - 200 * part) <= 1


def test_a_canary_keeps_its_part_however_often_the_table_changes():
    router, got = Router(WIDE), []
    for number in range(200):
        fleet = (target("a", group="old", weight=0.9), target("b", group="new", weight=0.1))
        router.keep(fleet)
        got.append(sent(router, fleet, prompt(100, number)))
    assert abs(got.count("b") - 20) <= 1


def test_who_has_no_weight_is_asked_only_if_nobody_else_can_be():
    router = Router(WIDE)
    fleet = (target("a", group="old", weight=1), target("b", group="new", weight=0))
    assert {sent(router, fleet, prompt(100)) for _ in range(9)} == {"a"}
    router.blame(fleet[0], 0)
    assert sent(router, fleet, prompt(100), 0.5) == "b"


def test_a_replica_placed_anew_has_cached_nothing():
    router = Router(WIDE)
    old = target("a")
    first = prompt(1000, 1, 2)
    router.take([old], 0, "", first)
    router.give_back(old, 1, first)
    new = (target("a", epoch=2),)
    router.keep(new)
    assert router.cached_tokens(new, prompt(1000, 1, 2)) == 0


def test_replicas_that_come_and_go_leave_nothing_behind():
    router = Router(WIDE)
    for epoch in range(2 * SPOTS_MAX):
        fleet = (target("a", epoch=epoch),)
        router.keep(fleet)
        asked = prompt(1000, epoch, epoch + 1)
        assert router.cached_tokens(fleet, asked) == 0
        router.take(fleet, 0, "", asked)
        router.give_back(fleet[0], 0, asked)
    assert router.inflight == {}


class Fleets(RuleBasedStateMachine):
    """Any order of prompts, first bytes, ends, failures, tables and time."""

    def __init__(self):
        super().__init__()
        self.router = Router(Limits(slot_requests_max=3, unread_tokens_max=4000, out_s_max=8))
        self.fleet = tuple(target(uid, slots=2, kv_tokens=4096) for uid in "abcd")
        self.taken = []
        self.now = 0.0

    @rule(tokens=st.floats(1, 5000), chain=st.lists(st.integers(0, 9), max_size=5),
          tells=st.booleans(), without=st.sampled_from(["", "a", "b"]))  # fmt: skip
    def take(self, tokens, chain, tells, without):
        asked = Prompt(tokens, chain, tells=tells)
        got = self.router.take(self.fleet, self.now, without, asked)
        assert got is None or (got in self.fleet and got.uid != without)
        if got:
            self.taken.append((got, asked))

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), badly=st.booleans(), written=st.integers(0, 500))
    def finish(self, data, badly, written):
        got, asked = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        (self.router.blame(got, self.now) if badly else self.router.praise(got))
        asked.written = 0.0 if badly else float(written)
        self.router.give_back(got, self.now, asked)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def first_byte(self, data):
        _, asked = self.taken[data.draw(st.integers(0, len(self.taken) - 1))]
        self.router.hear(asked, self.now)
        self.router.read(asked, self.now)

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds):
        self.now += seconds

    @rule(uids=st.sets(st.sampled_from("abcde"), min_size=1))
    def change(self, uids):
        self.fleet = tuple(target(uid, slots=2, kv_tokens=4096) for uid in sorted(uids))
        self.router.keep(self.fleet)

    @invariant()
    def every_request_is_counted_once(self):
        assert sum(self.router.inflight.values()) == len(self.taken)
        assert all(isfinite(each) and each >= 0 for each in self.router.silent(self.now).values())

    @invariant()
    def a_quiet_fleet_has_room_for_any_prompt(self):
        if not self.taken:
            later, asked = self.now + 8, Prompt(9999.0)
            got = self.router.take(self.fleet, later, "", asked)
            assert got is not None
            self.router.give_back(got, later, asked)
            self.now = later


TestFleets = Fleets.TestCase
TestFleets.settings = settings(TestFleets.settings, max_examples=examples(100))
