"""Budgets that cost money, over a real gateway process: what is spent while anything is killed."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import pytest
from msgspec import structs

from madang.traffic.table import Allowance, Key

from .conftest import KEY, PROJECT, table

LIMIT = 800
OWNER = ("key/key-1", "tokens_per_day")


def limited(target, version=1):
    limits = Allowance(tokens_per_day=LIMIT)
    key = Key("app", PROJECT, "member", uid="key-1", may_infer=True, limits=limits)
    return structs.replace(
        table(target, version=version), keys={sha256(KEY.encode()).hexdigest(): key}
    )


async def spend(gateway, status):
    """Ask until a refusal with that status; how often there was an answer, and the refusal.

    One that waits too long for a lease, on a machine that is busy, is asked again.
    """
    served = 0
    async with asyncio.timeout(40):
        while True:
            answer = await gateway.ask(max_tokens=8)
            if answer.status_code == status:
                return served, answer
            served += answer.status_code == 200


async def first(gateway):
    """Ask until there is an answer: a gateway that has just begun may have no table yet."""
    async with asyncio.timeout(20):
        while (await gateway.ask(max_tokens=8)).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_control_away_lets_no_more_be_spent_than_was_lent(
    engines, control, start_gateway, eventually
):
    engine = await engines.start()
    await control.start()
    control.table, control.limits = limited(engine.target), {OWNER: LIMIT}
    gateway = start_gateway()
    await eventually(lambda: control.books)
    await first(gateway)
    await eventually(lambda: len(control.taken) == 1)
    lent = max(row.lent for rows in control.books.values() for row in rows.values())
    assert lent <= 2 * LIMIT // 20, "a twentieth of what is left, beside what is under way"
    await control.stop()
    served, refused = await spend(gateway, 503)
    assert refused.json()["error"]["code"] == "budget_unconfirmed"
    assert 10 * (1 + served) <= lent
    await control.start()
    await eventually(lambda: len(control.taken) == 1 + served)
    await first(gateway)


@pytest.mark.parametrize("is_written", [True, False], ids=["written", "unwritten"])
async def test_a_gateway_killed_with_a_lease_spends_no_more_than_the_limit_over_its_lives(
    engines, control, start_gateway, eventually, is_written
):
    """But for what it had served in the last fifth of a second, and not written down yet."""
    engine = await engines.start()
    await control.start()
    control.table, control.limits = limited(engine.target), {OWNER: LIMIT}
    served = 0
    for _life in range(3):
        gateway = start_gateway()
        await first(gateway)
        for _ in range(3):
            served += (await gateway.ask(max_tokens=8)).status_code == 200
        served += 1
        if is_written:
            total = served
            await eventually(lambda: len({each["id"] for each in control.taken}) == total)  # noqa: B023 (at once)
        gateway.popen.kill()
        gateway.popen.wait()
    gateway = start_gateway()
    unwritten = 0 if is_written else served
    more, refused = await spend(gateway, 429)
    error = refused.json()["error"]
    assert error["code"] == "budget_spent"
    assert error["limited"]["limit"] == "tokens_per_day"
    assert error["limited"]["left"] < error["limited"]["asked"]
    tokens = 10 * (served + more)
    assert LIMIT - 100 <= tokens <= LIMIT * 1.05 + 10 * unwritten
