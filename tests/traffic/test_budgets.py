"""Limits of keys, projects and organizations: never above one, and nothing lost between."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.months import day_ends, day_number, month_of
from madang.traffic.budgets import UNCONFIRMED, WINDOW_S, Budgets, headers
from madang.traffic.leases import Lent
from madang.traffic.price import MICRO
from madang.traffic.refusal import Refusal
from madang.traffic.table import Allowance, Key, RouteTable

AT = 1_764_000_000.0
PLACE = "acme/lab"
MUCH = 10**15


def key(limits=None, name="app"):
    return Key(name, PLACE, "member", uid=f"key-{name}", may_infer=True, limits=limits)


def table(*keys, **limits):
    places = {name.replace("_", "/"): each for name, each in limits.items()}
    return RouteTable(1, (), {each.uid: each for each in keys}, limits=places)


def opened(*keys, **limits):
    budgets = Budgets()
    budgets.take(table(*keys, **limits))
    fill(budgets)
    return budgets


def fill(budgets, at=AT, part=1):
    """Lend every purse all of its limit, or a part of it; the rest may be lent later."""
    most = {}
    for (kind, name), account in budgets._accounts.items():
        most[f"{kind}/{name}", "tokens_per_day"] = account.day.most
        most[f"{kind}/{name}", "krw_per_month"] = account.month.most
    for want in budgets.wants(at):
        all_of_it = most[want.owner, want.what]
        lent = max(all_of_it // part, want.lent)
        budgets.lend([Lent(want.owner, want.what, want.period, lent, all_of_it - lent)])


def refused(budgets, asker, tokens=0, micro=0, now=0.0):
    found = budgets.reserve(budgets.line(asker), tokens, micro, now)
    assert isinstance(found, Refusal)
    return found


def reserved(budgets, asker, tokens=0, micro=0, now=0.0):
    found = budgets.reserve(budgets.line(asker), tokens, micro, now)
    assert not isinstance(found, Refusal), found
    return found


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Allowance(requests_per_minute=2), "requests_per_minute"),
        (Allowance(tokens_per_minute=250), "tokens_per_minute"),
        (Allowance(concurrent=2), "concurrent"),
        (Allowance(tokens_per_day=250), "tokens_per_day"),
        (Allowance(krw_per_month=3), "krw_per_month"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
@pytest.mark.parametrize("whose", ["key", "project", "organization"])
def test_a_refusal_says_which_limit_whose_what_is_left_and_when_there_is_more(limits, name, whose):
    asker = key(limits if whose == "key" else None)
    places = {"project": {"acme_lab": limits}, "organization": {"acme": limits}}
    budgets = opened(asker, **places.get(whose, {}))
    for _ in range(2):
        reserved(budgets, asker, 100, MICRO)
    found = refused(budgets, asker, 100, 2 * MICRO)
    assert found.status == 429
    assert found.limited.limit == name
    assert found.limited.of == {
        "key": "key/app", "project": "project/acme/lab", "organization": "organization/acme",
    }[whose]  # fmt: skip
    left = {"tokens_per_minute": 50, "tokens_per_day": 50, "krw_per_month": 1}.get(name, 0)
    assert found.limited.left == left
    assert dict(found.headers)[b"retry-after"] == str(found.limited.resets_s).encode()
    ends = {"concurrent": 1, "tokens_per_day": day_ends(day_number(AT)) - AT,
            "krw_per_month": month_of(AT).ends - AT}  # fmt: skip
    assert found.limited.resets_s == ends.get(name, WINDOW_S + 1)


def test_what_one_owner_lacks_is_taken_from_nobody():
    asker = key(Allowance(requests_per_minute=10))
    budgets = opened(asker, acme_lab=Allowance(concurrent=1))
    reserved(budgets, asker)
    refused(budgets, asker)
    (own, _) = budgets.line(asker)
    assert (own.requests, own.concurrent) == (1, 1)


def test_a_request_that_alone_is_more_than_the_limit_is_not_told_to_come_back():
    asker = key(Allowance(tokens_per_minute=100))
    found = refused(opened(asker), asker, 101)
    assert (found.code, found.retry_after_s) == ("request_over_limit", None)


def test_a_limit_of_zero_is_not_blamed_on_the_request():
    asker = key(Allowance(requests_per_minute=0))
    found = refused(opened(asker), asker)
    assert (found.message, found.values["kind"]) == ("gateway.limit-nothing", "key")


def test_headers_tell_of_the_account_that_has_least_left():
    asker = key(Allowance(requests_per_minute=10, tokens_per_minute=1000))
    budgets = opened(asker, acme=Allowance(requests_per_minute=3))
    reserved(budgets, asker, 100)
    lines = headers(budgets.line(asker), 0.5).removeprefix(b"\r\n").split(b"\r\n")
    told = dict(line.split(b": ") for line in lines)
    assert told[b"x-ratelimit-limit-requests"] == b"3"
    assert told[b"x-ratelimit-remaining-requests"] == b"2"
    assert told[b"x-ratelimit-limit-tokens"] == b"1000"
    assert told[b"x-ratelimit-remaining-tokens"] == b"900"
    assert told[b"x-ratelimit-reset-tokens"] == b"61s"


def test_a_limit_lowered_below_use_lets_nothing_in_until_that_is_over():
    asker = key(Allowance(requests_per_minute=10, concurrent=10))
    budgets = opened(asker)
    held = [reserved(budgets, asker) for _ in range(5)]
    asker = key(Allowance(requests_per_minute=100, concurrent=2))
    budgets.take(table(asker))
    assert refused(budgets, asker).limited.limit == "concurrent"
    for each in held[:3]:
        budgets.settle(each, 0, 0)
    assert refused(budgets, asker).limited.limit == "concurrent"
    budgets.settle(held[3], 0, 0)
    reserved(budgets, asker)


def test_tokens_of_a_request_that_ends_on_another_day_count_for_that_day():
    asker = key(Allowance(tokens_per_day=1000))
    budgets = opened(asker)
    held = reserved(budgets, asker, 600)
    fill(budgets, AT + 86_400)
    (account,) = budgets.line(asker)
    assert account.day.left == 1000
    budgets.settle(held, 700, 0)
    assert account.day.left == 300


def test_a_key_without_limits_in_a_place_without_any_costs_nothing():
    budgets = opened(key())
    assert budgets.line(key()) == ()


STEP = st.tuples(
    st.floats(0, 20), st.sampled_from(["ask", "settle", "release"]),
    st.integers(0, 60), st.integers(0, 60),
)  # fmt: skip


@given(st.lists(STEP, max_size=80))
def test_no_sixty_seconds_hold_more_than_the_limits_and_nothing_is_lost(steps):
    most = {"requests": 5, "tokens": 100, "concurrent": 3}
    limits = Allowance(
        requests_per_minute=5, tokens_per_minute=100, concurrent=3, tokens_per_day=10_000,
        krw_per_month=1,
    )  # fmt: skip
    asker = key(limits)
    budgets = opened(asker)
    (account,) = budgets.line(asker)
    now, held, past, used = 0.0, deque(), [], 0
    for wait_s, what, asked, real in steps:
        now += wait_s
        if what == "ask":
            found = budgets.reserve((account,), asked, asked, now)
            recent = [each for each in past if now - each[0] < WINDOW_S]
            if isinstance(found, Refusal):
                continue
            assert len(held) < most["concurrent"]
            assert len(recent) < most["requests"]
            assert sum(tokens for _, tokens in recent) + asked <= most["tokens"]
            entry = [now, asked]
            past.append(entry)
            held.append((found, entry))
        elif held:
            found, entry = held.popleft()
            if what == "settle":
                entry[1] = min(real, entry[1])
                budgets.settle(found, entry[1], entry[1])
                used += entry[1]
            else:
                budgets.release(found)
                past.remove(entry)
    pending = sum(entry[1] for _, entry in held)
    assert account.concurrent == len(held)
    assert account.day.left == 10_000 - used - pending
    assert account.month.left == MICRO - used - pending
    account.roll(int(now) + 1000)
    assert (account.requests, account.tokens) == (0, 0)


@given(st.integers(0, 500), st.integers(0, 500))
def test_what_was_really_used_takes_the_place_of_what_was_reserved(asked, real):
    asker = key(Allowance(tokens_per_minute=1000, tokens_per_day=1000, krw_per_month=1))
    budgets = opened(asker)
    (account,) = budgets.line(asker)
    held = reserved(budgets, asker, asked, asked)
    budgets.settle(held, real, real)
    assert (account.tokens, account.day.left) == (real, 1000 - real)
    assert account.month.left == MICRO - real


def test_what_a_lease_lacks_is_asked_for_and_not_called_spent():
    asker = key(Allowance(tokens_per_day=1000))
    budgets = Budgets()
    budgets.take(table(asker))
    hungry = []
    budgets.hungry = lambda: hungry.append(1)
    assert refused(budgets, asker, 100).code == UNCONFIRMED
    fill(budgets, part=10)
    reserved(budgets, asker, 100)
    found = refused(budgets, asker, 60)
    assert (found.status, found.code) == (503, UNCONFIRMED)
    assert hungry == [1, 1]
    (want,) = budgets.wants(AT + 1)
    assert (want.lent, want.left, want.short) == (100, 0, 60)
    budgets.lend([Lent(want.owner, want.what, want.period, 160, 840)])
    reserved(budgets, asker, 60)
    assert refused(budgets, asker, 901).code == "budget_spent"


def test_leases_of_the_next_day_are_there_when_it_begins():
    asker = key(Allowance(tokens_per_day=1000, krw_per_month=1))
    budgets = opened(asker)
    late = day_ends(day_number(AT)) - 30
    wants = budgets.wants(late)
    ahead = [each for each in wants if each.period == day_number(AT) + 1]
    assert [each.what for each in ahead] == ["tokens_per_day"]
    budgets.lend([Lent(each.owner, each.what, each.period, 50, 950) for each in ahead])
    assert not [each for each in budgets.wants(late + 1) if each.period == day_number(AT) + 1]
    budgets.begin(late + 31)
    reserved(budgets, asker, 50)
