"""Turns among tenants: nobody gets more than their share while others wait, nobody none."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.testing.examples import examples
from madang.traffic.share import Claim, Rule, Share

MOST = 1000
"""Tokens of the largest item in these tests."""
UNCAPPED = Rule(gained_part=1.0)
sizes = st.integers(1, MOST)
weights = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])


class Queue:
    """A share whose items are numbered, and what each tenant was served."""

    def __init__(self, rule=None):
        self.share = Share(rule)
        self.numbers = count()
        self.claims = {}
        self.served = {}
        self.now = 0.0

    def add(self, tenant, tokens=100, weight=1.0, is_batch=False, urgent=False):
        item = next(self.numbers)
        self.claims[item] = Claim(tenant, tokens, weight, is_batch)
        self.share.add(item, self.claims[item], urgent)
        return item

    def turn(self, slack=0.0, cached=None):
        item = self.share.next(slack, cached)
        if item is not None:
            claim = self.claims[item]
            self.share.take(item, self.now)
            self.served[claim.tenant] = self.served.get(claim.tenant, 0) + claim.tokens
        return item

    def turns(self, number):
        return [
            self.claims[item].tenant for _ in range(number) if (item := self.turn()) is not None
        ]


def test_one_tenant_is_served_in_the_order_of_its_coming():
    queue = Queue()
    items = [queue.add("a", tokens) for tokens in (5, 900, 1)]
    assert [queue.turn() for _ in range(4)] == [*items, None]


def test_tenants_take_turns_however_many_each_has_waiting():
    queue = Queue()
    for _ in range(6):
        queue.add("flood")
    queue.add("a")
    queue.add("b")
    assert queue.turns(8) == ["flood", "a", "b", "flood", "flood", "flood", "flood", "flood"]


def test_what_is_large_costs_as_many_turns_as_it_is_large():
    queue = Queue()
    for _ in range(4):
        queue.add("large", 300)
        queue.add("small", 100)
    assert queue.turns(8)[:5] == ["large", "small", "small", "small", "large"]


def test_who_stayed_away_has_saved_up_no_turns():
    queue = Queue()
    queue.add("a")
    queue.turn()
    for _ in range(50):
        queue.add("b")
    queue.turns(40)
    for _ in range(5):
        queue.add("a")
    assert queue.turns(6) in (["a", "b"] * 3, ["b", "a"] * 3)


def test_who_had_all_of_an_idle_model_owes_nobody_for_it():
    queue = Queue()
    for _ in range(100):
        queue.share.pass_by(Claim("alone", 1000), 0)
    for _ in range(4):
        queue.add("alone")
        queue.add("late")
    assert queue.turns(6) == ["alone", "late"] * 3


def test_what_was_charged_too_much_comes_back_and_what_was_missing_is_taken():
    queue = Queue()
    for _ in range(4):
        for tenant in ("a", "b", "c"):
            queue.add(tenant)
    assert queue.turns(3) == ["a", "b", "c"]
    queue.share.charge(Claim("b", 0), -99, 0)
    queue.share.charge(Claim("a", 0), 150, 0)
    assert queue.turns(6) == ["b", "c", "b", "c", "b", "a"]


def test_what_lost_its_turn_by_no_fault_of_its_own_is_next():
    queue = Queue()
    queue.add("a")
    queue.add("b")
    again = queue.add("c", urgent=True)
    other = queue.add("d", is_batch=True, urgent=True)
    assert [queue.turn(), queue.turn()] == [other, again]


def test_who_leaves_takes_no_turn_and_pays_nothing():
    queue = Queue()
    first, second = queue.add("a"), queue.add("a")
    other = queue.add("b")
    assert queue.share.drop(first)
    assert not queue.share.drop(first)
    assert (len(queue.share), queue.share.tokens) == (2, 200)
    assert [queue.turn(), queue.turn()] == [second, other]
    assert queue.share.counter("a") == queue.share.counter("b") == 100


def test_a_cached_prompt_goes_first_within_the_slack_and_not_beyond():
    queue = Queue()
    cold, warm = queue.add("a"), queue.add("b")
    assert queue.turn(slack=50, cached=lambda item: item == warm) == warm
    warm = queue.add("b")
    assert queue.turn(slack=50, cached=lambda item: item == warm) == cold
    queue.add("a")
    assert queue.turn(slack=0, cached=lambda item: 0) is not None


def test_among_equally_cached_prompts_the_order_stays():
    queue = Queue()
    items = [queue.add(tenant) for tenant in "abc"]
    assert queue.share.next(1e9, lambda item: 7.0) == items[0]


def test_batch_work_comes_after_all_else_and_gets_its_part_all_the_same():
    queue = Queue(Rule(batch_part=1 / 4))
    batch = {queue.add("night", is_batch=True) for _ in range(3)}
    for _ in range(20):
        queue.add("day")
    order = [queue.turn() in batch for _ in range(20)]
    assert order[:4] == [False] * 4
    assert 2 <= sum(order) <= 3
    assert all(queue.turn() is not None for _ in range(3))


def test_batch_work_counts_for_its_tenant_like_all_else():
    queue = Queue()
    for _ in range(3):
        queue.add("both", is_batch=True)
    queue.add("other", 150)
    assert queue.turns(3) == ["other", "both", "both"]
    assert queue.share.counter("both") == 200
    assert queue.share.counter("other") == 150


def test_a_weight_gains_only_a_part_of_a_window():
    capped, free = Queue(Rule(gained_part=0.1)), Queue(UNCAPPED)
    for queue in (capped, free):
        for _ in range(400):
            queue.add("heavy", weight=8.0)
            queue.add("light")
        queue.turns(400)
    assert free.served["heavy"] > 7 * free.served["light"]
    assert capped.served["heavy"] < 1.3 * capped.served["light"]


def test_a_new_window_gives_the_gain_anew():
    queue = Queue(Rule(gained_part=0.1))
    for _ in range(400):
        queue.add("heavy", weight=8.0)
        queue.add("light")
    queue.turns(200)
    before = queue.served["heavy"] - queue.served["light"]
    queue.now = 61.0
    queue.turns(100)
    assert queue.served["heavy"] - queue.served["light"] > before


def test_only_so_many_tenants_are_remembered():
    queue = Queue(Rule(tenants_max=100))
    queue.add("waits")
    for number in range(1000):
        queue.share.pass_by(Claim(f"t{number}", 10), 0)
    assert len(queue.share._tenants) <= 100
    assert queue.turns(1) == ["waits"]


def test_nothing_is_given_back_to_a_tenant_nobody_remembers():
    queue = Queue()
    queue.add("a")
    queue.share.charge(Claim("stranger", 0), -1e9, 0)
    queue.add("stranger")
    assert queue.turns(2) == ["a", "stranger"]


def test_the_newest_of_a_tenant_is_batch_work_first():
    queue = Queue()
    batch, first, second = queue.add("a", is_batch=True), queue.add("a"), queue.add("a")
    assert queue.share.newest("a") == batch
    queue.share.drop(batch)
    assert queue.share.newest("a") == second
    queue.share.drop(second)
    queue.share.drop(first)
    assert queue.share.newest("a") is None
    assert queue.share.newest("nobody") is None


@settings(max_examples=examples(60), deadline=None)
@given(
    kinds=st.lists(
        st.tuples(weights, st.lists(sizes, min_size=1, max_size=8)), min_size=2, max_size=5
    ),
    slack=st.sampled_from([0.0, 500.0]),
)
def test_the_gap_between_two_who_always_wait_is_bounded(kinds, slack):
    queue = Queue(UNCAPPED)
    warm = lambda item: item * 7919 % 13  # noqa: E731
    for turn in range(200):
        for number, (weight, tokens) in enumerate(kinds):
            while queue.share.held(str(number)) < 2:
                queue.add(str(number), tokens[turn % len(tokens)], weight)
        queue.turn(slack, warm)
        got = [queue.served.get(str(n), 0) / weight for n, (weight, _) in enumerate(kinds)]
        least = min(weight for weight, _ in kinds)
        assert max(got) - min(got) <= MOST / least + slack


@settings(max_examples=examples(40), deadline=None)
@given(weight=weights, tokens=st.lists(sizes, min_size=1, max_size=10))
def test_tokens_go_by_weight(weight, tokens):
    queue = Queue(UNCAPPED)
    for number in range(600):
        for tenant, its in (("one", 1.0), ("other", weight)):
            while queue.share.held(tenant) < 2:
                queue.add(tenant, tokens[number % len(tokens)], its)
        queue.turn()
    gap = abs(queue.served["other"] - weight * queue.served["one"])
    assert gap <= 2 * max(tokens) * max(1.0, weight)


@settings(max_examples=examples(40), deadline=None)
@given(others=st.integers(1, 8), flood=st.integers(1, 200), own=sizes, its=sizes)
def test_a_flood_delays_whoever_comes_by_one_turn_of_each_at_most(others, flood, own, its):
    queue = Queue()
    for number in range(others):
        for _ in range(flood):
            queue.add(f"flood-{number}", its)
    queue.turns(flood * others // 2)
    mine = queue.add("victim", own)
    before = sum(queue.served.values())
    while queue.turn() != mine:
        pass
    assert sum(queue.served.values()) - own - before <= others * its


@settings(max_examples=examples(40), deadline=None)
@given(tokens=st.lists(sizes, min_size=1, max_size=10), own=sizes)
def test_batch_work_is_passed_over_for_a_bounded_number_of_tokens(tokens, own):
    rule = Rule()
    queue = Queue(rule)
    mine = queue.add("night", own, is_batch=True)
    turn = 0
    while True:
        queue.add("day", tokens[turn % len(tokens)])
        if queue.turn() == mine:
            break
        turn += 1
    assert queue.served.get("day", 0) <= own / rule.batch_part + max(tokens)


class Plain:
    """The same rule without heaps: everything is looked at, each time."""

    def __init__(self):
        self.counters, self.waiting, self.last = {}, [], None

    def least(self):
        waits = [self.counters[tenant] for _, tenant, _ in self.waiting]
        return min(waits) if waits else self.counters.get(self.last, 0.0)

    def add(self, item, tenant, tokens):
        if all(tenant != each for _, each, _ in self.waiting):
            self.counters[tenant] = max(self.counters.get(tenant, self.least()), self.least())
        self.waiting.append((item, tenant, tokens))

    def turn(self):
        if not self.waiting:
            return None
        firsts = {}
        for item, tenant, tokens in self.waiting:
            firsts.setdefault(tenant, (item, tenant, tokens))
        chosen = min(firsts.values(), key=lambda each: (self.counters[each[1]], each[0]))
        self.waiting.remove(chosen)
        self.counters[chosen[1]] += chosen[2]
        self.last = chosen[1]
        return chosen[0]

    def drop(self, item):
        self.waiting = [each for each in self.waiting if each[0] != item]


deeds = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcd"), sizes),
        st.tuples(st.just("turn"), st.none(), st.none()),
        st.tuples(st.just("drop"), st.integers(0, 60), st.none()),
        st.tuples(st.just("charge"), st.sampled_from("abcd"), st.integers(-MOST, MOST)),
    ),
    max_size=120,
)


@settings(max_examples=examples(200), deadline=None)
@given(deeds=deeds)
def test_any_order_of_things_gives_the_turns_that_looking_at_everything_gives(deeds):
    queue, plain = Queue(), Plain()
    for deed, what, amount in deeds:
        if deed == "add":
            plain.add(queue.add(what, amount), what, amount)
        elif deed == "turn":
            assert queue.turn() == plain.turn()
        elif deed == "drop":
            queue.share.drop(what)
            plain.drop(what)
        elif what in plain.counters:
            queue.share.charge(Claim(what, 0), amount, 0)
            plain.counters[what] += amount
        assert len(queue.share) == len(plain.waiting)
        assert queue.share.tokens == pytest.approx(sum(each[2] for each in plain.waiting))
    while (item := queue.turn()) is not None:
        assert item == plain.turn()
    assert plain.turn() is None, "whoever waits gets a turn"


@settings(max_examples=examples(40), deadline=None)
@given(deeds=deeds)
def test_marks_of_past_orders_do_not_pile_up(deeds):
    queue = Queue()
    for tenant in "abcd":
        queue.add(tenant)
    for _ in range(20):
        for deed, what, amount in deeds:
            if deed == "charge":
                queue.share.charge(Claim(what, 0), amount, 0)
        assert sum(map(len, queue.share._heaps)) <= 2 * 4 + 64 + 1
