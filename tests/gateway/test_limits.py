"""Limits as applications meet them: what is refused, what is told, and what is given back."""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256

import pytest
from aiohttp import web
from msgspec import structs

from madang.traffic.leases import Lent
from madang.traffic.table import Allowance, Key, Price

from .conftest import KEY, PROJECT, table


def limited(target, version=2, price=None, **limits):
    made = table(target, version=version, price=price)
    key = Key(
        "app", PROJECT, "member", uid="key-1", may_infer=True, limits=Allowance(**limits)
    )  # fmt: skip
    return structs.replace(made, keys={sha256(KEY.encode()).hexdigest(): key})


def lend(door):
    """Lend every purse all of its limit, as a control would that has one gateway."""
    wants = door.desk.budgets.wants(time.time())
    lents = [Lent(want.owner, want.what, want.period, 10**6, 0) for want in wants]
    door.desk.lend(lents, time.monotonic())


async def test_the_answer_tells_what_is_left_and_the_refusal_what_was_too_much(engines, serve):
    engine = await engines.start()
    async with serve(engine.target) as door:
        door.desk.take(limited(engine.target, requests_per_minute=2, tokens_per_minute=10_000))
        first = await door.post(max_tokens=8)
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        async with door.stream() as second:
            assert second.headers["x-ratelimit-remaining-requests"] == "0"
            await second.aread()
        third = await door.post()
        assert third.status_code == 429
        assert 0 < int(third.headers["retry-after"]) <= 61
        assert third.headers["x-ratelimit-remaining-requests"] == "0"
        error = third.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert error["limited"] | {"resets_s": 0} == {
            "limit": "requests_per_minute", "of": "key/app", "most": 2, "left": 0, "asked": 1,
            "resets_s": 0,
        }  # fmt: skip
        assert "key/app" in error["message"]
        assert len(engine.requests) == 2


async def test_tokens_are_settled_by_what_the_engine_says(engines, serve):
    engine = await engines.start()
    async with serve(engine.target) as door:
        door.desk.take(limited(engine.target, tokens_per_minute=1000))
        await door.post(max_tokens=900)
        answer = await door.post(max_tokens=900)
        assert answer.status_code == 200
        refused = await door.post(max_tokens=1000)
        assert refused.json()["error"]["code"] == "request_over_limit"
        assert "retry-after" not in refused.headers
        (account,) = door.desk.budgets.line(door.desk._directory.table.keys.popitem()[1])
        assert account.tokens == 20  # twice what the engine said: 7 and 3


async def test_requests_at_once_are_given_back_however_they_end(engines, serve, eventually):
    engine = await engines.start()
    go = asyncio.Event()

    async def slow(request: web.Request, body):
        await go.wait()
        return await engine.answer(request, body)

    engine.behave = slow
    async with serve(engine.target) as door:
        door.desk.take(limited(engine.target, concurrent=1))
        first = asyncio.create_task(door.post())
        await eventually(lambda: engine.running)
        refused = await door.post()
        assert refused.json()["error"]["limited"]["limit"] == "concurrent"
        go.set()
        assert (await first).status_code == 200
        go.clear()
        second = asyncio.create_task(door.post())
        await eventually(lambda: engine.running)
        second.cancel()
        await eventually(lambda: not engine.running and len(door.records) == 2)
        go.set()
        assert (await door.post()).status_code == 200


async def test_what_no_engine_was_asked_for_counts_for_nothing(engines, serve):
    engine = await engines.start()
    async with serve(engine.target) as door:
        nobody = structs.replace(engine.target, uid="rep-gone", url="http://127.0.0.1:9")
        door.desk.take(limited(nobody, requests_per_minute=5, tokens_per_day=10_000))
        lend(door)
        assert (await door.post()).status_code == 503
        door.desk.take(limited(engine.target, 3, requests_per_minute=5, tokens_per_day=10_000))
        answer = await door.post()
        assert answer.headers["x-ratelimit-remaining-requests"] in {"3", "4"}


async def test_a_request_says_what_it_cost(engines, serve):
    engine = await engines.start()
    async with serve(engine.target) as door:
        price = Price(input=1000, cached=100, output=2000)
        door.desk.take(limited(engine.target, price=price, krw_per_month=1))
        lend(door)
        assert (await door.post(max_tokens=100)).status_code == 200
        usage = await door.record()
        assert usage.krw == pytest.approx((5 * 1000 + 2 * 100 + 3 * 2000) / 1e6)
        big = await door.post(max_tokens=600)
        error = big.json()["error"]
        assert error["code"] == "request_over_limit"
        assert error["limited"]["limit"] == "krw_per_month"


async def test_a_request_waits_a_moment_for_the_lease_that_it_needs(engines, serve, eventually):
    engine = await engines.start()
    async with serve(engine.target) as door:
        door.desk.take(limited(engine.target, tokens_per_day=10_000))
        first = asyncio.create_task(door.post(max_tokens=8))
        await eventually(lambda: door.desk._unconfirmed)
        lend(door)
        assert (await first).status_code == 200
        assert not door.desk._unconfirmed


async def test_without_a_lease_nothing_that_costs_money_is_let_in(engines, serve):
    engine = await engines.start()
    async with serve(engine.target) as door:
        door.desk.take(limited(engine.target, tokens_per_day=10_000))
        answer = await door.post()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "budget_unconfirmed"
        assert answer.headers["retry-after"] == "1"
        assert not engine.requests
        door.desk.take(limited(engine.target, 3, requests_per_minute=5))
        assert (await door.post()).status_code == 200
