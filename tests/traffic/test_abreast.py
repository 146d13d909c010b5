"""Several processes that are one gateway: bounds hold once, and turns go by who has less."""

from __future__ import annotations

import json

import pytest

from madang.traffic.abreast import LEVELS, YIELD_S, JointDesk, JointRouter, parted
from madang.traffic.exchange import Exchange
from madang.traffic.front import Front
from madang.traffic.joint import JointBudgets
from madang.traffic.limits import Limits
from madang.traffic.refusal import Refusal
from madang.traffic.route import SPOTS_MAX
from madang.traffic.table import Allowance, Endpoint, Key, RouteTable, Target

ONE = Target("a", 1, "http://a", "t", slots=1)
TWO = Target("b", 1, "http://b", "t", slots=1)
FLOOD = Key("flood", "seoul/flood", "member", uid="key-f", may_infer=True)
VICTIM = Key("victim", "seoul/victim", "member", uid="key-v", may_infer=True)


class Memory:
    """What processes tell each other, in this one."""

    def __init__(self):
        self.rows = {}
        self.meanwhile = ("", None)
        """Before a row of this kind is next written, this is done."""


class Side:
    """One process's side of it."""

    def __init__(self, memory, number, processes):
        self.memory, self.number, self.processes = memory, number, processes

    def seat(self, name):
        return Row(self, name)


class Row:
    def __init__(self, side, name):
        self.side, self.name = side, name

    def tell(self, numbers):
        assert all(isinstance(each, int) for each in numbers)
        kind, do = self.side.memory.meanwhile
        if do and self.name.startswith(kind):
            self.side.memory.meanwhile = ("", None)
            do()
        self.side.memory.rows[self.side.number, self.name] = numbers

    def elsewhere(self, second):
        rows = self.side.memory.rows.items()
        there = [v for (n, name), v in rows if name == self.name and n != self.side.number]
        return tuple(map(sum, zip(*there, strict=True))) if there else (0, 0, 0, 0, 0)

    def leave(self):
        self.side.memory.rows.pop((self.side.number, self.name), None)


def desks(count, *targets, limits=None, allowances=None):
    memory = Memory()
    endpoint = Endpoint(
        "seoul/minwon", "bot", "bot", targets, 9999, visible_to=frozenset({"seoul"})
    )
    made = []
    for number in range(count):
        desk = JointDesk(parted(limits or Limits(), count), Front(), 7, Side(memory, number, count))
        keys = {"f": FLOOD, "v": VICTIM}
        desk.take(RouteTable(1, (endpoint,), keys, limits=allowances or {}))
        made.append(desk)
    return made


def memory_of(desk):
    return desk._router._joint._others.memory


class Caller:
    """One request, and what it was told."""

    def __init__(self, desk, key=FLOOD, now=0.0):
        self.desk, self.told = desk, None
        body = {"model": "seoul/minwon/bot", "messages": [{"role": "user", "content": "hi"}]}
        exchange = desk.admit("req", key, "chat", json.dumps(body).encode(), now)
        assert isinstance(exchange, Exchange), exchange
        self.exchange = exchange
        self.told = desk.start(exchange, self.call, now)

    def call(self, choice):
        assert self.told is None, "called twice, or without waiting"
        self.told = choice

    @property
    def word(self):
        return self.told.code if isinstance(self.told, Refusal) else self.told and self.told.uid

    def end(self, now=0.0):
        return self.desk.settle(self.exchange, 200, now, 0)


def test_a_replica_has_no_more_under_way_than_it_may_from_all_together():
    four = desks(4, ONE)
    callers = [Caller(four[number % 4]) for number in range(6)]
    assert [each.word for each in callers] == ["a", "a", None, None, None, None]


def test_a_request_goes_where_others_have_less():
    one, other = desks(2, ONE, TWO)
    for desks_in_turn in ((one, other), (other, one)):
        assert {Caller(desk).word for desk in desks_in_turn} == {"a", "b"}


def test_who_waits_is_called_when_another_process_lets_go():
    one, other = desks(2, ONE)
    first, second = Caller(one), Caller(one)
    waits = Caller(other)
    first.end()
    assert waits.told is None
    other.tend(1.0)
    assert waits.word == "a"
    assert second.word == "a"


def test_somebody_with_nothing_under_way_goes_before_a_flood_of_another_process():
    one, other = desks(2, ONE)
    flood = [Caller(one) for _ in range(5)]
    victim = Caller(other, VICTIM)
    flood[0].end(now=1.0)
    assert [each.word for each in flood] == ["a", "a", None, None, None]
    other.tend(1.0)
    assert victim.word == "a"


def test_a_turn_is_left_to_another_process_for_a_moment_only():
    one, other = desks(2, ONE)
    flood = [Caller(one) for _ in range(5)]
    Caller(other, VICTIM)  # it does not take its turn
    flood[0].end(now=1.0)
    one.tend(1.0 + YIELD_S / 2)
    assert flood[2].told is None
    one.tend(1.0 + YIELD_S)
    assert flood[2].word == "a"


