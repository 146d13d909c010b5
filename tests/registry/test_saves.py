"""What a job leaves on the disk goes with it, however it has left it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from madang.errors import Unavailable
from madang.registry.saves import FileSaves
from madang.resources.attempt import Attempt, AttemptSpec, AttemptStatus
from madang.testing.builders import job


def attempt(name: str) -> Attempt:
    spec = AttemptSpec(job=name, number=1)
    return Attempt(
        project="local/main", name=f"{name}-1", uid=f"attempt-{name}", spec=spec,
        status=AttemptStatus(),
    )  # fmt: skip


def test_a_job_that_is_deleted_leaves_nothing_though_it_had_closed_its_folders(
    tmp_path: Path,
) -> None:
    saves, train = FileSaves(tmp_path / "jobs"), job()
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    closed = Path(saves.work(train), "a", "b")
    closed.mkdir(parents=True)
    (closed / "file").touch(mode=0o000)
    (closed / "link").symlink_to(outside)
    for folder in (closed, closed.parent):
        folder.chmod(0o000)
    saves.forget(train)
    assert not list((tmp_path / "jobs").iterdir())
    assert outside.stat().st_mode & 0o777 == 0o500, "what a link leads to is not the job's"
    saves.forget(train)


def test_what_can_not_be_removed_is_told_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves, train = FileSaves(tmp_path / "jobs"), job()
    Path(saves.work(train)).mkdir(parents=True)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with pytest.raises(Unavailable) as caught:
        saves.forget(train)
    assert caught.value.code == "job.files-left"
    assert caught.value.values["folder"] == str(tmp_path / "jobs" / train.uid)


def test_all_jobs_read_one_library_that_is_none_of_theirs(tmp_path: Path) -> None:
    saves = FileSaves(tmp_path / "jobs")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: saves.make(job(f"j{n}"), attempt(f"j{n}"), 0), range(16)))
    found = [each.name for each in (tmp_path / "jobs").iterdir() if "library" in each.name]
    assert found == [Path(saves.library()).name], "one, and nothing half made beside it"
    for path in (Path(saves.library()), *Path(saves.library()).rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o444)
    code = "import madang.job as j; print(j.start.__name__)"
    command = [sys.executable, "-S", "-B", "-c", code]
    env = {"PYTHONPATH": saves.library()}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert done.stdout == "start\n"
    saves.forget(job("j0"))
    assert Path(saves.library(), "madang", "job.py").exists()
