"""What a project's jobs have spent and lost, told to whoever may see the project."""

from __future__ import annotations

import asyncio

import httpx

from madang.control.world import World
from madang.resources.job import Job, JobPhase
from madang.resources.resource import Ref
from madang.resources.rights import CONTROL
from madang.resources.tenancy import Project

from .conftest import DEADLINE_S, Yard

HOUR_S = 3600.0
OTHER = "acme/other"


async def ended(world: World, project: str, hours: float, lost: float) -> None:
    """Let the job of a project be over that had so many hours of accelerators."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            job = world.get(CONTROL, Job, Ref(project, "train"))
            if job and job.status.phase is JobPhase.CANCELLED:
                break
            await world.moved(world.tick, 0.1)
    spent = {"accelerator_s": hours * HOUR_S, "lost_accelerator_s": lost * HOUR_S}
    await world.commit(CONTROL, [job.with_status(**spent)])


async def test_a_member_sees_the_hours_of_its_own_project_and_they_outlive_the_job(
    yard: Yard,
) -> None:
    world = yard.desk.world
    train = {"kind": "job", "name": "train", "command": "true", "cancel": True}
    await yard.apply(
        {"kind": "organization", "name": "acme"}, {"kind": "project", "name": OTHER},
        train, {**train, "project": OTHER},
    )  # fmt: skip
    await ended(world, "local/main", 10.0, 1.0)
    await ended(world, OTHER, 99.0, 33.0)
    made = await yard.post("key", {"name": "member", "role": "member", "project": "local/main"})
    headers = {"Authorization": f"Bearer {made['key']}"}
    transport = yard.client._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as me:
        (seen,) = (await me.get("/api/v1/project")).json()["items"]
    told = seen["status"]
    assert (seen["project"], told["accelerator_h"], told["lost_h"], told["goodput"]) == (
        "local/main", 10.0, 1.0, 0.9,
    )  # fmt: skip
    assert (await yard.client.delete("/api/v1/job/train")).is_success
    await yard.until_gone("job", "train")
    kept = world.get(CONTROL, Project, Ref("local/main", "main"))
    assert kept is not None
    assert (kept.status.run_s, kept.status.lost_s) == (10 * HOUR_S, HOUR_S)
    after = (await yard.get("project"))["items"]
    assert sorted(each["status"]["accelerator_h"] for each in after) == [10.0, 99.0]
