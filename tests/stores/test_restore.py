"""A restored home is the old one or the new one, whole, wherever the restore was killed."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from madang.errors import Corrupt, MadangError, Rejected, Unavailable
from madang.ports import Write
from madang.resources.event import Event
from madang.resources.rights import CONTROL, OWNER
from madang.resources.tenancy import Empty, Organization, TitleSpec
from madang.settings import Home
from madang.stores import archive, backup, restore, swap
from madang.stores.place import Hold
from madang.stores.sqlite import SqliteStore

from .conftest import Doomed

STEPS_MAX = 200
DIGEST = "a" * 64


async def live(home: Home, title: str, count: int = 1) -> None:
    """Give a home state and files that all say the same."""
    store = SqliteStore(home)
    await store.open()
    for number in range(count):
        name = f"{title}-{number}"
        made = Organization(project=name, name=name, uid=name, spec=TitleSpec(title=title),
                            status=Empty())  # fmt: skip
        told = Event(at=float(number), actor="a", code="c", kind="organization", name=name)
        await store.commit(OWNER, [Write(made)], [told])
    await store.close()
    for path in (home.secret, home.admin_key, home.listen, home.first_run,
                 home.gateway / "usage.jsonl", home.blobs / f"sha256-{DIGEST}.json"):  # fmt: skip
        path.parent.mkdir(exist_ok=True)
        path.write_text(title)


async def kept(home: Home, path: Path, now: float = 5.0) -> Path:
    store = SqliteStore(home)
    await store.open()
    with archive.keeping(path) as write:
        async for piece in backup.pieces(store, home, OWNER, now):
            write(piece)
    await store.close()
    return path


def taken(folder: Path, title: str = "new", count: int = 3) -> Path:
    asyncio.run(live(Home(folder / title), title, count))
    return asyncio.run(kept(Home(folder / title), folder / f"{title}.backup"))


def said(home: Home) -> str:
    """Open a home as control does and return the one word that all of it says."""

    async def titles() -> set[str]:
        store = SqliteStore(home)
        await store.open()
        try:
            _, living = await store.load(CONTROL)
            return {each.spec.title for each in living}
        finally:
            await store.close()

    found = asyncio.run(titles())
    found |= {path.read_text() for path in home.path.glob("*.key")}
    found |= {path.read_text() for path in (home.blobs / f"sha256-{DIGEST}.json", home.listen)}
    (word,) = found
    return word


def refused(act: Callable[[], Any]) -> MadangError:
    with pytest.raises(MadangError) as error:
        act()
    return error.value


def test_an_empty_home_becomes_what_the_backup_says(tmp_path: Path) -> None:
    file, home = taken(tmp_path), Home(tmp_path / "home" / "마당")
    done = restore.restore(home, file, OWNER, replace=False)
    assert said(home) == "new"
    assert done.aside is None
    assert done.listing.about["kinds"] == {"organization": 3}
    assert {p.name for p in home.path.iterdir()} == {
        "state.db", "admin.key", "secret.key", "listen.json", "first-run.json", "blobs", "gateway",
        "control.lock",
    }  # fmt: skip
    assert {p.stat().st_mode & 0o77 for p in home.path.rglob("*")} == {0}


def test_the_one_who_took_it_goes_on_working_and_nothing_is_left(tmp_path: Path) -> None:
    async def both() -> None:
        store = SqliteStore(home)
        await store.open()
        stream = backup.pieces(store, home, OWNER, 5.0)
        first = await anext(stream)
        late = Organization(project="late", name="late", uid="l", spec=TitleSpec(title="late"),
                            status=Empty())  # fmt: skip
        await store.commit(OWNER, [Write(late)])
        with archive.keeping(tmp_path / "b") as write:
            write(first)
            async for piece in stream:
                write(piece)
        assert list(home.backups.iterdir()) == []
        abandoned = backup.pieces(store, home, OWNER, 5.0)
        await anext(abandoned)
        await abandoned.aclose()
        assert list(home.backups.iterdir()) == []
        await store.close()

    home = Home(tmp_path / "home")
    asyncio.run(live(home, "old"))
    asyncio.run(both())
    assert archive.read(tmp_path / "b").about["kinds"] == {"organization": 1}


def test_a_home_with_state_is_kept_aside_only_when_told(tmp_path: Path) -> None:
    file, home = taken(tmp_path), Home(tmp_path / "home")
    asyncio.run(live(home, "old"))
    again = refused(lambda: restore.restore(home, file, OWNER, replace=False))
    assert (again.code, said(home)) == ("restore.home-taken", "old")
    done = restore.restore(home, file, OWNER, replace=True)
    assert done.aside is not None
    assert (said(home), said(Home(done.aside))) == ("new", "old")
    second = restore.restore(home, file, OWNER, replace=True)
    assert second.aside not in {None, done.aside}
    assert said(Home(done.aside)) == "old"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    file, other = taken(tmp_path), tmp_path / "documents"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for replace in (False, True):
        error = refused(lambda r=replace: restore.restore(Home(other), file, OWNER, replace=r))
        assert error.code in {"restore.home-taken", "restore.not-a-home"}
    assert (other / "thesis.txt").read_text() == "mine"


def test_a_home_that_somebody_holds_is_refused(tmp_path: Path) -> None:
    file, home = taken(tmp_path), Home(tmp_path / "home")
    home.path.mkdir()
    hold = Hold(home.control_lock)
    hold.take()
    error = refused(lambda: restore.restore(home, file, OWNER, replace=True))
    assert (type(error), error.code) == (Unavailable, "store.held")
    hold.release()


def changed(file: Path, *statements: str) -> Path:
    """Return a backup whose state has been changed, its hashes made anew."""
    folder = file.with_suffix(".out")
    folder.mkdir()
    listing = archive.unpack(file, folder)
    with closing(sqlite3.connect(folder / "state.db", isolation_level=None)) as state:
        for statement in statements:
            state.execute(statement)
        state.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    members = {m.name: folder / m.name for m in listing.members}
    about = {**listing.about, **backup.describe(folder / "state.db")}
    with archive.keeping(file.with_suffix(".changed")) as write:
        for piece in archive.packed(members, about):
            write(piece)
    return file.with_suffix(".changed")


def test_what_a_newer_madang_wrote_is_refused_before_anything_is_there(tmp_path: Path) -> None:
    file = changed(taken(tmp_path), "UPDATE alembic_version SET version_num = '9999'")
    error = refused(lambda: restore.restore(Home(tmp_path / "home"), file, OWNER, replace=False))
    assert (type(error), error.code) == (Rejected, "restore.newer")
    assert not (tmp_path / "home").exists()


def test_a_damaged_file_changes_nothing(tmp_path: Path) -> None:
    file, home = taken(tmp_path), Home(tmp_path / "home")
    asyncio.run(live(home, "old"))
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 3] ^= 4
    file.write_bytes(whole)
    before = {p: p.stat().st_mtime_ns for p in home.path.rglob("*")}
    assert (
        refused(lambda: restore.restore(home, file, OWNER, replace=True)).code == "backup.damaged"
    )
    assert {p: p.stat().st_mtime_ns for p in home.path.rglob("*")} == before


def test_state_that_cannot_be_read_is_never_put_in_place(tmp_path: Path) -> None:
    file = changed(taken(tmp_path), "UPDATE resources SET spec = 'no JSON'")
    home = Home(tmp_path / "home")
    error = refused(lambda: restore.restore(home, file, OWNER, replace=False))
    assert (type(error), error.code) == (Corrupt, "store.unreadable")
    assert swap.entries(home) == []
    assert not list(home.path.glob("restore-*"))


def test_term_and_revisions_are_above_all_that_anybody_has_seen(tmp_path: Path) -> None:
    async def looked(home: Home) -> tuple[int, int, Any, str]:
        store = SqliteStore(home)
        term = await store.open()
        revision, _ = await store.load(CONTROL)
        try:
            seen = await store.changes(CONTROL, 1000)
        except Rejected as error:
            seen = error.code
        assert len(await store.changes(CONTROL, 0)) == 3
        told = [event.code for event in await store.events(CONTROL)]
        audit = [record.code for record in await store.audit(OWNER)]
        assert (told[-1], audit[-1]) == ("home.restored", "home.restored")
        await store.close()
        return term, revision, seen, store.id

    began = time.time()
    file, home = taken(tmp_path), Home(tmp_path / "home")
    restore.restore(home, file, OWNER, replace=False)
    first = asyncio.run(looked(home))
    assert first[0] > began / 60
    assert first[1] >= began * 1000
    assert first[2] == "store.feed-pruned"
    restore.restore(home, asyncio.run(kept(home, tmp_path / "again")), OWNER, replace=True)
    second = asyncio.run(looked(home))
    assert second[0] > first[0]
    assert second[1] > first[1]
    ids = {archive.read(file).about["store"], first[3], second[3]}
    assert len(ids) == 3, "each is another state than the one that was copied"


@pytest.mark.timeout(180)
def test_killed_at_every_step_it_is_the_old_home_or_the_new_one(
    tmp_path: Path, doomed: Doomed
) -> None:
    file = taken(tmp_path)
    words, step = [], 0
    while step < STEPS_MAX:
        step += 1
        home = Home(tmp_path / f"home-{step}")
        asyncio.run(live(home, "old"))
        doomed.send("restore", step, home.path, file)
        status = doomed.ended()
        words.append(said(home))
        asides = [said(Home(p)) for p in home.path.glob("replaced-*")]
        assert asides == (["old"] if words[-1] == "new" else []), step
        assert not [p for p in home.path.glob("restore-*") if p.suffix != swap.PART], step
        if status == 0:
            break
        assert status == 9
    assert words == sorted(words, reverse=True), "once new, never old again"
    assert {"old", "new"} == set(words)
    assert words.count("new") > 10, "every rename after the decision was tried"


def test_a_backup_that_was_left_half_done_is_swept_away(tmp_path: Path) -> None:
    file, home = taken(tmp_path), Home(tmp_path / "home")
    (home.path / "restore-old.part").mkdir(parents=True)
    (home.path / "restore-old.part" / "secret.key").write_text("left")
    restore.restore(home, file, OWNER, replace=False)
    assert not list(home.path.glob("restore-*"))
    assert said(home) == "new"


def test_a_drill_says_what_it_found_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = taken(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    found = restore.drill(file, OWNER)
    assert found["differences"] == []
    assert found["restore_s"] > 0
    assert (found["kinds"], found["events"], found["keys"]) == ({"organization": 3}, 3, 0)
    assert list(scratch.iterdir()) == []


def test_a_drill_notices_an_audit_record_that_was_changed(tmp_path: Path) -> None:
    file = changed(taken(tmp_path), "UPDATE audit SET actor = 'nobody' WHERE seq = 2")
    assert restore.drill(file, OWNER)["differences"] == ["audit chain"]


def test_a_drill_notices_what_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = taken(tmp_path)
    lift = restore._lift

    def forgetful(state: Path, *more: Any) -> None:
        lift(state, *more)
        with closing(sqlite3.connect(state)) as file:
            file.execute("DELETE FROM events WHERE seq = 1")
            file.execute("DELETE FROM resources WHERE name = 'new-1'")
            file.commit()

    monkeypatch.setattr(restore, "_lift", forgetful)
    differences = restore.drill(file, OWNER)["differences"]
    assert set(differences) == {"kinds", "rows of events"}
