"""What jobs leave on the disk, and what of it counts as a checkpoint: only what is whole."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from madang.errors import Rejected
from madang.ports import Where
from madang.registry.saves import FileSaves
from madang.resources.attempt import Attempt, AttemptSpec, AttemptStatus
from madang.resources.job import Job, JobSpec, JobStatus

JOB = Job(
    project="acme/lab", name="train", uid="job-1", spec=JobSpec(command=("true",)),
    status=JobStatus(),
)  # fmt: skip


def attempt(number: int = 1) -> Attempt:
    spec = AttemptSpec(job="train", number=number, resume_from="", first_step=0)
    status = AttemptStatus(places=(), since=0.0, started_at=0.0, port=29_500)
    return Attempt(
        project="acme/lab", name=f"train-{number}", uid=f"attempt-{number}", spec=spec,
        status=status,
    )  # fmt: skip


@pytest.fixture
def saves(tmp_path: Path) -> FileSaves:
    made = FileSaves(tmp_path)
    made.make(JOB, attempt(), 0)
    return made


def put(saves: FileSaves, name: str = "step-10", **manifest: Any) -> Path:
    """Write a checkpoint as a rank does; what is given stands in its manifest instead."""
    folder = Path(saves.checkpoints(JOB)) / name
    folder.mkdir()
    weights = b"w" * 1000
    (folder / "weights").write_bytes(weights)
    said = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": 1000}
    body = {"form": 1, "job": "job-1", "epoch": 1, "step": 10, "files": {"weights": said}}
    (folder / "manifest.json").write_text(json.dumps(body | manifest))
    return folder


def refused(saves: FileSaves, name: str = "step-10", number: int = 1) -> str:
    with pytest.raises(Rejected) as error:
        saves.read(JOB, attempt(number), name)
    return error.value.code


def test_a_checkpoint_is_read_from_end_to_end(saves: FileSaves) -> None:
    put(saves, write_s=0.5)
    found = saves.read(JOB, attempt(), "step-10")
    assert (found.step, found.attempt, found.size_bytes, found.write_s) == (10, 1, 1000, 0.5)
    assert saves.is_whole(JOB, found)


def test_a_torn_one_a_flipped_one_and_one_without_a_manifest_are_none(saves: FileSaves) -> None:
    folder = put(saves)
    found = saves.read(JOB, attempt(), "step-10")
    (folder / "weights").write_bytes(b"w" * 999)
    assert refused(saves) == "checkpoint.torn"
    (folder / "weights").write_bytes(b"w" * 999 + b"v")
    assert refused(saves) == "checkpoint.flipped"
    assert not saves.is_whole(JOB, found), "what was good when it was read, is looked at again"
    (folder / "weights").unlink()
    assert refused(saves) == "checkpoint.file-unreadable"
    (folder / "manifest.json").unlink()
    assert refused(saves) == "checkpoint.file-unreadable"
    assert refused(saves, "step-99") == "checkpoint.unreadable"


def test_a_writer_of_an_older_attempt_publishes_nothing(saves: FileSaves) -> None:
    put(saves, epoch=1)
    assert refused(saves, number=2) == "checkpoint.of-another"
    put(saves, "step-20", job="job-2")
    assert refused(saves, "step-20") == "checkpoint.of-another"


def test_another_manifest_under_the_same_name_is_another_checkpoint(saves: FileSaves) -> None:
    folder = put(saves)
    found = saves.read(JOB, attempt(), "step-10")
    written = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(written | {"step": 11}))
    assert not saves.is_whole(JOB, found)


@pytest.mark.parametrize("manifest", [
    {"form": 2}, {"step": -1}, {"step": True}, {"step": 1.5}, {"files": {}}, {"files": []},
    {"files": {"../weights": {"sha256": "", "bytes": 0}}}, {"files": {"weights": None}},
])  # fmt: skip
def test_a_manifest_that_is_not_as_it_must_be_is_refused(
    saves: FileSaves, manifest: dict[str, Any]
) -> None:
    put(saves, **manifest)
    assert refused(saves) == "checkpoint.bad-manifest"


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "x" * 200, ".hidden"])
def test_no_name_leads_elsewhere(saves: FileSaves, name: str) -> None:
    assert refused(saves, name) == "checkpoint.bad-name"


def test_no_link_is_followed_and_nothing_is_waited_for(saves: FileSaves, tmp_path: Path) -> None:
    real = put(saves)
    (real.parent / "step-20").symlink_to(real)
    assert refused(saves, "step-20") == "checkpoint.unreadable"
    secret = tmp_path / "secret"
    secret.write_bytes(b"w" * 1000)
    (real / "weights").unlink()
    (real / "weights").symlink_to(secret)
    assert refused(saves) == "checkpoint.file-unreadable"
    (real / "weights").unlink()
    os.mkfifo(real / "weights")
    assert refused(saves) == "checkpoint.no-file"


def test_files_may_lie_in_folders_but_none_behind_a_link(saves: FileSaves, tmp_path: Path) -> None:
    weights = b"w" * 1000
    said = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": 1000}
    folder = put(saves, files={"parts/one/weights": said})
    (folder / "parts" / "one").mkdir(parents=True)
    (folder / "parts" / "one" / "weights").write_bytes(weights)
    assert saves.read(JOB, attempt(), "step-10").size_bytes == 1000
    elsewhere = tmp_path / "elsewhere"
    (folder / "parts").rename(elsewhere)
    (folder / "parts").symlink_to(elsewhere)
    assert refused(saves) == "checkpoint.file-unreadable"


def test_only_the_last_are_kept_and_none_that_is_still_written(saves: FileSaves) -> None:
    for step in range(5):
        put(saves, f"step-{step}", step=step)
    folder = Path(saves.checkpoints(JOB))
    (folder / "half").mkdir()
    (folder / "notes").write_text("mine")
    (folder / "out").symlink_to(folder / "step-4")
    saves.keep_only(JOB, [saves.read(JOB, attempt(), f"step-{step}") for step in (3, 4)])
    left = {path.name for path in folder.iterdir()}
    assert left == {"step-3", "step-4", "half", "notes", "out"}


def test_a_checkpoint_that_came_while_another_was_read_is_not_let_go_of(saves: FileSaves) -> None:
    for step in (1, 2):
        put(saves, f"step-{step}", step=step)
    read = saves.read(JOB, attempt(), "step-2")
    newer = put(saves, "step-3", step=3)
    later = put(saves, "step-0", step=0, epoch=2)
    put(saves, "step-9", step=9, epoch=0)
    saves.keep_only(JOB, [read])
    left = {path.name for path in Path(saves.checkpoints(JOB)).iterdir()}
    assert left == {"step-2", newer.name, later.name}, "step 9 is an earlier attempt's"


def test_a_jobs_python_finds_madang_job_under_whatever_number_it_runs(saves: FileSaves) -> None:
    package = Path(saves.library()) / "madang"
    modes = {path.name: path.stat().st_mode & 0o005 for path in (package, *package.iterdir())}
    assert modes == {"madang": 5, "__init__.py": 4, "job.py": 4}


def test_nothing_of_a_job_is_left_when_it_is_gone(saves: FileSaves, tmp_path: Path) -> None:
    put(saves)
    saves.forget(JOB)
    assert list(tmp_path.iterdir()) == [Path(saves.library())], "which is for all jobs"


def in_volume(where: Where, name: str, job: str = "job-1", at: float = 1000.0, **said: Any) -> Path:
    """Write a checkpoint of a job into the folder of a volume."""
    folder = where.root / where.below / name
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w")
    file = {"sha256": hashlib.sha256(b"w").hexdigest(), "bytes": 1}
    body = {"form": 1, "job": job, "epoch": 1, "step": 10, "files": {"weights": file}} | said
    (folder / "manifest.json").write_text(json.dumps(body))
    os.utime(folder / "manifest.json", (at, at))
    return folder


def test_in_a_volume_only_what_the_job_itself_wrote_is_let_go_of(
    saves: FileSaves, tmp_path: Path
) -> None:
    where = Where(tmp_path / "volume", "runs/a")
    for step in (1, 2):
        in_volume(where, f"step-{step}", step=step)
    other = in_volume(where, "step-3", job="job-2")
    (other.parent / "notes").mkdir()
    (other.parent / "notes" / "manifest.json").write_text("mine")
    read = saves.read(JOB, attempt(), "step-2", where)
    assert read.step == 2
    saves.keep_only(JOB, [read], where)
    assert sorted(p.name for p in other.parent.iterdir()) == ["notes", "step-2", "step-3"]
    saves.forget(JOB)
    assert (other.parent / "step-2").exists(), "what lies in a volume outlives its job"


def test_a_job_without_a_checkpoint_finds_the_newest_whole_one_of_another(
    saves: FileSaves, tmp_path: Path
) -> None:
    where = Where(tmp_path / "volume")
    where.root.mkdir()
    assert saves.of_another(JOB, where) is None
    in_volume(where, "step-1", "job-2", at=1.0, epoch=4)
    torn = in_volume(where, "step-9", "job-2", at=9.0)
    (torn / "weights").write_bytes(b"")
    in_volume(where, "step-7", "job-3", at=8.0)
    in_volume(where, "step-8", "job-1", at=10.0)
    in_volume(where, "step-6", "", at=11.0)
    found = saves.of_another(JOB, where, {"job-3"})
    assert found is not None
    assert (found.name, found.job, found.attempt) == ("step-1", "job-2", 4)
    assert saves.is_whole(JOB, found, where)


def test_no_link_leads_out_of_a_volume(saves: FileSaves, tmp_path: Path) -> None:
    outside = Where(tmp_path / "outside")
    kept = in_volume(outside, "step-1")
    where = Where(tmp_path / "volume", "runs")
    where.root.mkdir()
    (where.root / "runs").symlink_to(outside.root)
    assert saves.of_another(JOB, where, ()) is None
    with pytest.raises(Rejected) as caught:
        saves.read(JOB, attempt(), "step-1", where)
    assert caught.value.code == "checkpoint.unreadable"
    with pytest.raises(Rejected) as caught:
        saves.make(JOB, attempt(), 0, where)
    assert caught.value.code == "job.no-folder-to-save"
    saves.keep_only(JOB, (), where)
    assert kept.exists()


def test_a_folder_in_a_volume_is_made_for_whoever_saves_there(
    saves: FileSaves, tmp_path: Path
) -> None:
    where = Where(tmp_path / "volume", "runs/a")
    where.root.mkdir()
    for _ in range(2):
        saves.make(JOB, attempt(), 0, where)
    assert (where.root / "runs" / "a").stat().st_mode & 0o777 == 0o700
