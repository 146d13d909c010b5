"""When a replica may be stopped: what control knows of the tables that gateways serve."""

from __future__ import annotations

import pytest

from madang.clocks import SystemClock
from madang.control.gateways import WEIGHT_MAX, Gateways
from madang.control.world import World
from madang.resources.endpoint import Endpoint, EndpointSpec
from madang.resources.grant import GrantPhase
from madang.resources.replica import Replica, ReplicaPhase, ReplicaSpec, ReplicaStatus
from madang.resources.resource import Ref
from madang.resources.rights import CONTROL, Role
from madang.resources.tenancy import Empty, Key, KeySpec
from madang.settings import GATEWAY_LEASE_S
from madang.testing import builders
from madang.testing.memory import MemoryStore, Shelf
from madang.traffic.table import Pull

PROJECT = "acme/lab"


class Clock(SystemClock):
    """A clock that is set by hand."""

    at_s = 0.0

    def monotonic(self) -> float:
        return self.at_s


class Control:
    """A world with one endpoint, and what control knows of its gateways."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.world = World(MemoryStore(Shelf()), {}, self.clock)

    async def open(self) -> Control:
        await self.world.open()
        spec = EndpointSpec(service="bot")
        endpoint = Endpoint(project=PROJECT, name="bot", uid="e", spec=spec, status=Empty())
        await self.world.commit(CONTROL, [endpoint])
        self.gateways = Gateways(self.world, lambda uid, _epoch: uid)
        self.clock.at_s = GATEWAY_LEASE_S + 1
        return self

    async def put(self, uid: str, phase: ReplicaPhase) -> None:
        known = self.world.get(CONTROL, Replica, Ref(PROJECT, uid))
        replica = known or Replica(
            project=PROJECT, name=uid, uid=uid,
            spec=ReplicaSpec(service="bot", revision="r"), status=ReplicaStatus(epoch=1),
        )  # fmt: skip
        await self.world.commit(CONTROL, [replica.with_status(phase=phase)])

    async def pull(self, gateway: str, serving: int) -> int:
        table = await self.gateways.pull(Pull(gateway, serving, {}, {}, 0.0))
        return table.version if table else serving


@pytest.fixture
async def control() -> Control:
    return await Control().open()


async def test_what_is_ready_may_be_asked_for_at_any_moment(control: Control) -> None:
    await control.put("a", ReplicaPhase.READY)
    assert control.gateways.routed() == {"a"}


async def test_a_replica_is_free_once_a_table_without_it_is_acknowledged(control: Control) -> None:
    await control.put("a", ReplicaPhase.READY)
    served = await control.pull("g", 0)
    await control.put("a", ReplicaPhase.DRAINING)
    newest = await control.pull("g", served)
    assert control.gateways.routed() == {"a"}, "it may still serve the table before"
    await control.pull("g", newest)
    assert control.gateways.routed() == frozenset()


async def test_a_table_that_was_sent_and_not_acknowledged_counts(control: Control) -> None:
    before = await control.pull("g", 0)
    await control.put("a", ReplicaPhase.READY)
    await control.pull("g", before)
    await control.put("a", ReplicaPhase.DRAINING)
    assert control.gateways.routed() == {"a"}


async def test_a_late_pull_frees_nothing_that_a_newer_table_names(control: Control) -> None:
    empty = await control.pull("g", 0)
    await control.put("a", ReplicaPhase.READY)
    await control.pull("g", await control.pull("g", empty))
    await control.put("a", ReplicaPhase.DRAINING)
    await control.pull("g", empty)
    assert control.gateways.routed() == {"a"}


async def test_a_new_control_waits_until_every_gateway_has_had_time_to_speak(
    control: Control,
) -> None:
    control.gateways = Gateways(control.world, lambda uid, _epoch: uid)
    await control.pull("quick", await control.pull("quick", 0))
    assert control.gateways.routed() is None, "another may still serve what an earlier one gave it"
    control.clock.at_s += GATEWAY_LEASE_S + 1
    assert control.gateways.routed() == frozenset()


async def test_a_table_is_made_once_for_as_long_as_nothing_in_it_changes() -> None:
    """Though there are kinds of which nothing is there: users, here."""
    control, asked = await Control().open(), list[str]()
    await control.put("a", ReplicaPhase.READY)
    gateways = Gateways(control.world, lambda uid, _epoch: asked.append(uid) or uid)  # type: ignore[func-returns-value]
    first = gateways.table()
    assert gateways.table() is first
    assert asked == ["a"]
    await control.put("b", ReplicaPhase.READY)
    gateways.table()
    assert asked == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("of_quota", "of_grant", "weighs"),
    [(1.0, 1.0, 1.0), (2.0, 1.5, 3.0), (100.0, 100.0, WEIGHT_MAX), (0.01, 0.01, 1 / WEIGHT_MAX)],
    ids=["nothing said", "both", "at most", "at least"],
)
async def test_a_key_weighs_what_its_project_does_by_quota_and_grants_within_bounds(
    control: Control, of_quota: float, of_grant: float, weighs: float
) -> None:
    spec = KeySpec(role=Role.MEMBER, digest="d", home=PROJECT, where=PROJECT)
    key = Key(project=PROJECT, name="app", uid="k", spec=spec, status=Empty())
    limits = builders.quota(weight=of_quota)
    given = builders.grant(weight=of_grant).with_status(phase=GrantPhase.ACTIVE, count=1)
    await control.world.commit(CONTROL, [key, limits, given])
    assert control.gateways.table().keys["d"].weight == weighs
