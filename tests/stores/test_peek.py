"""A state that no control has open is looked at as it lies there: named, and not changed."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from madang.errors import Corrupt, Unavailable
from madang.ports import Write
from madang.resources.event import Event
from madang.resources.rights import CONTROL
from madang.resources.tenancy import Empty, Organization, TitleSpec
from madang.settings import Home
from madang.stores import peek
from madang.stores.migrations import VERSIONS
from madang.stores.sqlite import SqliteStore

OLDER = "UPDATE alembic_version SET version_num = '0003'"
DAMAGE = {
    "UPDATE alembic_version SET version_num = '9999'": ("store.newer-version", ""),
    "DROP TABLE alembic_version": ("store.not-ours", ""),
    "UPDATE events SET name = 'other' WHERE seq = 1": ("store.unreadable", "events/1"),
    "UPDATE resources SET spec = replace(spec, 'of', 'Of')": (
        "store.unreadable", "organization/acme",
    ),
}  # fmt: skip


@pytest.fixture
async def left(tmp_path: Path) -> Home:
    """What a control that was killed has left: its last commits are in the log only."""
    home, copy = Home(tmp_path / "home"), Home(tmp_path / "left")
    store = SqliteStore(home)
    await store.open()
    title = TitleSpec(title="one of them")
    acme = Organization(project="acme", name="acme", uid="acme", spec=title, status=Empty())
    told = Event(at=0, actor="a", code="c", kind="organization", name="acme")
    await store.commit(CONTROL, [Write(acme)], [told])
    copy.path.mkdir()
    for name in ("state.db", "state.db-wal"):
        shutil.copy(home.path / name, copy.path / name)
    await store.close()
    assert (copy.path / "state.db-wal").stat().st_size
    return copy


async def test_what_is_stored_is_read_as_it_lies_there(left: Home) -> None:
    before = kept(left)
    term, found = peek.stored(left, "", CONTROL)
    assert (term, [each.name for each in found]) == (1, ["acme"])
    assert kept(left) == before
    changed(left, OLDER)
    with pytest.raises(Unavailable) as refused:
        peek.stored(left, "", CONTROL)
    assert refused.value.code == "store.older-version"


def changed(home: Home, *statements: str) -> None:
    with closing(sqlite3.connect(home.state)) as file:
        for each in statements:
            file.execute(each)
        file.commit()


def kept(home: Home) -> dict[str, bytes]:
    """The state's bytes; the index of its log, which SQLite makes at each look, holds none."""
    return {p.name: p.read_bytes() for p in home.path.iterdir() if not p.name.endswith("-shm")}


def test_what_a_killed_control_left_is_read_with_its_log_and_not_changed(left: Home) -> None:
    before = kept(left)
    health, found = peek.examine(left)
    assert (health.product, health.place, found) == ("SQLite", str(left.state), VERSIONS[-1])
    assert kept(left) == before


def test_an_older_state_is_read_and_its_version_told(left: Home) -> None:
    changed(left, OLDER)
    assert peek.examine(left)[1] == "0003"


@pytest.mark.parametrize("change", DAMAGE)
def test_what_is_not_what_was_written_is_named(left: Home, change: str) -> None:
    changed(left, change)
    before = kept(left)
    with pytest.raises(Corrupt) as raised:
        peek.examine(left)
    assert (raised.value.code, raised.value.subject) == DAMAGE[change]
    assert kept(left) == before


def test_a_file_that_is_torn_or_no_database_is_named(left: Home) -> None:
    changed(left, "VACUUM")
    whole = left.state.read_bytes()
    for torn in (b"\0" * 5000 + whole[5000:], whole[:9000], b"not a database at all" * 500):
        left.state.write_bytes(torn)
        with pytest.raises(Corrupt) as raised:
            peek.examine(left)
        assert raised.value.code == "store.damaged", torn[:20]
