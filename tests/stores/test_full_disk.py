"""The disk is full in the middle of an upgrade or a restore: the old home is whole, and it is said.

No file can grow beyond a limit (RLIMIT_FSIZE), so that each write may be the one that fails.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from madang.settings import Home
from madang.stores import migrations, peek
from madang.testing.postgres import PostgresServer

from .conftest import Doomed
from .test_restore import live, said, taken
from .test_restore_database import living_in
from .test_restore_database import said as said_in_database
from .test_upgrade import check, home_of, old

pytestmark = pytest.mark.timeout(300)

__all__ = ["old"]
WHOLE = migrations.VERSIONS[0], migrations.VERSIONS[-1]
"""It is done or it is not. Once it is, what control writes next may be what has no room."""
UPGRADE_NAMES = {"store.write-failed", "store.backup-failed"}
RESTORE_NAMES = {"store.write-failed", "store.backup-failed", "backup.write-failed",
                 "restore.failed"}  # fmt: skip
LEAST = 8_192
"""Locks and notes of a few bytes can still be written."""
STEPS = 12


def rooms(most_bytes: int) -> Iterator[int]:
    """From all that is needed down to as good as nothing."""
    step = (most_bytes - LEAST) // STEPS
    return iter(range(most_bytes, LEAST, -step))


def test_an_upgrade_on_a_full_disk_is_refused_and_done_once_there_is_room(
    old: Path, tmp_path: Path, doomed: Doomed
) -> None:
    def laid(room_bytes: int) -> Path:
        return home_of(old, tmp_path / f"home-{room_bytes}").path

    codes = []
    for room_bytes, path, code in doomed.refusals("open", rooms(4 * old.stat().st_size), laid):
        home = Home(path)
        if code:
            assert peek.version(home.state) in WHOLE, room_bytes
        check(home)
        codes.append(code)
    assert codes[0] == "", "with enough room it is done"
    assert set(codes) - {""} == UPGRADE_NAMES, "the copy before it and the migration were cut off"


def test_a_restore_on_a_full_disk_is_refused_and_the_old_home_stays(
    tmp_path: Path, doomed: Doomed
) -> None:
    file = taken(tmp_path)
    asyncio.run(live(Home(tmp_path / "first"), "old"))

    def laid(room_bytes: int) -> Path:
        shutil.copytree(tmp_path / "first", tmp_path / f"home-{room_bytes}")
        return tmp_path / f"home-{room_bytes}"

    codes = []
    most_bytes = 4 * Home(tmp_path / "new").state.stat().st_size
    for room_bytes, path, code in doomed.refusals("restore", rooms(most_bytes), laid, file):
        assert said(Home(path)) == ("old" if code else "new"), room_bytes
        assert not list(path.glob("restore-*"))
        codes.append(code)
    assert codes[0] == ""
    assert set(codes) - {""} <= RESTORE_NAMES
    assert codes[-1]


@pytest.mark.timeout(300)
def test_so_it_does_with_the_state_in_a_database(
    tmp_path: Path, doomed: Doomed, postgres: PostgresServer
) -> None:
    file, template = taken(tmp_path), postgres.make_database()
    first = living_in(Home(tmp_path / "first"), postgres.url(template))

    def laid(room_bytes: int) -> Path:
        home = Home(tmp_path / f"home-{room_bytes}")
        shutil.copytree(first.path, home.path)
        home.database.write_text(postgres.url(postgres.make_database(like=template)))
        return home.path

    codes = []
    most_bytes = 4 * Home(tmp_path / "new").state.stat().st_size
    for room_bytes, path, code in doomed.refusals("restore", rooms(most_bytes), laid, file):
        home = Home(path)
        assert said_in_database(home) == ("old" if code else "new"), room_bytes
        assert not list(path.glob("restore-*"))
        assert bool(list(path.glob("replaced-*"))) == (not code)
        codes.append(code)
    assert codes[0] == ""
    assert set(codes) - {""} <= RESTORE_NAMES
    assert codes[-1]
