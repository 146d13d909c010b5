"""Leases: whoever dies when, no more is spent than the limit, and nothing spent is lost."""

from __future__ import annotations

from collections import deque

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from madang.months import day_number, month_of
from madang.testing.examples import examples
from madang.traffic.budgets import Budgets
from madang.traffic.leases import Asked, Want, boot_of, charge, charges, lend
from madang.traffic.price import MICRO
from madang.traffic.refusal import Refusal
from madang.traffic.table import Allowance, Key, RouteTable, Usage

AT = 1_764_000_000.0
DAY = day_number(AT)
LINE = ("key/key-1", "tokens_per_day", DAY)
LIMIT = 1000
ASKER = Key(
    "app", "acme/lab", "member", uid="key-1", may_infer=True,
    limits=Allowance(tokens_per_day=LIMIT),
)  # fmt: skip


def record(boot, number, tokens, krw=0.0):
    return Usage(
        id=f"req-{boot}-{number:x}", at=AT, key="app", project="acme/lab", endpoint="bot",
        replica="r", prompt_tokens=tokens, cached_tokens=0, output_tokens=0, status=200,
        duration_s=1.0, key_uid="key-1", payer="acme/lab", krw=krw,
    )  # fmt: skip


def test_a_record_counts_for_its_key_its_project_and_its_organization():
    month = month_of(AT).number
    found = dict(charges(record("b", 1, 70, krw=0.25)))
    owners = ("key/key-1", "project/acme/lab", "organization/acme")
    assert found == {
        **{(owner, "tokens_per_day", DAY): 70 for owner in owners},
        **{(owner, "krw_per_month", month): MICRO // 4 for owner in owners},
    }


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 5))
def test_a_lease_is_a_twentieth_of_what_is_left_or_what_one_request_needs(limit, short, gateways):
    books = {}
    for number in range(gateways):
        asked = Asked(f"gateway-{number}", f"boot-{number}", 1, ())
        out = sum(row.out for row in books.get(LINE, {}).values())
        lent = lend(books, asked, Want(*LINE, short=short), limit).lent
        left = limit - out
        assert lent == min(left, max(left // 20, short))


def test_a_limit_lowered_below_what_is_out_takes_back_what_is_not_spent():
    books = {}
    first = lend(books, Asked("g", "b", 1, ()), Want(*LINE, short=500), 1000)
    assert first.lent == 500
    less = lend(books, Asked("g", "b", 2, ()), Want(*LINE, lent=500, left=450), 100)
    assert (less.lent, less.beyond) == (100, 0)
    none = lend(books, Asked("g", "b", 3, ()), Want(*LINE, lent=100, left=50), 10)
    assert none.lent == 50, "what is used can't be taken back"


def test_an_answer_that_never_came_has_lent_nothing():
    books = {}
    asked = Asked("g", "b", 1, ())
    assert lend(books, asked, Want(*LINE), 1000).lent == 50
    assert lend(books, asked, Want(*LINE), 1000).lent == 50
    assert books[LINE]["b"].out == 50


@given(
    limit=st.integers(1, 2000),
    steps=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 400)), max_size=8),
)
@example(limit=50, steps=[(2, 9)] * 4)
def test_control_is_not_asked_again_and_again_for_what_it_does_not_lend(limit, steps):
    """Also where requests use more than was reserved, so that less than nothing is left."""
    budgets, books = Budgets(), {}
    asker = structs.replace(ASKER, limits=Allowance(tokens_per_day=limit))
    budgets.take(RouteTable(1, (), {"k": asker}))

    def ask():
        asked = 0
        while wants := budgets.wants(AT + 1):
            asked += 1
            question = Asked("a", "life", asked, wants)
            budgets.lend([lend(books, question, want, limit) for want in wants])
            assert asked <= 2, wants

    for number, (tokens, real) in enumerate(steps):
        ask()
        found = budgets.reserve(budgets.line(asker), tokens, 0, number)
        if not isinstance(found, Refusal):
            budgets.settle(found, real, 0)
            charge(books, [record("life", number, real)])
    ask()


class Gateway:
    """One life of a gateway: its budgets, requests under way, and records on their way."""

    def __init__(self, uid, boot):
        self.uid, self.boot = uid, boot
        self.budgets = Budgets()
        self.budgets.take(RouteTable(1, (), {"k": ASKER}))
        self.budgets.begin(AT)
        self.open = deque()
        self.number = 0


class Leasing(RuleBasedStateMachine):
    """Gateways come, spend, are killed, and come again; answers and whole controls get lost.

    Records on disk outlive a gateway. Only requests under way when it is killed leave none here:
    the engine has answered nobody for them.
    """

    def __init__(self):
        super().__init__()
        self.books = {}
        self.lives = 0
        self.gateways = {uid: self.born(uid) for uid in ("a", "b", "c")}
        self.records = {uid: deque() for uid in self.gateways}
        self.metered = self.used = 0

    def born(self, uid):
        self.lives += 1
        return Gateway(uid, f"life-{self.lives}")

    @rule(uid=st.sampled_from("abc"), is_lost=st.booleans())
    def ask_control(self, uid, is_lost):
        gateway = self.gateways[uid]
        gateway.number += 1
        wants = gateway.budgets.wants(AT + gateway.number * 100)
        asked = Asked(uid, gateway.boot, gateway.number, wants)
        lents = [lend(self.books, asked, want, LIMIT) for want in wants]
        if is_lost:
            gateway.budgets.missed(wants)
        else:
            gateway.budgets.lend(lents)

    @rule(uid=st.sampled_from("abc"), tokens=st.integers(1, 300))
    def request(self, uid, tokens):
        gateway = self.gateways[uid]
        line = gateway.budgets.line(ASKER)
        found = gateway.budgets.reserve(line, tokens, 0, gateway.number)
        if not isinstance(found, Refusal):
            gateway.open.append((found, tokens))

    @precondition(lambda self: any(each.open for each in self.gateways.values()))
    @rule(part=st.floats(0, 1), data=st.data())
    def answer(self, part, data):
        gateway = data.draw(st.sampled_from([g for g in self.gateways.values() if g.open]))
        reserve, tokens = gateway.open.popleft()
        real = round(tokens * part)
        gateway.budgets.settle(reserve, real, 0)
        self.used += real
        self.records[gateway.uid].append(record(gateway.boot, self.used * 1000 + real, real))

    @rule(uid=st.sampled_from("abc"), count=st.integers(1, 5))
    def deliver(self, uid, count):
        waiting = self.records[uid]
        batch = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        charge(self.books, batch)
        self.metered += sum(each.prompt_tokens for each in batch)

    @rule(uid=st.sampled_from("abc"))
    def kill(self, uid):
        self.gateways[uid] = self.born(uid)

    @invariant()
    def never_more_than_the_limit(self):
        assert self.used <= LIMIT
        rows = self.books.get(LINE, {})
        assert sum(row.out for row in rows.values()) + self.metered <= LIMIT

    @invariant()
    def nothing_that_was_metered_is_lost(self):
        rows = self.books.get(LINE, {})
        assert (rows[""].used if "" in rows else 0) == self.metered

    def teardown(self):
        for uid, waiting in self.records.items():
            self.deliver(uid, len(waiting))
        assert self.metered == self.used


TestLeasing = Leasing.TestCase
TestLeasing.settings = settings(TestLeasing.settings, max_examples=examples(100))


def test_the_life_of_a_gateway_is_read_from_its_requests():
    assert boot_of("req-0a-b-c-1f") == "0a-b-c"
    assert boot_of("r1") == ""
