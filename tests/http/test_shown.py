"""A service that is shown to others is called by them, and is nothing else to them."""

from __future__ import annotations

import asyncio

import pytest

from madang.resources.resource import Ref
from madang.resources.rights import CONTROL
from madang.traffic.admission import Directory
from madang.traffic.refusal import Refusal
from madang.traffic.table import Endpoint, Key

from .test_tenants import BETA, BOT, LAB, ROOM, Ask, Town, town

__all__ = ["town"]


async def called(town: Town, shown: list[str]) -> dict[str, bool]:
    """Show the service to these, and return who may call it."""
    await town.yard.apply({**BOT, "visible_to": shown})
    world = town.yard.desk.world
    there = {place for place in (*shown, "") if place in THERE}
    async with asyncio.timeout(20):
        while Ref(LAB, "bot") not in world.list(CONTROL, "endpoint") or there - meant(town):
            await world.moved(world.tick, 0.1)
    directory = Directory(town.yard.desk.gateways.table())
    return {key.name: may_call(directory, key) for key in directory.table.keys.values()}


THERE = {LAB, ROOM, BETA, "acme", "beta"}


def meant(town: Town) -> set[str]:
    """Return for which names it is written down whom they mean."""
    return {*town.yard.desk.world.list(CONTROL, "service")[Ref(LAB, "bot")].status.shown_to}


def may_call(directory: Directory, key: Key) -> bool:
    found = directory.resolve(key, f"{LAB}/bot", "chat")
    if not isinstance(found, Refusal):
        return True
    assert found.code in {"model_not_found", "role_too_low", "model_not_ready"}
    listed = isinstance(directory.find(key, f"{LAB}/bot"), Endpoint)
    assert listed == (found.code == "model_not_ready") or found.code == "role_too_low"
    return found.code == "model_not_ready"


OWN = {
    "site-operator", "organization-operator", "operator", "member", "calling-member", "user",
}  # fmt: skip
NEIGHBOURS = {"other-project-member", "other-project-operator"}
ELSEWHERE = {"other-organization-member", "other-organization-operator"}


@pytest.mark.parametrize(
    ("shown", "others"),
    [
        ([], set()),
        ([ROOM], NEIGHBOURS),
        ([BETA], ELSEWHERE),
        (["beta"], ELSEWHERE),
        (["acme", "beta"], NEIGHBOURS | ELSEWHERE),
        (["site"], NEIGHBOURS | ELSEWHERE),
        (["bet", "acme/roo", "gamma/lab"], set()),
    ],
    ids=["nobody", "project", "far", "organization", "two", "site", "others"],
)
async def test_who_is_named_may_call_and_nobody_else(
    town: Town, shown: list[str], others: set[str]
) -> None:
    found = await called(town, shown)
    strangers = NEIGHBOURS | ELSEWHERE
    assert {name for name in strangers if found.get(name)} == others
    assert all(found[name] for name in OWN if name in found)


async def test_who_may_call_a_service_sees_nothing_more_of_it(town: Town) -> None:
    await called(town, ["site"])
    for who in town.callers:
        if who.where and not LAB.startswith(who.where):
            for path in ("service/bot", "endpoint/bot", "replica/bot-1-1"):
                answer = await town.send(who, Ask("GET", f"/api/v1/{path}?project={LAB}"))
                assert answer.status_code == 404, (who.name, path)


async def test_what_is_shown_no_more_is_called_no_more(town: Town) -> None:
    assert (await called(town, ["beta"]))["other-organization-member"]
    assert not (await called(town, []))["other-organization-member"]


async def test_a_project_that_is_made_anew_by_that_name_is_another_one(town: Town) -> None:
    """Nobody has shown it anything, until it is named anew."""
    yard, world = town.yard, town.yard.desk.world
    assert (await called(town, [ROOM]))["other-project-member"]
    for ref in [ref for ref in world.list(CONTROL, "key") if ref.project == ROOM]:
        answer = await yard.client.delete(f"/api/v1/key/{ref.name}", params={"project": ROOM})
        assert answer.is_success, answer.text
    answer = await yard.client.delete("/api/v1/project/room", params={"project": ROOM})
    assert answer.is_success, answer.text
    await yard.apply({"kind": "project", "name": ROOM})
    await yard.post("key", {"name": "newcomer", "role": "member", "project": ROOM})
    assert not (await called(town, [ROOM]))["newcomer"]
    await called(town, [])
    async with asyncio.timeout(20):
        while meant(town):
            await world.moved(world.tick, 0.1)
    assert (await called(town, [ROOM]))["newcomer"]


async def test_showing_a_service_makes_no_new_revision_of_it(town: Town) -> None:
    """Or all its replicas would be started anew."""
    await called(town, [])
    before = town.yard.desk.world.list(CONTROL, "service")[Ref(LAB, "bot")].status
    await called(town, ["beta"])
    after = town.yard.desk.world.list(CONTROL, "service")[Ref(LAB, "bot")].status
    assert (after.revision, after.revisions) == (before.revision, before.revisions)


@pytest.mark.parametrize("shown", [["a/b/c"], ["A b"], [""], "acme", ["x"] * 101])
async def test_what_is_no_place_is_refused(town: Town, shown: object) -> None:
    answer = await town.yard.apply({**BOT, "visible_to": shown}, status=400)
    assert "visible_to" in str(answer)
