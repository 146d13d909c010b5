"""What projects had and used of accelerators, told to who may see them; and what rests goes on."""

from __future__ import annotations

import httpx
import msgspec

from madang.resources.grant import Grant, GrantPhase
from madang.resources.idle import IdleWatch, MonthUse
from madang.resources.job import Job
from madang.resources.resource import Ref
from madang.resources.rights import CONTROL, GATEWAY
from madang.resources.service import Service
from madang.resources.tenancy import Project
from madang.traffic.table import Usage

from .conftest import Yard

HOUR = 3_600_000
"""Of one accelerator, in thousandths and seconds."""
OTHER = "acme/other"
PAST = (
    MonthUse(month=202603, accelerator="nvidia/h100", held=10 * HOUR, busy=6 * HOUR,
             idle=3 * HOUR, mkrw=35_000_000, idle_mkrw=10_500_000),
    MonthUse(month=202603, accelerator="nvidia/l4", held=2 * HOUR, busy=2 * HOUR),
    MonthUse(month=202604, accelerator="nvidia/h100", held=HOUR),
)  # fmt: skip


async def had(yard: Yard, project: str, *used: MonthUse) -> None:
    """Let a project have had that."""
    world = yard.desk.world
    found = world.get(CONTROL, Project, Ref(project, project.partition("/")[2]))
    assert found is not None
    await world.commit(CONTROL, [found.with_status(used=used)])


async def test_who_sees_a_project_is_told_what_it_had_by_month_and_kind(yard: Yard) -> None:
    await yard.apply({"kind": "organization", "name": "acme"}, {"kind": "project", "name": OTHER})
    await had(yard, "local/main", *PAST)
    await had(yard, OTHER, *PAST[2:])
    told = await yard.get("usage", month="2026-03")
    assert told["month"] == "2026-03"
    (mine,) = told["items"]
    assert (mine["project"], mine["held_h"], mine["used_h"], mine["idle_h"]) == (
        "local/main", 12.0, 8.0, 3.0,
    )  # fmt: skip
    assert (mine["unmeasured_h"], round(mine["used"], 4)) == (1.0, round(8 / 11, 4))
    assert (mine["krw"], mine["idle_krw"]) == (35_000, 10_500)
    assert [kind["accelerator"] for kind in mine["kinds"]] == ["nvidia/h100", "nvidia/l4"]
    both = await yard.get("usage", month="2026-04")
    assert [each["project"] for each in both["items"]] == [OTHER, "local/main"]
    assert [each["used"] for each in both["items"]] == [None, None], "nobody measured it"
    one = await yard.get("usage", month="2026-04", project=OTHER)
    assert [each["project"] for each in one["items"]] == [OTHER]
    assert (await yard.get("usage", month="2020-01"))["items"] == []
    assert (await yard.get("status"))["accelerators"]["items"] == []


async def test_a_member_is_told_of_its_own_project_alone(yard: Yard) -> None:
    await yard.apply({"kind": "organization", "name": "acme"}, {"kind": "project", "name": OTHER})
    await had(yard, "local/main", *PAST)
    await had(yard, OTHER, *PAST)
    made = await yard.post("key", {"name": "member", "role": "member", "project": "local/main"})
    headers = {"Authorization": f"Bearer {made['key']}"}
    transport = yard.client._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as me:
        month = {"month": "2026-03"}
        (seen,) = (await me.get("/api/v1/usage", params=month)).json()["items"]
        assert seen["project"] == "local/main"
        other = await me.get("/api/v1/usage", params={**month, "project": OTHER})
        assert other.status_code == 404


