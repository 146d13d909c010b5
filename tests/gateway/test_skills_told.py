"""What gateways are told that replicas can't do: by their engine, and by their model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from madang.clocks import SystemClock
from madang.control.gateways import Gateways
from madang.control.world import World
from madang.resources.endpoint import Endpoint, EndpointSpec
from madang.resources.model import Model, ModelSpec, ModelStatus, ModelVersion
from madang.resources.replica import Replica, ReplicaPhase, ReplicaSpec, ReplicaStatus
from madang.resources.revision import Revision, RevisionSpec, RevisionStatus
from madang.resources.rights import CONTROL
from madang.resources.service import Needs
from madang.resources.tenancy import Empty
from madang.testing.builders import FAKE
from madang.testing.memory import MemoryStore, Shelf
from madang.traffic.table import SKILLS

PROJECT = "acme/lab"
ABLE = replace(FAKE, name="able", features=FAKE.features | SKILLS)


async def told(takes: tuple[str, ...] | None, *recipes: str) -> frozenset[str]:
    """Return what the endpoint of a service lacks that has a replica of each recipe."""
    world = World(MemoryStore(Shelf()), {"able": ABLE, "fake": FAKE}, SystemClock())
    await world.open()
    version = ModelVersion(
        number=1, digest="sha256:1", source="x", size_bytes=1, format="fake", template_takes=takes
    )
    made = [
        Endpoint(
            project=PROJECT, name="bot", uid="e", spec=EndpointSpec(service="bot"), status=Empty()
        ),
        Model(
            project=PROJECT, name="tiny", uid="m", spec=ModelSpec(source="x"),
            status=ModelStatus(versions=(version,)),
        ),
    ]  # fmt: skip
    for number, recipe in enumerate(recipes):
        spec = RevisionSpec(
            service="bot", number=number, model="tiny", model_version=1, digest="sha256:1",
            recipe=recipe, needs=Needs(), memory_bytes=1, context_tokens=4096, slots=4,
            gate=("smoke",),
        )  # fmt: skip
        name = f"bot-{number}"
        made += [
            Revision(project=PROJECT, name=name, uid=name, spec=spec, status=RevisionStatus()),
            Replica(
                project=PROJECT, name=f"{name}-1", uid=f"{name}-1",
                spec=ReplicaSpec(service="bot", revision=name),
                status=ReplicaStatus(epoch=1, phase=ReplicaPhase.READY),
            ),
        ]  # fmt: skip
    await world.commit(CONTROL, made)
    (endpoint,) = Gateways(world, lambda uid, _epoch: uid).table().endpoints
    return endpoint.lacks


@pytest.mark.parametrize(
    ("takes", "recipes", "lacks"),
    [
        (None, ("able",), frozenset()),
        (("reasoning", "tools"), ("able",), frozenset()),
        (("tools",), ("able",), {"reasoning"}),
        ((), ("able",), {"tools", "reasoning"}),
        (None, ("fake",), SKILLS),
        (None, ("able", "fake"), SKILLS),
        (None, (), frozenset()),
    ],
    ids=["unknown", "all", "no-reasoning", "plain", "engine", "one-of-two", "no-replica"],
)
async def test_a_request_may_come_to_any_replica_so_all_must_be_able(takes, recipes, lacks):
    assert await told(takes, *recipes) == lacks
