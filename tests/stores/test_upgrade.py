"""An upgrade from the oldest version, killed at any statement or moment, loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from madang import settings
from madang.resources.rights import CONTROL, OWNER
from madang.settings import Home
from madang.stores import archive, backup, migrations, peek, restore
from madang.stores.postgres import PostgresStore
from madang.stores.sqlite import SqliteStore

from .conftest import Doomed

BEFORE = migrations.VERSIONS[0]
STEPS_MAX = 500
MOMENTS = 20
EVENTS = 200
RESOURCES = (
    ("organization", "", "acme", {"title": "기관"}),
    ("project", "acme/lab", "lab", {"title": ""}),
    ("key", "acme/lab", "admin", {"role": "operator", "digest": "d" * 64, "home": "acme/lab",
                                  "expires_at": None}),
    ("key", "acme/lab", "app", {"role": "member", "digest": "e" * 64, "home": "acme/lab",
                                "expires_at": 9e9}),
    ("service", "acme/lab", "민원", {"model": "tiny"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state of the oldest version with data, made by that version's own script."""
    path = tmp_path_factory.mktemp("old") / "state.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrations.upgrade(connection, None, to=BEFORE)
    engine.dispose()
    with closing(sqlite3.connect(path)) as state:
        state.execute("PRAGMA journal_mode=wal")
        for number, (kind, project, name, spec) in enumerate(RESOURCES, 1):
            row = (number, kind, project, name, f"{kind}-{name}", 1, number, 0.0, None,
                   json.dumps(spec), "{}", False)  # fmt: skip
            state.execute(f"INSERT INTO resources VALUES ({', '.join('?' * len(row))})", row)
        tombstone = (9, "service", "acme/lab", "gone", "g", 1, 9, 0.0, 1.0,
                     '{"model": "tiny"}', "{}", True)  # fmt: skip
        state.execute(f"INSERT INTO resources VALUES ({', '.join('?' * 12)})", tombstone)
        for number in range(EVENTS):
            told = (number + 1, float(number), "key/admin", "service.created", "service",
                    "acme/lab", "민원", "u", "{}")  # fmt: skip
            state.execute(f"INSERT INTO events VALUES ({', '.join('?' * 9)})", told)
        used = ("u1", 1.0, "app", "acme/lab", "민원", "r", 10, 0, 5, 200, 0.1, None, False)
        state.execute(f"INSERT INTO usage VALUES ({', '.join('?' * 13)})", used)
        state.execute("INSERT INTO usage_totals VALUES ('acme/lab', '민원', 1, 10, 0, 5)")
        state.execute("INSERT INTO meta VALUES ('term', 7)")
        state.commit()
    return path


def home_of(old: Path, folder: Path) -> Home:
    home = Home(folder)
    home.path.mkdir()
    shutil.copy(old, home.state)
    return home


async def opened(home: Home) -> dict[str, Any]:
    """Open a home as control does, and return all that it holds."""
    url = settings.database_url(home)
    store = PostgresStore(home, url) if url else SqliteStore(home)
    term = await store.open()
    try:
        await store.health()
        revision, living = await store.load(CONTROL)
        used = await store.record_usage(CONTROL, ())
        return {
            "term": term,
            "revision": revision,
            "living": {(r.kind, r.project, r.name) for r in living},
            "roles": {r.name: (r.spec.role, r.spec.where) for r in living if r.kind == "key"},
            "events": len(await store.events(CONTROL)),
            "gone": [r.name for r, is_gone in await store.changes(CONTROL, 0) if is_gone],
            "requests": [total.requests for total in used],
        }
    finally:
        await store.close()


def check(home: Home) -> None:
    """All data is there, and the copy that was taken before is what it was taken from."""
    found = asyncio.run(opened(home))
    assert found["living"] == {
        ("organization", "acme", "acme"), ("project", "acme/lab", "lab"),
        ("key", "acme/lab", "admin"), ("key", "acme/lab", "app"), ("service", "acme/lab", "민원"),
    }  # fmt: skip
    assert found["roles"] == {"admin": ("operator", ""), "app": ("member", "acme/lab")}
    assert (found["revision"], found["events"]) == (9, EVENTS)
    assert (found["gone"], found["requests"]) == (["gone"], [1])
    assert found["term"] > 7
    assert peek.version(home.state) == migrations.VERSIONS[-1]
    (copy,) = home.backups.glob("*")
    with closing(sqlite3.connect(copy)) as state:
        assert state.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert state.execute("SELECT version_num FROM alembic_version").fetchone() == (BEFORE,)
        assert state.execute("SELECT count(*) FROM events").fetchone() == (EVENTS,)
        assert state.execute("SELECT value FROM meta WHERE name = 'term'").fetchone() == (7,)


def test_an_upgrade_keeps_everything(old: Path, tmp_path: Path) -> None:
    home = home_of(old, tmp_path / "home")
    assert peek.version(home.state) == BEFORE
    check(home)


@pytest.mark.timeout(180)
def test_killed_before_any_statement_an_upgrade_is_finished_by_the_next(
    old: Path, tmp_path: Path, doomed: Doomed
) -> None:
    for step in range(1, STEPS_MAX):
        home = home_of(old, tmp_path / f"home-{step}")
        doomed.send("open", step, home.path)
        status = doomed.ended()
        check(home)
        if status == 0:
            break
        assert status == 9
        shutil.rmtree(home.path)
    print(f"killed before each of {step} statements and commits")
    assert 20 < step < STEPS_MAX - 1


@pytest.mark.timeout(180)
def test_killed_at_any_moment_an_upgrade_is_finished_by_the_next(
    old: Path, tmp_path: Path, doomed: Doomed
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance, killed = random.Random(seed), 0
    began = time.monotonic()
    doomed.send("open", 0, home_of(old, tmp_path / "whole").path)
    assert doomed.ended() == 0
    whole_s = time.monotonic() - began
    for number in range(MOMENTS):
        home = home_of(old, tmp_path / f"home-{number}")
        pid = doomed.send("open", 0, home.path)
        time.sleep(chance.random() * whole_s)  # the moment of death, not a wait for anything
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed += doomed.ended() == -signal.SIGKILL
        check(home)
    print(f"seed {seed}: {killed} of {MOMENTS} were killed before they had finished")
    assert killed > 0


def test_a_backup_of_the_oldest_version_can_be_restored(old: Path, tmp_path: Path) -> None:
    about = {"made_at": 1.0, **backup.describe(old)}
    with archive.keeping(tmp_path / "old.backup") as write:
        for piece in archive.packed({archive.STATE: old}, about):
            write(piece)
    home = Home(tmp_path / "home")
    done = restore.restore(home, tmp_path / "old.backup", OWNER, replace=False)
    assert done.listing.about["schema"] == BEFORE
    found = asyncio.run(opened(home))
    assert found["roles"] == {"admin": ("operator", ""), "app": ("member", "acme/lab")}
    assert found["events"] == EVENTS + 1
    assert restore.drill(tmp_path / "old.backup", OWNER)["differences"] == []
