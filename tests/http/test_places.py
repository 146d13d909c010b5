"""Sites and pools: made with a home, and from then on what operators of the site say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from madang.clocks import SystemRandom
from madang.control.first import Hardware, prepare
from madang.resources.place import Grade, Pool, PoolStatus
from madang.resources.resource import Ref
from madang.resources.rights import SETUP
from madang.settings import Home
from madang.testing.control import CPU, NODE

from .conftest import Yard, opened

SITE = {"kind": "site", "name": "local"}
POOL = {"kind": "pool", "name": "default", "site": "local"}
SECRET = {"kind": "service", "name": "bot", "model": "tiny", "grade": "S"}


async def spec(yard: Yard, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (await yard.get(f"{kind}/{name}"))["spec"]
    return found


async def start_again(yard: Yard, **of: Any) -> None:
    """Do what every start does before anything else."""
    hardware = [Hardware(NODE, [CPU], **of)]
    await prepare(yard.desk.world, hardware, yard.home.admin_key, SystemRandom())


async def test_a_site_that_rises_lets_start_what_waited_for_its_grade(yard: Yard) -> None:
    await yard.add_model()
    (waits,) = (await yard.apply(SECRET))["follows"]
    assert (waits["verb"], waits["reason"]["values"]["fell_grade"]) == ("replica.waiting", 1)
    told = await yard.apply({**SITE, "grade": "S", "title": "본관"})
    assert told["changes"][0]["fields"] == ["title: - -> 본관", "grade: O -> S"]
    assert [f["verb"] for f in told["follows"]] == ["replica.started"]
    await yard.until("service", "bot", "ready")
    codes = [(e["code"], e["actor"]) for e in (await yard.get("event", limit=1000))["items"]]
    assert ("site.updated", "key/admin") in codes


async def test_a_place_does_not_fall_below_the_data_that_is_worked_on_there(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply({**SITE, "grade": "C"}, SECRET)
    await yard.until("service", "bot", "ready")
    assert (await yard.apply({**SITE, "grade": "S"}))["changes"][0]["what"] == "update"
    refused = await yard.apply(SITE, status=409)
    assert (refused["error"]["code"], refused["error"]["subject"]) == (
        "place.holds-higher", "site/local"
    )  # fmt: skip
    assert "replica/bot-1-1" in refused["error"]["values"]["by"]
    moved = {**POOL, "site": "open"}
    refused = await yard.apply({**SITE, "name": "open"}, moved, status=409)
    assert refused["error"]["subject"] == "pool/default"
    await yard.apply({**SITE, "name": "closed", "grade": "S"}, {**moved, "site": "closed"})
    await yard.client.delete("/api/v1/service/bot")
    await yard.until_gone("service", "bot")
    await yard.apply({**SITE, "name": "closed"})


async def test_a_pool_needs_its_site_and_a_place_that_is_used_stays(yard: Yard) -> None:
    refused = await yard.apply({**POOL, "name": "p", "site": "none"}, status=404)
    assert refused["error"]["code"] == "site.missing"
    await yard.apply({**POOL, "name": "p", "site": "new"}, {**SITE, "name": "new"})
    for place, status in (
        ("site/new", 409), ("pool/default", 409), ("site/local", 409),
        ("pool/p", 200), ("site/new", 200),
    ):  # fmt: skip
        answer = await yard.client.delete(f"/api/v1/{place}")
        assert answer.status_code == status, (place, answer.text)


async def test_a_pool_tells_what_it_draws_now_and_stores_none_of_it(yard: Yard) -> None:
    await yard.add_model()
    watts = {"cpu": {"idle": 50, "full": 200}}
    await yard.apply({**POOL, "power_kw_max": 0.5, "watts": watts})
    status = (await yard.get("pool/default"))["status"]
    assert (status["power_kw"], status["no_watts"]) == (0.05, [])
    await yard.apply({"kind": "service", "name": "bot", "model": "tiny"})
    await yard.until("service", "bot", "ready")
    assert [p["status"]["power_kw"] for p in (await yard.get("pool"))["items"]] == [0.2]
    assert (await yard.get("status"))["pools"] == [
        {"name": "default", "site": "local", "power_kw_max": 0.5, "power_kw": 0.2, "no_watts": [],
         "run_s": 0.0, "faults": 0, "price_krw_per_hour": {}, "reclaim": None,
         "watts": {"cpu": {"idle": 50.0, "full": 200.0}}},
    ]  # fmt: skip
    (changed,) = (await yard.get("changes", after=0, kind="pool"))["items"]
    assert changed["resource"]["status"]["power_kw"] == 0.2
    stored = yard.desk.world.get(SETUP, Pool, Ref("", "default"))
    assert stored is not None
    assert stored.status == PoolStatus()


async def test_a_place_lies_in_no_project(yard: Yard) -> None:
    refused = await yard.apply({**SITE, "project": "local/main"}, status=400)
    assert refused["error"]["code"] == "manifest.unknown-key"


async def test_a_start_leaves_places_as_operators_want_them(yard: Yard) -> None:
    await yard.apply({**SITE, "title": "본관", "grade": "S"})
    await start_again(yard, grade=Grade.CLASSIFIED)
    assert await spec(yard, "site", "local") == {"title": "본관", "grade": "S"}
    await yard.apply({**SITE, "name": "other"}, {**POOL, "site": "other"})
    assert (await yard.client.delete("/api/v1/site/local")).is_success
    revision = yard.desk.world.revision
    await start_again(yard, grade=Grade.CLASSIFIED)
    assert yard.desk.world.revision == revision, "the pool has moved: its first site stays away"
    assert (await spec(yard, "pool", "default"))["site"] == "other"


async def test_a_new_site_has_the_grade_that_its_hardware_says(yard: Yard) -> None:
    away = Hardware("m", [CPU], site="far", pool="away", grade=Grade.SENSITIVE)
    await prepare(yard.desk.world, [away], yard.home.admin_key, SystemRandom())
    assert (await spec(yard, "site", "far"))["grade"] == "S"


async def test_places_are_declared_and_can_be_declared_again_elsewhere(
    yard: Yard, tmp_path: Path
) -> None:
    await yard.apply({**SITE, "grade": "S"}, {**SITE, "name": "새-거점", "title": "새 거점"},
                     {**POOL, "name": "p", "site": "새-거점"})  # fmt: skip
    items = [i for i in (await yard.get("declared"))["items"] if i["kind"] in {"site", "pool"}]
    documents = [i["document"] for i in items]
    assert {"kind": "site", "name": "새-거점", "title": "새 거점"} in documents
    assert {i["project"] for i in items} == {""}
    async with opened(Home(tmp_path / "elsewhere")) as other:
        await other.apply(*documents)
        told = await other.apply(*documents)
        assert {c["what"] for c in told["changes"]} == {"unchanged"}
        assert await spec(other, "site", "local") == {"title": "", "grade": "S"}


async def test_a_dry_run_says_what_would_wait_for_what_and_what_would_help(yard: Yard) -> None:
    bot = {"kind": "service", "name": "bot", "model": "tiny"}
    (pending,) = (await yard.apply(bot, dry_run=True))["follows"]
    assert (pending["verb"], pending["reason"]["code"]) == ("service.status", "model.missing")
    assert pending["smallest_fix"]["code"] == "model.fix-add"
    await yard.add_model()
    large = {**bot, "needs": {"memory": "100GB"}}
    (waits,) = (await yard.apply(large, dry_run=True))["follows"]
    assert (waits["verb"], waits["reason"]["code"]) == ("replica.waiting", "placement.nowhere")
    fix = waits["smallest_fix"]
    assert fix["code"] == "placement.fix-memory"
    smaller = {**bot, "needs": {"memory": fix["values"]["memory"]}}
    (starts,) = (await yard.apply(smaller, dry_run=True))["follows"]
    assert (starts["verb"], starts["smallest_fix"]) == ("replica.started", None)
