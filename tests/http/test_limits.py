"""Limits on what may be asked of models, as people set them."""

from __future__ import annotations

import httpx
import msgspec

from madang.api.internal import build
from madang.months import day_number, month_of
from madang.resources.resource import Ref
from madang.resources.rights import CONTROL
from madang.resources.service import Service
from madang.resources.tariff import KindRates, Rates, Tariff
from madang.traffic.leases import Asked, Lent, Want
from madang.traffic.table import Price, Usage

from .conftest import Yard


async def test_limits_of_places_and_keys_are_in_the_table_that_gateways_serve(yard: Yard) -> None:
    serving = {"requests_per_minute": 60, "krw_per_month": 50_000}
    await yard.apply({"kind": "quota", "name": "local/main", "serving": serving})
    await yard.apply({"kind": "quota", "name": "local", "cores": 64})
    made = await yard.post("key", {"name": "app", "limits": {"tokens_per_day": 1000}})
    table = yard.desk.gateways.table()
    assert table.limits.keys() == {"local/main"}
    assert table.limits["local/main"].requests_per_minute == 60
    limits = {key.name: key.limits for key in table.keys.values()}
    assert limits["app"].tokens_per_day == 1000
    assert limits["admin"] is None
    assert made["resource"]["spec"]["limits"]["tokens_per_day"] == 1000
    await yard.apply({"kind": "quota", "name": "local/main", "serving": {}})
    assert not yard.desk.gateways.table().limits


async def test_nobody_makes_a_key_that_may_ask_for_more_than_their_own(yard: Yard) -> None:
    own = {"name": "own", "limits": {"requests_per_minute": 10, "concurrent": 2}}
    secret = (await yard.post("key", own))["key"]
    yard.client.headers["Authorization"] = f"Bearer {secret}"
    wide = {"name": "wide", "limits": {"requests_per_minute": 11}}
    refused = await yard.post("key", wide, status=403)
    assert refused["error"]["code"] == "key.limit-above-own"
    assert refused["error"]["values"] == {
        "subject": "key/wide", "limit": "requests_per_minute", "wanted": 11, "most": 10,
    }  # fmt: skip
    narrow = {"name": "narrow", "limits": {"requests_per_minute": 5}}
    limits = (await yard.post("key", narrow))["resource"]["spec"]["limits"]
    assert (limits["requests_per_minute"], limits["concurrent"]) == (5, 2)


async def test_a_limit_that_is_none_is_refused(yard: Yard) -> None:
    for odd in (-1, True, 1.5, "60", 10**13):
        quota = {"kind": "quota", "name": "local", "serving": {"concurrent": odd}}
        await yard.apply(quota, status=400)
        await yard.post("key", {"name": "odd", "limits": {"concurrent": odd}}, status=400)


async def test_control_lends_what_is_left_by_the_newest_limit_and_no_question_twice(
    yard: Yard,
) -> None:
    now = yard.desk.world.clock.now()
    want = Want("project/local/main", "tokens_per_day", day_number(now))
    record = Usage(
        id="req-b-1", at=now, key="admin", project="local/main", endpoint="e", replica="r",
        prompt_tokens=30, cached_tokens=0, output_tokens=10, status=200, duration_s=1.0,
    )  # fmt: skip
    transport = httpx.ASGITransport(app=build(yard.desk.world, yard.desk.gateways))
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as control:

        async def ask(number: int, *wants: Want) -> list[Lent]:
            asked = msgspec.json.encode(Asked("gateway", "b", number, wants))
            answer = await control.post("/internal/leases", content=asked)
            return msgspec.json.decode(answer.content, type=list[Lent])

        assert [each.lent for each in await ask(1, want)] == [0], "nobody has set a limit"
        serving = {"tokens_per_day": 1000, "krw_per_month": 5}
        await yard.apply({"kind": "quota", "name": "local/main", "serving": serving})
        assert [each.lent for each in await ask(2, want)] == [50]
        assert await ask(2, want) == []
        await control.post("/internal/usage", content=msgspec.json.encode([record, record]))
        (lent,) = await ask(3, msgspec.structs.replace(want, lent=50, left=10))
        assert (lent.lent, lent.beyond) == (50 + 38, 1000 - 40 - 48)
        money = Want("project/local/main", "krw_per_month", month_of(now).number)
        assert [each.lent for each in await ask(4, money)] == [250_000]
        told = (await yard.get("quota/local/main"))["status"]["used"]
        spent = {each["what"]: (each["used"], each["left"]) for each in told}
        assert spent["tokens_per_day"] == (40, 960)
        assert spent["krw_per_month"] == (0, 5)
        assert told[-1]["resets"] == month_of(now).day_after


async def test_the_price_of_a_service_is_what_gateways_charge_and_makes_no_revision(
    yard: Yard,
) -> None:
    await yard.add_model()
    bot = {"kind": "service", "name": "bot", "model": "tiny"}
    await yard.apply(bot)
    await yard.until("service", "bot", "ready")
    assert yard.desk.gateways.table().endpoints[0].price is None
    await yard.apply({**bot, "price": {"input": 300, "output": 1200}})
    (endpoint,) = yard.desk.gateways.table().endpoints
    assert endpoint.price == Price(input=300, cached=300, output=1200)
    await yard.apply({**bot, "price": {"input": 300, "cached": 0, "output": 1200}})
    assert yard.desk.gateways.table().endpoints[0].price.cached == 0
    assert (await yard.get("service/bot"))["status"]["revisions"] == 1
    for odd in ({"input": -1, "output": 1}, {"input": 1}, {"input": "1", "output": 1e99}):
        await yard.apply({**bot, "price": odd}, status=400)


async def test_without_a_price_in_the_file_tokens_cost_what_was_derived_for_the_day(
    yard: Yard,
) -> None:
    await yard.add_model()
    bot = {"kind": "service", "name": "bot", "model": "tiny"}
    await yard.apply(bot)
    await yard.until("service", "bot", "ready")
    world, rates = yard.desk.world, Rates(input=800, cached=200, output=3200)
    service = world.get(CONTROL, Service, Ref("local/main", "bot"))
    assert service is not None
    drawn = Rates(input=0.5, cached=0.125, output=2)
    kind = KindRates(
        pool="default", accelerator="cpu", hours=2, tokens=10, krw_per_hour=100, wh=drawn
    )
    tariff = Tariff(day=20_784, krw=rates, wh=drawn, kinds=(kind,))
    await world.commit(CONTROL, [service.with_status(tariff=tariff)])
    (endpoint,) = yard.desk.gateways.table().endpoints
    assert (endpoint.price, endpoint.wh) == (Price(800, 200, 3200), Price(0.5, 0.125, 2))
    (told,) = (await yard.get("usage"))["prices"]
    assert (told["is_derived"], told["since"]) == (True, "2026-11-27")
    assert (told["krw"]["output"], told["kinds"][0]["wh"]["input"]) == (3200, 0.5)
    found = (await yard.get("service/bot/explanation"))["findings"]
    assert [each["code"] for each in found] == [
        "price.derived", "price.of-kind", "price.wh-of-kind",
    ]  # fmt: skip
    await yard.apply({**bot, "price": {"input": 300, "output": 1200}})
    (endpoint,) = yard.desk.gateways.table().endpoints
    assert (endpoint.price, endpoint.wh) == (Price(300, 300, 1200), Price(0.5, 0.125, 2))
    (told,) = (await yard.get("usage"))["prices"]
    assert (told["is_derived"], told["since"], told["krw"]["input"]) == (False, "", 300)
