"""Volumes as people make them, and their folders as control keeps them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from madang.cli.code import pack
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
    await until(yard, lambda: volume(yard).status.measured_at)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_bytes(bytes(500_000))  # as a job does that is over within a second
    job = {"kind": "job", "name": "train", "command": "true", "mounts": {"/data": "volume://data"}}
    await yard.apply(job)
    await yard.apply({**job, "cancel": True})
    await yard.until("job", "train", "cancelled")
    await until(yard, lambda: volume(yard).status.files)
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


async def test_a_new_job_needs_the_code_that_it_names_to_be_there(yard: Yard) -> None:
    found = pack(Path(__file__).parent)
    job = {"kind": "job", "name": "train", "command": "true", "code": found.digest}
    refused = await yard.apply(job, status=400)
    assert refused["error"]["code"] == "job.no-code"
    assert (await yard.apply(job, dry_run=True))["changes"], "it is sent once that is wanted"
    assert not (await yard.post("code", {"digest": found.digest}))["known"]
    assert (await yard.post("code", {"digest": found.digest, "packed": found.text}))["known"]
    assert (await yard.post("code", {"digest": found.digest}))["known"]
    await yard.apply(job)
    hostile = {"digest": found.digest[:-1] + "x", "packed": "?"}
    assert (await yard.post("code", hostile, 400))["error"]["code"] == "api.value"


def model(yard: Yard) -> Any:
    return next(iter(yard.desk.world.list(CONTROL, "model").values()))


async def test_a_model_in_a_volume_is_read_once_no_job_works_there(yard: Yard) -> None:
    job = {"kind": "job", "name": "train", "command": "true", "mounts": {"/data": "volume://data"}}
    source = {"kind": "model", "name": "tiny", "source": "volume://data/out/tiny.json"}
    await yard.apply(DATA, job, source, {"kind": "service", "name": "bot", "model": "tiny"})
    await until(yard, lambda: model(yard).status.blocked_by == "job/train")
    folder = yard.home.volumes / volume(yard).uid / "out"
    folder.mkdir(parents=True)
    (folder / "tiny.json").write_text(json.dumps({"fake": 1}))
    told = (await yard.get("service/bot/explanation"))["because"]
    assert not model(yard).status.versions, told
    await yard.apply({**job, "cancel": True})
    await until(yard, lambda: model(yard).status.versions)
    assert model(yard).status.reason is None
    (folder / "tiny.json").write_text("something else by now")
    await yard.until("service", "bot", "ready")
    await yard.apply(DATA, source)
    assert len(model(yard).status.versions) == 1


async def test_why_a_model_in_a_volume_can_not_be_read_is_told(yard: Yard) -> None:
    await yard.apply({"kind": "model", "name": "tiny", "source": "volume://data/tiny.json"})
    await until(yard, lambda: model(yard).status.reason)
    assert model(yard).status.reason.code == "model.no-volume"
    await yard.apply(DATA)
    await until(yard, lambda: model(yard).status.reason.code == "model.source-unreadable")
    wrong = {"kind": "model", "name": "tiny", "source": "volume://data/../tiny.json"}
    refused = await yard.apply(wrong, status=400)
    assert refused["error"]["values"]["because"] == "value.volume-path"


async def test_doctor_says_whether_jobs_run_in_sandboxes_and_what_to_install(yard: Yard) -> None:
    for encloses, code in ((False, "doctor.no-sandbox"), (True, "doctor.sandbox")):
        yard.desk.world.encloses = encloses
        found = [each["code"] for each in (await yard.get("doctor"))["items"]]
        assert {"doctor.sandbox", "doctor.no-sandbox"} & {*found} == {code}


def saved(folder: Path, step: int, job: str) -> None:
    """Write a checkpoint as a job has left it."""
    path = folder / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "state").write_text(str(step))
    said = {"sha256": hashlib.sha256(str(step).encode()).hexdigest(), "bytes": len(str(step))}
    body = {"form": 1, "job": job, "epoch": 3, "step": step, "files": {"state": said}}
    (path / "manifest.json").write_text(json.dumps(body))


async def test_a_job_goes_on_from_what_another_has_saved_in_the_volume(yard: Yard) -> None:
    yard.desk.world.encloses = True
    await yard.apply({**DATA, "size": "1GB"})
    folder = yard.home.volumes / volume(yard).uid
    saved(folder / "run", 4, "job-long-gone")
    await yard.apply({
        "kind": "job", "name": "train", "command": "true", "mounts": {"/data": "volume://data"},
        "resume": {"from": "/data/run"},
    })  # fmt: skip

    def first() -> Any:
        attempts = yard.desk.world.list(CONTROL, "attempt").values()
        return next((each.spec for each in attempts if each.spec.resume_from), None)

    await until(yard, first)
    spec = first()
    assert (spec.resume_from, spec.first_step, spec.resume_job) == (
        "step-000004", 4, "job-long-gone",
    )  # fmt: skip
    (job,) = yard.desk.world.list(CONTROL, "job").values()
    (kept,) = job.status.checkpoints
    assert (kept.step, kept.attempt, kept.job) == (4, 3, "job-long-gone")
    told = await yard.desk.world.store.events(CONTROL)
    assert "checkpoint.adopted" in {event.code for event in told}
    answer = await yard.client.delete("/api/v1/job/train")
    assert answer.status_code == 200
    await until(yard, lambda: not yard.desk.world.list(CONTROL, "job"))
    assert (folder / "run" / "step-000004" / "state").exists()


async def test_a_project_that_demands_a_private_network_has_no_gang_over_nodes(yard: Yard) -> None:
    project = {"kind": "project", "name": "local/main", "isolation": "private-network"}
    await yard.apply(project)
    job = {"kind": "job", "name": "train", "command": "true"}
    refused = await yard.apply({**job, "nodes": 2}, status=400)
    assert refused["error"]["code"] == "job.demands-private-network"
    assert "nodes: 1" in refused["error"]["hint"]
    await yard.apply(job)

    def train() -> Any:
        return next(iter(yard.desk.world.list(CONTROL, "job").values()))

    await until(yard, lambda: train().status.reason)
    assert train().status.reason.code == "job.demands-sandbox", "which may still be installed"


async def test_no_volume_shows_what_is_madangs_own(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "home").symlink_to(yard.home.path)
    own = (yard.home.path, yard.home.volumes, yard.home.path / "..", tmp_path / "there" / "home")
    for path in (*own, Path("/")):
        refused = await yard.apply({**DATA, "path": str(path)}, status=400)
        assert refused["error"]["code"] == "volume.shows-home", path
    beside = Path("/usr/share")
    await yard.apply({**DATA, "path": str(beside), "read_only": True})