def test_who_comes_now_leaves_a_free_place_to_somebody_elsewhere_who_has_less():
    one, other = desks(2, ONE)
    first, _ = Caller(one), Caller(one)
    victim = Caller(other, VICTIM)
    first.end(now=1.0)
    late = Caller(one, now=1.0)
    other.tend(1.0)
    assert [victim.word, late.word] == ["a", None]


def test_no_turn_is_left_to_somebody_elsewhere_who_has_gone():
    one, other = desks(2, ONE)
    flood = [Caller(one) for _ in range(5)]
    Caller(other, VICTIM).end(now=1.0)
    flood[0].end(now=1.0)
    assert flood[2].word == "a"


def test_a_place_that_another_process_has_filled_meanwhile_is_given_back():
    one, other = desks(2, ONE)
    first, theirs = Caller(one), []
    memory_of(one).meanwhile = ("replica/", lambda: theirs.append(Caller(other)))
    waits = Caller(one)
    assert [waits.word, theirs[0].word] == [None, "a"]
    for each in (first, theirs[0]):
        each.end(now=1.0)
    assert waits.word == "a"
    assert [Caller(other).word, Caller(one).word] == ["a", None]


def test_equal_floods_do_not_wait_for_each_other():
    one, other = desks(2, ONE)
    flood = [Caller(one) for _ in range(3)]
    Caller(other)
    flood[0].end(now=1.0)
    assert flood[2].word == "a"


def test_what_has_ended_counts_no_more():
    one, other = desks(2, ONE)
    for desk in (one, other) * 20:
        callers = [Caller(desk) for _ in range(2)]
        assert [each.word for each in callers] == ["a", "a"]
        for each in callers:
            each.end()
    for desk in (one, other):
        assert not desk.tend(1.0)
        rows = memory_of(desk).rows
        assert {sum(v[1:]) for (_, name), v in rows.items() if not name.startswith("key")} == {0}


def test_replicas_that_come_and_go_do_not_use_up_the_rows():
    memory = Memory()
    router = JointRouter(Limits(), Side(memory, 0, 2))
    for epoch in range(2 * SPOTS_MAX):
        fleet = (Target("a", epoch, "http://a", "t"),)
        router.keep(fleet)
        assert router.take(fleet, 0.0) == fleet[0]
        router.give_back(fleet[0], 0.0)
    assert len(memory.rows) <= SPOTS_MAX


def test_limits_hold_for_all_processes_together():
    limits = {"seoul/flood": Allowance(concurrent=3)}
    four = desks(4, Target("w", 1, "http://w", "t", slots=16), allowances=limits)
    callers = [Caller(four[number % 4]) for number in range(6)]
    assert [each.word for each in callers] == ["w"] * 3 + ["rate_limit_exceeded"] * 3
    callers[0].end()
    assert [Caller(four[3]).word, Caller(four[0]).word] == ["w", "rate_limit_exceeded"]


LIMITS = {
    "requests": Allowance(requests_per_minute=1),
    "tokens": Allowance(tokens_per_minute=10),
    "concurrent": Allowance(concurrent=1),
}


def two_budgets(limits):
    memory = Memory()
    table = RouteTable(1, (), {}, limits={"seoul/flood": limits})
    both = [JointBudgets(Side(memory, number, 2)) for number in range(2)]
    for each in both:
        each.take(table)
    return memory, *both


def took(budgets):
    return budgets.reserve(budgets.line(FLOOD), 10, 0, 1.0)


@pytest.mark.parametrize("limit", sorted(LIMITS))
def test_of_two_who_come_at_once_for_the_last_of_a_limit_one_is_refused(limit):
    memory, ours, theirs = two_budgets(LIMITS[limit])
    came = []
    memory.meanwhile = ("", lambda: came.append(took(theirs)))
    assert isinstance(took(ours), Refusal)
    assert not isinstance(came[0], Refusal)
    theirs.release(came[0])
    assert not isinstance(took(ours), Refusal), "what was refused has taken nothing"


def test_a_limit_that_a_process_has_no_more_is_left_whole_to_the_others():
    _, ours, theirs = two_budgets(LIMITS["concurrent"])
    took(ours)
    assert isinstance(took(theirs), Refusal)
    ours.take(RouteTable(2, (), {}))
    assert not isinstance(took(theirs), Refusal)


@pytest.mark.parametrize("others", [0, 3])
def test_a_line_is_as_long_as_a_single_one_or_as_a_part_of_it(others):
    four = desks(4, ONE, limits=Limits(held_per_slot=8))
    running = [Caller(four[0]) for _ in range(2)]
    assert [each.word for each in running] == ["a", "a"]
    there = [Caller(four[1 + number % 3]) for number in range(others * 2)]
    assert {each.told for each in there} <= {None}
    here = [Caller(four[0]) for _ in range(9)]
    assert sum(each.told is None for each in here) == 8 - others * 2


def test_bounds_on_memory_are_divided_and_a_body_still_fits():
    limits = parted(Limits(), 16)
    assert (limits.requests_max, limits.bodies_bytes_max) == (63, 16 << 20)
    assert parted(Limits(bodies_bytes_max=8 << 20), 16).bodies_bytes_max == Limits().body_bytes_max


def test_levels_of_all_processes_fit_one_number():
    assert LEVELS * 8 < 63
