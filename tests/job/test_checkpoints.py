"""A checkpoint is whole or does not exist, and a rank goes on from the newest good one."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from madang import job

from .conftest import UID, Place, manifest

EFFECTS = frozenset({"open", "os.mkdir", "os.chmod", "os.rename", "os.remove", "os.rmdir"})
EFFECTS_MAX = 400


def test_a_checkpoint_has_a_manifest_that_names_every_file(place: Place) -> None:
    os.umask(before := os.umask(0o077))
    with place.start(attempt=3).checkpoint(100) as folder:
        os.umask(0o077)
        (folder / "part").mkdir()
        (folder / "part" / "one").write_bytes(b"12")
        (folder / "model").write_bytes(b"1" * 3_000_000)
        os.umask(before)
    found = manifest(place.checkpoints / "step-000100")
    assert {key: found[key] for key in ("form", "job", "epoch", "step")} == {
        "form": 1, "job": UID, "epoch": 3, "step": 100,
    }  # fmt: skip
    assert {name: file["bytes"] for name, file in found["files"].items()} == {
        "model": 3_000_000, "part/one": 2,
    }  # fmt: skip
    assert found["write_s"] >= 0, "what it has cost decides how often it is worth it"
    assert found["files"]["part/one"]["sha256"].startswith("6b51d431df5d7f14")
    for path in (place.checkpoints / "step-000100").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o755 if path.is_dir() else 0o644), "Madang has a user of its own"
    assert place.there() == ["step-000100"]


def test_it_is_told_once_it_is_there(place: Place) -> None:
    run = place.start()
    run.step(1)
    run.step(2)
    with run.checkpoint(2) as folder:
        (folder / "model").write_text("weights")
        assert not (place.checkpoints / "step-000002").exists()
    assert place.lines()[1:] == [
        {"step": 2, "total": 10}, {"phase": "checkpoint"},
        {"checkpoint": "step-000002", "step": 2}, {"phase": ""},
    ]  # fmt: skip
    assert run.saved == "step-000002"


def test_an_error_in_the_block_leaves_no_trace(place: Place) -> None:
    run = place.start()
    with pytest.raises(OSError, match="out of order"), run.checkpoint(1) as folder:
        broken(folder)
    assert place.there() == []
    assert place.lines() == [{"phase": "checkpoint"}, {"phase": ""}]
    assert run.saved == ""


def broken(folder: Path) -> None:
    (folder / "model").write_text("half")
    raise OSError(5, "out of order")


def link(folder: Path) -> None:
    (folder / "model").symlink_to("/etc/hostname")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "model")


def own_manifest(folder: Path) -> None:
    (folder / job.MANIFEST).write_text("{}")


def nothing(_folder: Path) -> None:
    pass


@pytest.mark.parametrize("made", [link, pipe, own_manifest, nothing])
def test_what_is_no_file_is_no_checkpoint(place: Place, made: Callable[[Path], None]) -> None:
    with (
        pytest.raises(ValueError, match="a checkpoint holds files"),
        place.start().checkpoint(1) as folder,
    ):
        made(folder)
    assert place.there() == []


def lacking(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def lacking_elsewhere(*_: Any) -> None:
    raise RuntimeError("Error while serializing: I/O error: No space left (os error 28)")


@pytest.mark.parametrize("fails", [lacking, lacking_elsewhere])
def test_a_full_disk_while_writing_costs_the_checkpoint_and_no_step(
    place: Place, capfd: pytest.CaptureFixture[str], fails: Callable[[], None]
) -> None:
    place.save(1)
    run = place.start()
    for step in (2, 3):
        with run.checkpoint(step) as folder:
            (folder / "model").write_text("half")
            fails()
    assert run.saved == ""
    assert place.there() == ["step-000001"]
    assert capfd.readouterr().err.count("training goes on without it") == 2, "it is said each time"
    assert not any("checkpoint" in line for line in place.lines()[-4:])


@pytest.mark.parametrize("call", ["mkdir", "chmod", "rename", "write_text"])
def test_a_full_disk_at_any_moment_costs_the_checkpoint_and_no_step(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    place.save(1)
    run = place.start()
    with monkeypatch.context() as patched:
        patched.setattr(Path, call, lacking)
        with run.checkpoint(2) as folder, open(folder / "model", "wb") as file:  # noqa: PTH123
            file.write(b"weights")
    assert run.saved == ""
    assert place.there() == ["step-000001"]
    with run.checkpoint(3) as folder:
        (folder / "model").write_bytes(b"weights")
    assert run.saved == "step-000003"


def test_any_other_error_of_the_disk_is_told_to_the_program(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place.start(MADANG_CHECKPOINTS="/proc/none/checkpoints")
    with pytest.raises(OSError, match="none"), run.checkpoint(1):
        pass
    with pytest.raises(FileNotFoundError), place.start().checkpoint(1) as folder:
        (folder / "gone" / "model").write_text("weights")
    monkeypatch.setattr(os, "fsync", lambda _: (place.root / "none").stat())
    with pytest.raises(FileNotFoundError), place.start().checkpoint(1) as folder:
        (folder / "model").write_text("weights")
    assert place.there() == []


def test_the_disk_has_it_before_its_name_does(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename, fsync = os.rename, os.fsync

    def synced(descriptor: int) -> None:
        done.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(old: Any, new: Any) -> None:
        done.append(f"name {Path(new).name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    place.save(5, model=b"weights")
    new = ".new-1-0-step-000005"
    assert done == [
        "sync model", f"sync {new}", "sync manifest.json.new", "name manifest.json", f"sync {new}",
        "name step-000005", "sync checkpoints",
    ]  # fmt: skip


def killed_at(effect: int, deed: Callable[[], object]) -> bool:
    """Do it in a process of its own that is killed before that effect on the disk; tell if so."""
    if (pid := os.fork()) == 0:
        seen = 0

        def hook(event: str, about: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in EFFECTS and (event != "open" or about[2] & (os.O_CREAT | os.O_TRUNC)):
                seen += 1
                if seen == effect:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        deed()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in {0, signal.SIGKILL}
    return status != 0


@pytest.mark.parametrize("again", [False, True])
def test_killed_between_any_two_effects_it_is_whole_or_does_not_exist(
    place: Place, again: bool
) -> None:
    place.save(1)
    ends: set[str] = set()
    for effect in range(1, EFFECTS_MAX):
        if again:  # attempt 2 comes to a step that attempt 1 had saved as well
            place.save(2)
        survived = not killed_at(
            effect, lambda: place.save(2, attempt=2, model=b"weights", moments=b"0" * 9)
        )
        there = {p.name for p in place.checkpoints.glob("step-*")}
        for name in there:
            assert job.fault_of(place.checkpoints / name) == ""
        taken = place.resumed(2)
        assert taken is not None
        epoch = manifest(taken)["epoch"]
        ends.add(f"{taken.name} of {epoch}")
        assert not survived or (taken.name, epoch) == ("step-000002", 2)
        place.save(3, attempt=3)
        assert not list(place.checkpoints.glob(".*")), "the next attempt clears away what was left"
        for name in ("step-000002", "step-000003"):
            forget(place.checkpoints / name)
        if survived:
            assert effect > 10
            break
    else:
        pytest.fail("it never came to its end")
    assert ends == {"step-000001 of 1", "step-000002 of 2", *["step-000002 of 1"] * again}


def forget(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()
    if folder.exists():
        folder.rmdir()


def test_a_folder_without_a_manifest_does_not_exist(place: Place) -> None:
    place.save(1)
    (place.save(2) / job.MANIFEST).unlink()
    assert place.resumed(2) == place.checkpoints / "step-000001"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def relink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [flip, cut, lengthen, relink, replace, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    place: Place, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    for step in (9, 10, 11):
        place.save(step)
    damage(place.checkpoints / "step-000011" / "model")
    assert place.resumed(11) == place.checkpoints / "step-000010"
    assert "step-000011 is passed over: model" in capfd.readouterr().err
    damage(place.checkpoints / "step-000010" / "model")
    assert place.resumed(11) == place.checkpoints / "step-000009"
    damage(place.checkpoints / "step-000009" / "model")
    assert place.resumed(11) is None


@pytest.mark.parametrize("damage", [flip, cut, relink, replace, Path.unlink])
def test_a_damaged_manifest_is_none(place: Place, damage: Callable[[Path], None]) -> None:
    place.save(1)
    damage(place.save(2) / job.MANIFEST)
    if damage is flip:  # a byte that makes no other sense: in the hash
        path = place.checkpoints / "step-000002" / job.MANIFEST
        path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0', 1))
    assert place.resumed(2) == place.checkpoints / "step-000001"


@pytest.mark.parametrize("change", [
    {"form": 2}, {"form": True}, {"job": "job-8"}, {"epoch": 10}, {"epoch": "1"}, {"step": None},
    {"files": []}, {"files": {"model": {}}}, {"files": {"model": 1}},
    {"files": {"../../x": {"bytes": 1, "sha256": ""}}},
    {"files": {"/etc/hostname": {"bytes": 1, "sha256": ""}}},
    {"files": {"away/x": {"bytes": 1, "sha256": ""}}},
    {"files": {"a\0b": {"bytes": 1, "sha256": ""}}},
])  # fmt: skip
def test_a_manifest_that_says_something_else_is_refused(
    place: Place, change: dict[str, Any]
) -> None:
    place.save(1)
    folder = place.save(2)
    (place.root / "x").write_text("x")
    (folder / "away").symlink_to(place.root)
    (folder / job.MANIFEST).write_text(json.dumps({**manifest(folder), **change}))
    assert place.resumed(2) == place.checkpoints / "step-000001"


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\udcff"])
def test_a_manifest_that_is_no_json_object_is_refused(place: Place, text: str) -> None:
    place.save(1)
    (place.save(2) / job.MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    assert place.resumed(2) == place.checkpoints / "step-000001"


def test_a_rank_goes_on_after_the_step_it_was_given(place: Place) -> None:
    place.save(4)
    place.save(7)
    run = place.start(attempt=2, MADANG_RESUME_FROM=str(place.checkpoints / "step-000004"))
    assert run.resume_from == place.checkpoints / "step-000004", "never beyond what was named"
    assert list(run.steps()) == [5, 6, 7, 8, 9, 10]
    fresh = place.start(attempt=2)
    assert fresh.resume_from is None, "control has decided to begin anew"
    assert next(fresh.steps()) == 1


def test_a_checkpoint_under_a_name_of_its_own_falls_back_too(place: Place) -> None:
    place.save(4)
    (place.checkpoints / "step-000004").rename(place.checkpoints / "latest")
    run = place.start(MADANG_RESUME_FROM=str(place.checkpoints / "latest"))
    assert run.resumed_step == 4
    place.save(3)
    cut(place.checkpoints / "latest" / "model")
    run = place.start(MADANG_RESUME_FROM=str(place.checkpoints / "latest"))
    assert run.resumed_step == 3
    run = place.start(MADANG_RESUME_FROM=str(place.root / "nowhere" / "step-000004"))
    assert run.resume_from is None


def test_an_attempt_that_has_been_replaced_publishes_nothing(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.save(5, attempt=2, model=b"new")
    place.save(5, attempt=1, model=b"old")
    assert "attempt 2 wrote it, and this is 1" in capfd.readouterr().err
    assert manifest(place.checkpoints / "step-000005")["epoch"] == 2
    assert not any("checkpoint" in line for line in place.lines(attempt=1))


def test_two_attempts_that_write_at_once_do_not_mix(place: Place) -> None:
    old, new = place.start(attempt=1), place.start(attempt=2)
    with old.checkpoint(5) as before:
        (before / "model").write_bytes(b"old")
        with new.checkpoint(5) as after:
            assert before != after
            (after / "model").write_bytes(b"new")
    folder = place.checkpoints / "step-000005"
    assert manifest(folder)["epoch"] == 2
    assert (folder / "model").read_bytes() == b"new"
    assert job.fault_of(folder, UID, 2) == ""


def test_a_job_goes_on_from_what_another_has_saved_and_leaves_it_there(place: Place) -> None:
    theirs = place.save(4)
    body = {**manifest(theirs), "job": "job-of-others", "epoch": 7}
    (theirs / job.MANIFEST).write_text(json.dumps(body))
    told = {"MADANG_RESUME_FROM": str(theirs), "MADANG_RESUME_JOB": "job-of-others"}
    assert place.start(**told).resumed_step == 4
    assert place.start(MADANG_RESUME_FROM=str(theirs)).resume_from is None, "nobody has said whose"
    place.save(4)
    assert manifest(theirs)["job"] == "job-of-others"
    own = place.checkpoints / f"step-000004-{UID}"
    assert manifest(own)["job"] == UID
    assert place.start(MADANG_RESUME_FROM=str(own)).resumed_step == 4
    assert {"checkpoint": own.name, "step": 4} in place.lines()
