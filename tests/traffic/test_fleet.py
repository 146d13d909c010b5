"""Where a prompt is read first: by what waits there, what is cached there, how fast it reads."""

from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from madang.testing.examples import examples
from madang.traffic.fleet import KIN
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
    @rule(data=st.data(), badly=st.booleans())
    def finish(self, data, badly):
        got, asked = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        (self.router.blame(got, self.now) if badly else self.router.praise(got))
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