async def test_tokens_are_told_to_who_pays_by_day_model_and_key(yard: Yard) -> None:
    await yard.apply({"kind": "organization", "name": "acme"}, {"kind": "project", "name": OTHER})
    at = 1_772_290_800.0  # 2026-03-01 00:00 in Seoul
    record = Usage("r1", at, "app", "local/main", "hello", "u", 10, 4, 5, 200, 0.5,
                   key_uid="k1", payer="local/main", model="tiny@1", krw=0.25)  # fmt: skip
    replaced = msgspec.structs.replace
    await yard.desk.world.record_usage(GATEWAY, [
        record,
        replaced(record, id="r2", at=at - 0.5),
        replaced(record, id="r3", at=at + 86_400, estimated=True, model="big@2"),
        replaced(record, id="r4", payer=OTHER, key="theirs", key_uid="k2"),
    ])  # fmt: skip
    told = await yard.get("usage", month="2026-03")
    assert told["by"] == "model"
    assert [(t["project"], t["model"], t["requests"]) for t in told["tokens"]] == [
        (OTHER, "tiny@1", 1), ("local/main", "big@2", 1), ("local/main", "tiny@1", 1),
    ]  # fmt: skip
    days = (await yard.get("usage", month="2026-03", by="day", project="local/main"))["tokens"]
    assert [(d["day"], d["estimated"], d["krw"]) for d in days] == [
        ("2026-03-01", 0, 0.25), ("2026-03-02", 1, 0.25),
    ]  # fmt: skip
    made = await yard.post("key", {"name": "member", "role": "member", "project": "local/main"})
    headers = {"Authorization": f"Bearer {made['key']}"}
    transport = yard.client._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as me:
        seen = (await me.get("/api/v1/usage", params={"month": "2026-03", "by": "key"})).json()
    assert [(t["key"], t["key_uid"], t["requests"]) for t in seen["tokens"]] == [("app", "k1", 2)]
    assert "theirs" not in str(seen)
    assert (await yard.get("usage", 400, by="hour"))["error"]["code"] == "api.value"


async def test_status_names_what_stands_idle_to_who_may_see_it(yard: Yard) -> None:
    reclaim = {"below": 0.5, "over": "2d"}
    grant = {"kind": "grant", "accelerator": "cpu", "count": 2, "from": "2020-01-01",
             "until": "2999-01-01", "reclaim": reclaim}  # fmt: skip
    await yard.apply({**grant, "name": "burst"}, {**grant, "name": "used"})
    found = yard.desk.world.get(CONTROL, Grant, Ref("local/main", "burst"))
    assert found is not None
    watch = IdleWatch(below=0.5, idle_s=86_400 * 1.5, warned_s=86_400.0, peak_milli=900)
    await yard.desk.world.commit(
        CONTROL, [found.with_status(phase=GrantPhase.WARNED, watch=watch, count=2)]
    )
    (told,) = (await yard.get("status"))["idle"]
    assert (told["kind"], told["name"], told["reason"]["code"]) == (
        "grant", "burst", "grant.warned-idle",
    )  # fmt: skip
    values = told["reason"]["values"]
    assert (values["left"], values["used"], values["idle"]) == ("12h", 1, "1d12h")


async def test_what_is_no_month_is_refused(yard: Yard) -> None:
    for month in ("2026", "2026-13", "2026-00", "202611", "x", "２０２６-03"):
        assert (await yard.get("usage", 400, month=month))["error"]["code"] == "api.value"


async def test_a_job_that_rests_is_resumed_and_so_is_a_service(yard: Yard) -> None:
    world = yard.desk.world
    await yard.add_model()
    job = {"kind": "job", "name": "train", "command": "true", "suspend": True}
    await yard.apply(job, {"kind": "service", "name": "bot", "model": "tiny", "scale": 1})
    await yard.until("service", "bot", "ready")
    train = world.get(CONTROL, Job, Ref("local/main", "train"))
    assert train is not None
    await world.commit(CONTROL, [train.with_status(rests=True)])
    told = await yard.post("job/train/resume", {})
    assert (told["spec"]["suspend"], told["status"]["rests"]) == (False, False)
    again = await yard.post("job/train/resume", {})
    assert again["generation"] == told["generation"], "it goes on already"
    bot = world.get(CONTROL, Service, Ref("local/main", "bot"))
    assert bot is not None
    await world.commit(CONTROL, [bot.with_status(rested=1)])
    while (await yard.get("replica"))["items"]:
        await world.moved(world.tick, 0.1)
    explained = await yard.get("service/bot/explanation")
    assert explained["reason"]["code"] == "service.rests"
    assert (await yard.post("service/bot/resume", {}))["status"]["rested"] == 0
    while not (await yard.get("replica"))["items"]:
        await world.moved(world.tick, 0.1)
