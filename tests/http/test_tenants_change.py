"""What is left of rights that change: of keys, users and places that go while something is done."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from madang.api import upkeep
from madang.control.authority import allow_change
from madang.errors import Forbidden, Unauthorized
from madang.resources.rights import CONTROL, RIGHTS, Principal, Role
from madang.testing.builders import job as a_job

from .test_tenants import BETA, LAB, ROOM, Ask, Caller, R, Town, town

__all__ = ["town"]


async def test_what_a_user_makes_falls_with_the_user(town: Town) -> None:
    """Or whoever is let go of would go on with a key that belongs to nobody."""
    kim = next(c for c in town.callers if c.name == "user's")
    made = await town.send(kim, Ask("POST", "/api/v1/key", body={"name": "spare", "project": LAB}))
    assert made.json()["resource"]["spec"]["user"] == "acme/kim"
    spare = Caller("spare", made.json()["key"])
    look = Ask("GET", "/api/v1/service/bot")
    assert (await town.send(spare, look)).status_code == 200
    await town.yard.apply({"kind": "user", "name": "acme/kim", "roles": {}})
    assert (await town.send(spare, look)).status_code == 401


async def test_a_users_keys_are_worth_what_the_user_holds_now(town: Town) -> None:
    member = next(c for c in town.callers if c.name == "user's")
    look = Ask("GET", "/api/v1/service/bot", R.READ, LAB)
    assert (await town.send(member, look)).status_code == 200
    await town.yard.apply({"kind": "user", "name": "acme/kim", "roles": {ROOM: "member"}})
    assert (await town.send(member, look)).status_code == 401, "nothing is left of it"
    assert (await town.yard.client.delete("/api/v1/user/acme/kim")).status_code == 409
    table = town.yard.desk.gateways.table()
    assert "user" not in {key.name for key in table.keys.values()}


async def test_no_key_outlives_the_one_that_makes_it(town: Town) -> None:
    hour = {"name": "hour", "project": LAB, "expires_s": 3600}
    guest = Caller("guest", (await town.yard.post("key", hour))["key"])
    for expires_s, status in ((None, 403), (7200, 403), (60, 200)):
        body = {"name": "next", "project": LAB, "expires_s": expires_s}
        made = await town.send(guest, Ask("POST", "/api/v1/key", body=body))
        assert made.status_code == status, made.text


async def test_no_place_goes_while_rights_in_it_are_held_elsewhere(town: Town) -> None:
    """Else the next place of that name would be open to the keys and users of the former."""
    await town.yard.apply(
        {"kind": "project", "name": "acme/pop"}, {"kind": "project", "name": "acme/pub"}
    )
    beyond = {"name": "beyond", "project": BETA, "role": "viewer", "where": "acme/pop"}
    await town.yard.post("key", beyond)
    await town.yard.apply({"kind": "user", "name": "acme/lee", "roles": {"acme/pub": "member"}})
    boss = next(c for c in town.callers if c.name == "organization's operator")
    refused = await town.send(boss, Ask("DELETE", "/api/v1/project/acme/pop"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (
        409,
        "resource.held-elsewhere",
    )
    assert "beyond" not in refused.text
    refused = await town.send(boss, Ask("DELETE", "/api/v1/project/acme/pub"))
    assert refused.json()["error"]["values"]["by"] == "user/lee"
    await town.yard.client.delete("/api/v1/key/beyond", params={"project": BETA})
    assert (await town.send(boss, Ask("DELETE", "/api/v1/project/acme/pop"))).is_success


async def test_who_uses_a_thing_elsewhere_is_not_named(town: Town) -> None:
    await town.yard.apply({"kind": "user", "name": "acme/moon", "roles": {BETA: "viewer"}})
    theirs = {"name": "secret-plan", "project": BETA, "role": "viewer", "user": "acme/moon"}
    await town.yard.post("key", theirs)
    await town.yard.apply({"kind": "user", "name": "acme/moon", "roles": {}}, status=200)
    boss = next(c for c in town.callers if c.name == "organization's operator")
    refused = await town.send(boss, Ask("DELETE", "/api/v1/user/acme/moon"))
    assert refused.json()["error"]["code"] == "resource.held-elsewhere"
    assert "secret-plan" not in refused.text


async def test_a_key_is_not_made_for_a_user_who_goes_at_that_moment(town: Town) -> None:
    """Both look first and write then: one of them must see what the other did."""
    await town.yard.apply({"kind": "user", "name": "acme/moon", "roles": {LAB: "viewer"}})
    body = {"name": "late", "project": LAB, "role": "viewer", "user": "acme/moon"}
    made, gone = await asyncio.gather(
        town.yard.client.post("/api/v1/key", json=body),
        town.yard.client.delete("/api/v1/user/acme/moon"),
    )
    assert {made.status_code, gone.status_code} in ({200, 409}, {404, 200}), (made.text, gone.text)


class Slow:
    """An import that lasts until it is told to end."""

    def __init__(self, intake: Any) -> None:
        self.load, self.began, self.go_on = intake.load, threading.Event(), threading.Event()
        intake.load = self

    def __call__(self, source: str, progress: Any) -> Any:
        self.began.set()
        assert self.go_on.wait(20)
        return self.load(source, progress)


@pytest.mark.parametrize("path", ["apply", "model"])
async def test_what_was_begun_with_a_key_that_is_revoked_meanwhile_is_not_written(
    town: Town, path: str
) -> None:
    boss = next(c for c in town.callers if c.name == "site operator")
    source = town.yard.home.path / "late.json"
    source.write_text(json.dumps({"fake": 1, "text": "late"}))
    document = {"name": "late", "source": str(source), "project": LAB}
    body = document if path == "model" else {"documents": [{"kind": "model", **document}]}
    slow = Slow(town.yard.desk.intake)
    asked = asyncio.create_task(town.send(boss, Ask("POST", f"/api/v1/{path}", body=body)))
    await asyncio.to_thread(slow.began.wait, 20)
    gone = await town.yard.client.delete("/api/v1/key/site-operator", params={"project": LAB})
    assert gone.is_success
    slow.go_on.set()
    answer = await asked
    assert '"key.unknown"' in answer.text
    late = await town.yard.client.get("/api/v1/model/late", params={"project": LAB})
    assert late.status_code == 404


async def test_a_model_is_not_kept_for_a_project_that_went_while_it_was_read(town: Town) -> None:
    await town.yard.apply({"kind": "project", "name": "acme/pop"})
    slow = Slow(town.yard.desk.intake)
    source = str(town.yard.home.path / "tiny.json")
    body = {"name": "late", "source": source, "project": "acme/pop"}
    asked = asyncio.create_task(town.yard.client.post("/api/v1/model", json=body))
    await asyncio.to_thread(slow.began.wait, 20)
    assert (await town.yard.client.delete("/api/v1/project/acme/pop")).is_success
    slow.go_on.set()
    assert '"project.missing"' in (await asked).text
    assert not [r for r in town.yard.desk.world.list(CONTROL, "model") if r.project == "acme/pop"]


async def test_a_backup_stops_when_its_key_is_revoked(town: Town) -> None:
    """A copy of everything is not finished for somebody who may no longer have it."""
    desk = town.yard.desk
    boss = next(c for c in town.callers if c.name == "site operator")
    who = desk.keys.find(boss.secret)
    assert who
    answer = await upkeep.take_backup(who, desk)
    pieces = aiter(answer.body_iterator)
    assert await anext(pieces)
    await town.yard.client.delete("/api/v1/key/site-operator", params={"project": LAB})
    with pytest.raises(Unauthorized):
        await anext(pieces)


async def test_who_waits_is_sent_away_when_the_key_is_revoked(town: Town) -> None:
    member = next(c for c in town.callers if c.name == "member")
    newest = str(town.yard.desk.world.revision)
    waits = [
        Ask("GET", "/api/v1/changes", params={"after": newest, "wait_s": "30", "kind": "site"}),
        Ask("GET", "/api/v1/event", params={"after": "1000000", "wait_s": "30"}),
    ]
    waiting = [asyncio.create_task(town.send(member, ask)) for ask in waits]
    await asyncio.sleep(0)
    gone = await town.yard.client.delete("/api/v1/key/member", params={"project": LAB})
    assert gone.is_success
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [401, 401]


def test_only_operators_of_the_site_let_a_job_count_for_more_than_others() -> None:
    member = Principal(actor="key/m", role=Role.MEMBER, where=LAB, rights=RIGHTS[Role.MEMBER])
    boss = Principal(actor="key/b", role=Role.OPERATOR, where=LAB)
    site = Principal(actor="key/s", role=Role.OPERATOR)
    high, normal = a_job(project=LAB, priority="high"), a_job(project=LAB)
    for who in (member, boss):
        with pytest.raises(Forbidden) as refused:
            allow_change(who, normal, high)
        assert refused.value.code == "job.high-needs-operator"
        allow_change(who, high, high.model_copy(update={"generation": 2}))
        allow_change(who, high, normal)
    allow_change(site, None, high)
