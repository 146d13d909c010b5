"""What gateways are told of a service: what it lacks, who may call it, whose prompts it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from madang.app.plugs import engine_token
from madang.clocks import SystemClock
from madang.control.gateways import Gateways
from madang.control.world import World
from madang.resources.endpoint import Endpoint, EndpointSpec
from madang.resources.model import Model, ModelSpec, ModelStatus, ModelVersion
from madang.resources.replica import Replica, ReplicaPhase, ReplicaSpec, ReplicaStatus
from madang.resources.resource import AnyResource
from madang.resources.revision import Revision, RevisionSpec, RevisionStatus
from madang.resources.rights import CONTROL, Role
from madang.resources.service import Needs, Service, ServiceSpec, ServiceStatus
from madang.resources.tenancy import (
    Empty,
    Key,
    KeySpec,
    Organization,
    Project,
    ProjectSpec,
    ProjectStatus,
    TitleSpec,
)  # fmt: skip
from madang.testing.builders import FAKE
from madang.testing.memory import MemoryStore, Shelf
from madang.traffic import table as traffic
from madang.traffic.table import CACHES, SKILLS

PROJECT = "acme/lab"
MEANT = {"beta": "org-beta", "acme/x": "project-x", "acme/y": "an earlier one"}
"""To whom the service was shown when its file was read."""
THERE: list[AnyResource] = [
    Organization(project="beta", name="beta", uid="org-beta", spec=TitleSpec(), status=Empty()),
    *(
        Project(
            project=f"acme/{name}", name=name, uid=f"project-{name}", spec=ProjectSpec(),
            status=ProjectStatus(),
        )
        for name in ("x", "y", "z")
    ),
]  # fmt: skip
ABLE = replace(FAKE, name="able", features=FAKE.features | SKILLS)


SALTED = replace(FAKE, name="salted", features=FAKE.features | {"cache-salt"})
UNSALTED = replace(FAKE, name="unsalted", features=FAKE.features - CACHES | {"cache-off"})
LEAKY = replace(FAKE, name="leaky", features=FAKE.features - CACHES)
ENGINES = {each.name: each for each in (ABLE, FAKE, SALTED, UNSALTED, LEAKY)}


async def told(
    takes: tuple[str, ...] | None, *recipes: str, shown: tuple[str, ...] = ()
) -> traffic.Endpoint:
    """Return what gateways are told of a service that has a replica of each recipe."""
    world = World(MemoryStore(Shelf()), ENGINES, SystemClock())
    await world.open()
    version = ModelVersion(
        number=1, digest="sha256:1", source="x", size_bytes=1, format="fake", template_takes=takes
    )
    made: list[AnyResource] = [
        *THERE,
        Service(
            project=PROJECT, name="bot", uid="s", status=ServiceStatus(shown_to=MEANT),
            spec=ServiceSpec(model="tiny", visible_to=shown),
        ),
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
    return endpoint


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
    assert (await told(takes, *recipes)).lacks == lacks


async def test_a_gateway_is_told_how_much_each_replica_can_keep_of_prompts():
    assert {each.kv_tokens for each in (await told(None, "able", "fake")).targets} == {4096}


@pytest.mark.parametrize(
    ("recipes", "shown", "cache"),
    [
        (("salted",), (), {"cache-salt"}),
        (("salted",), ("beta",), {"cache-salt"}),
        (("unsalted",), (), frozenset()),
        (("unsalted",), ("beta",), {"cache-off"}),
        (("salted", "unsalted"), (), {"cache-salt"}),
        (("salted", "unsalted"), ("beta", "acme/x"), CACHES),
        ((), ("beta",), frozenset()),
    ],
)
async def test_prompts_of_projects_are_kept_apart(recipes, shown, cache):
    endpoint = await told(None, *recipes, shown=shown)
    assert endpoint.cache == cache
    assert endpoint.visible_to == set(shown)


async def test_who_has_the_name_of_one_that_is_gone_is_not_shown_what_that_one_was():
    shown = ("acme/y", "acme/z", "acme/gone", "beta", "site")
    endpoint = await told(None, "salted", shown=shown)
    assert endpoint.visible_to == {"beta", "site"}


async def test_a_service_whose_engine_cannot_keep_prompts_apart_is_shown_to_nobody_else():
    for recipes in (("leaky",), ("salted", "leaky")):
        assert (await told(None, *recipes, shown=("beta",))).visible_to == frozenset()


async def test_a_salt_is_the_projects_own_and_tells_nobody_its_name():
    world = World(MemoryStore(Shelf()), {}, SystemClock())
    await world.open()
    keys = [
        Key(
            project=place, name=name, uid=f"{place}-{name}", status=Empty(),
            spec=KeySpec(role=Role.MEMBER, digest=f"{place}-{name}", home=place, where=place),
        )
        for place, name in ((PROJECT, "a"), (PROJECT, "b"), ("beta/x", "a"))
    ]  # fmt: skip
    await world.commit(CONTROL, keys)
    asked = list[str]()

    def token(uid: str, epoch: int) -> str:
        asked.append(uid)
        return engine_token(b"secret of the site", uid, epoch)

    known = Gateways(world, token).table().keys
    salts = {name: key.salt for name, key in known.items()}
    assert salts["acme/lab-a"] == salts["acme/lab-b"] != salts["beta/x-a"]
    assert all(len(salt) == 64 and "acme" not in salt for salt in salts.values())
    assert set(asked) == {"cache-salt/acme/lab", "cache-salt/beta/x"}
