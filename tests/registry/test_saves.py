"""What a job leaves on the disk goes with it, however it has left it."""

from __future__ import annotations

from pathlib import Path

import pytest

from madang.errors import Unavailable
from madang.registry.saves import FileSaves
from madang.testing.builders import job


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
