"""Folders that jobs mount: how full they are, whose, and that no link leads out of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from madang.errors import Rejected, Unfit
from madang.registry.blobs import FileBlobs
from madang.registry.importing import import_from
from madang.registry.volumes import NUMBERS_FROM, FileVolumes, make, number_of
from madang.resources.model import volume_path
from madang.resources.volume import Volume, VolumeSpec, VolumeStatus


def volume(**spec: object) -> Volume:
    written = VolumeSpec.model_validate(spec)
    return Volume(
        project="acme/lab", name="data", uid="volume-1", spec=written, status=VolumeStatus()
    )


def test_what_is_in_it_is_measured_once_however_often_it_is_linked(tmp_path: Path) -> None:
    volumes = FileVolumes(tmp_path / "volumes")
    assert volumes.measure(volume()) == (0, 0), "it is not there yet"
    folder = volumes.make(volume())
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_bytes(bytes(100_000))
    used, files = volumes.measure(volume())
    assert (100_000 <= used <= 140_000, files) == (True, 3)
    (folder / "again").hardlink_to(folder / "a" / "b" / "file")
    (folder / "out").symlink_to(tmp_path)
    (tmp_path / "other").write_bytes(bytes(1_000_000))
    again, files = volumes.measure(volume())
    assert (again - used < 50_000, files) == (True, 5)


def test_a_hole_costs_nothing(tmp_path: Path) -> None:
    volumes = FileVolumes(tmp_path)
    with (volumes.make(volume()) / "sparse").open("wb") as file:
        file.truncate(10**12)
    assert volumes.measure(volume())[0] < 10**6


def test_a_folder_that_was_there_before_is_neither_made_nor_removed(tmp_path: Path) -> None:
    there = tmp_path / "there"
    volumes = FileVolumes(tmp_path / "volumes")
    assert volumes.make(volume(path=str(there))) == there
    assert not there.exists()
    volumes.make(volume())
    (tmp_path / "volumes" / "volume-1" / "out").symlink_to(tmp_path)
    there.mkdir()
    assert list(volumes.kept()) == ["volume-1"]
    volumes.remove("volume-1")
    assert (list(volumes.kept()), there.exists()) == ([], True)


def test_each_project_has_a_number_that_nothing_else_has() -> None:
    numbers = {number_of(f"acme/lab-{n}") for n in range(1000)}
    assert len(numbers) == 1000
    assert all(NUMBERS_FROM <= number < 1 << 31 for number in numbers)
    assert FileVolumes(Path("/nowhere")).owner("acme/lab") == 0
    assert FileVolumes(Path("/nowhere"), numbers=True).owner("acme/lab") == number_of("acme/lab")


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_what_was_another_number_s_changes_hands_but_nothing_that_a_link_names(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "folder"
    make(folder, 61_001)
    (folder / "below").mkdir()
    (folder / "below" / "file").touch()
    (folder / "below" / "out").symlink_to(tmp_path / "other")
    (tmp_path / "other").touch()
    make(folder, 61_002)
    found = {path.stat().st_uid for path in (folder, folder / "below", folder / "below" / "file")}
    assert found == {61_002}
    assert ((folder / "below" / "out").lstat().st_uid, (tmp_path / "other").stat().st_uid) == (
        61_002, 0,
    )  # fmt: skip


def test_a_model_is_read_out_of_a_volume_as_a_copy_that_nobody_can_change(tmp_path: Path) -> None:
    blobs, folder = FileBlobs(tmp_path / "blobs"), tmp_path / "volume"
    (folder / "out").mkdir(parents=True)
    file = folder / "out" / "tiny.json"
    file.write_text('{"fake": 1}')
    found = import_from(blobs, folder, "volume://data/out/tiny.json")
    assert (found.source, found.format) == ("volume://data/out/tiny.json", "fake")
    file.write_text("changed by a job")
    assert blobs.path(found.digest).read_text() == '{"fake": 1}'
    with pytest.raises(Rejected):
        import_from(blobs, folder, "volume://data/out/tiny.json")
    assert len(list((tmp_path / "blobs").iterdir())) == 2, "what is no model leaves nothing"
    blobs.keep_only([found.digest])
    assert blobs.path(found.digest).exists()
    blobs.keep_only([])
    assert list((tmp_path / "blobs").iterdir()) == []


def test_no_link_leads_out_of_a_volume(tmp_path: Path) -> None:
    blobs, folder, out = FileBlobs(tmp_path / "blobs"), tmp_path / "volume", tmp_path / "out"
    for each in (folder, out):
        each.mkdir()
    (out / "tiny.json").write_text('{"fake": 1}')
    (folder / "file.json").symlink_to(out / "tiny.json")
    (folder / "folder").symlink_to(out)
    os.mkfifo(folder / "pipe")
    for path in ("file.json", "folder/tiny.json", "pipe", "folder", "gone", "file.json/deeper"):
        with pytest.raises(Rejected) as told:
            import_from(blobs, folder, f"volume://data/{path}")
        assert told.value.code in {"model.source-unreadable", "model.source-not-a-file"}, path
    for path in ("../out/tiny.json", "./a", "a//b", "", "a\nb"):
        with pytest.raises(Unfit):
            volume_path(f"volume://data/{path}")
