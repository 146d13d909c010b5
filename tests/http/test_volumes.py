"""Volumes as people make them, and their folders as control keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from madang.control.shelf import Shelf
from madang.registry.volumes import FileVolumes
from madang.resources.rights import CONTROL

from .conftest import DEADLINE_S, Yard

DATA = {"kind": "volume", "name": "data", "size": "1MB"}


async def until(yard: Yard, holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await yard.desk.world.moved(yard.desk.world.tick, 0.1)


def volume(yard: Yard) -> Any:
    return next(iter(yard.desk.world.list(CONTROL, "volume").values()), None)


async def test_how_full_a_volume_is_is_told_and_its_folder_goes_with_it(yard: Yard) -> None:
    await yard.apply(DATA)
    folder = yard.home.volumes / volume(yard).uid
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(bytes(500_000))
    await until(yard, lambda: volume(yard).status.measured_at)
    await Shelf(yard.desk.world, FileVolumes(yard.home.volumes)).look()
    told = (await yard.get("volume/data"))["status"]
    assert (told["used_bytes"] >= 500_000, told["files"]) == (True, 1)
    answer = await yard.client.delete("/api/v1/volume/data")
    assert answer.status_code == 200
    await until(yard, lambda: not folder.exists())


async def test_a_volume_stays_while_a_job_that_is_not_over_mounts_it(yard: Yard) -> None:
    job = {"kind": "job", "name": "train", "command": "true", "mounts": {"/data": "volume://data"}}
    await yard.apply(DATA, job)
    refused = await yard.client.delete("/api/v1/volume/data")
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "resource.in-use"
    await yard.apply({**job, "cancel": True})
    await yard.until("job", "train", "cancelled")
    assert (await yard.client.delete("/api/v1/volume/data")).status_code == 200
