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
    async with asyncio.timeout(20):
        while Ref(LAB, "bot") not in town.yard.desk.world.list(CONTROL, "endpoint"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # what is awaited is the loop's doing
    directory = Directory(town.yard.desk.gateways.table())
    return {key.name: may_call(directory, key) for key in directory.table.keys.values()}


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
