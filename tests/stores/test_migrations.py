"""From an older state to this one, and from nothing to the same tables by either way."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from madang.errors import Corrupt, Unavailable
from madang.ports import Write
from madang.resources.rights import CONTROL
from madang.resources.tenancy import Empty, Organization, TitleSpec
from madang.settings import Home
from madang.stores import migrations, sql, sqlite
from madang.stores.tables import metadata

NEWEST = migrations.VERSIONS[-1]
SECOND = f'''"""One more table, and a column."""
import sqlalchemy as sa
from alembic import op

revision = "9998"
down_revision = "{NEWEST}"

def upgrade():
    op.create_table("extra", sa.Column("id", sa.Integer, primary_key=True))
    op.add_column("usage", sa.Column("later", sa.Float))
'''


def schema(database: Path) -> dict[str, list[object]]:
    """Columns and indexes of each table, as SQLite itself sees them."""
    connection = sqlite3.connect(database)
    found: dict[str, list[object]] = {}
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
        found[table] = list(connection.execute(f"PRAGMA table_info('{table}')"))
        for row in connection.execute(f"PRAGMA index_list('{table}')").fetchall():
            found[table].append((*row[1:], *connection.execute(f"PRAGMA index_info('{row[1]}')")))
        found[table].sort(key=str)
    indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    found["indexes"] = sorted(connection.execute(indexes))
    connection.close()
    return found


def test_migrating_from_nothing_gives_the_same_tables_as_making_them(tmp_path: Path) -> None:
    made, migrated = tmp_path / "made.db", tmp_path / "migrated.db"
    for path, fill in (
        (made, metadata.create_all),
        (migrated, lambda c: migrations.upgrade(c, None)),
    ):
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            fill(connection)
        engine.dispose()
    assert schema(made) == schema(migrated)
    assert len(schema(made)) == len(metadata.tables) + 1
    stamped = sqlite3.connect(migrated)
    found = stamped.execute("SELECT version_num FROM alembic_version").fetchall()
    stamped.close()
    assert found == [(migrations.VERSIONS[-1],)]


def test_every_version_has_one_script(tmp_path: Path) -> None:
    scripts = sorted(path.stem for path in (migrations.SCRIPTS / "versions").glob("v*.py"))
    assert scripts == [f"v{version}" for version in migrations.VERSIONS]


async def old_state(home: Home) -> Organization:
    store = sqlite.SqliteStore(home)
    await store.open()
    org = Organization(
        project="org", name="org", uid="o", spec=TitleSpec(title="기관"), status=Empty()
    )
    (stored,) = await store.commit(CONTROL, [Write(org)])
    await store.close()
    assert isinstance(stored, Organization)
    return stored


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend to be the version after this one."""
    scripts = tmp_path / "scripts"
    shutil.copytree(migrations.SCRIPTS, scripts)
    second = scripts / "versions" / "v9998.py"
    second.write_text(SECOND)
    monkeypatch.setattr(sql, "SCRIPTS", scripts)
    monkeypatch.setattr(sql, "VERSIONS", (*migrations.VERSIONS, "9998"))
    return second


async def test_an_older_state_is_copied_then_migrated(
    home: Home, request: pytest.FixtureRequest
) -> None:
    stored = await old_state(home)
    request.getfixturevalue("next_version")
    store = sqlite.SqliteStore(home)
    assert await store.open() == 2
    assert await store.load(CONTROL) == (stored.resource_version, [stored])
    await store.close()
    assert "extra" in schema(home.state)
    (copy,) = home.backups.iterdir()
    assert copy.name == f"term-0000000001-version-{NEWEST}.db"
    assert "extra" not in schema(copy)
    assert await store.open() == 3
    await store.close()
    assert len(list(home.backups.iterdir())) == 1


async def test_a_migration_that_fails_changes_nothing_and_keeps_one_copy(
    home: Home, next_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(sql, "VERSIONS", migrations.VERSIONS)
        stored = await old_state(home)
    before = schema(home.state)
    next_version.write_text(SECOND + '    op.drop_table("never-there")\n')
    for _ in range(2):
        with pytest.raises(Unavailable):
            await sqlite.SqliteStore(home).open()
    assert schema(home.state) == before
    assert len(list(home.backups.iterdir())) == 1
    next_version.write_text(SECOND)
    store = sqlite.SqliteStore(home)
    await store.open()
    assert (await store.load(CONTROL))[1] == [stored]
    await store.close()


async def test_the_newest_five_copies_stay(home: Home, next_version: Path) -> None:
    home.backups.mkdir(parents=True)
    for term in range(7):
        (home.backups / f"term-{term:010}-version-0000.db").write_text("old")
    other = home.backups / "mine.db"
    other.write_text("not a copy of ours")
    with pytest.MonkeyPatch.context() as older:
        older.setattr(sql, "VERSIONS", migrations.VERSIONS)
        for _ in range(9):
            await old_term(home)
    store = sqlite.SqliteStore(home)
    await store.open()
    await store.close()
    names = sorted(path.name for path in home.backups.glob("term-*"))
    assert len(names) == sql.BACKUPS_KEPT
    assert names[-1] == f"term-0000000009-version-{NEWEST}.db"
    assert other.exists()


async def old_term(home: Home) -> None:
    store = sqlite.SqliteStore(home)
    await store.open()
    await store.close()


async def test_a_newer_state_is_refused_and_left_alone(home: Home) -> None:
    await old_state(home)
    connection = sqlite3.connect(home.state)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = home.state.read_bytes()
    with pytest.raises(Corrupt) as refused:
        await sqlite.SqliteStore(home).open()
    assert refused.value.code == "store.newer-version"
    assert refused.value.values["found"] == "9999"
    assert home.state.read_bytes() == before


def test_a_fresh_state_loads_no_alembic(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from madang.settings import Home\n"
        "from madang.stores.sqlite import SqliteStore\n"
        "from madang.resources.rights import CONTROL\n"
        "store = SqliteStore(Home(Path(sys.argv[1])))\n"
        "async def main():\n    await store.open(); await store.load(CONTROL)\n"
        "    await store.close()\n"
        "for _ in range(2): asyncio.run(main())\n"
        "print('alembic' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


async def test_a_record_that_was_broken_before_is_not_sealed_by_a_migration(home: Home) -> None:
    """What is sealed anew is what was right; the other is found as it would have been."""
    home.path.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{home.state}")
    with engine.begin() as connection:
        migrations.upgrade(connection, None, to="0006")
    engine.dispose()
    used = ("u1", 1.0, "app", "acme/lab", "bot", "r", 10, 0, 5, 200, 0.1, None, False)
    with sqlite3.connect(home.state) as state:
        names = "id, at, key, project, endpoint, replica, prompt_tokens, cached_tokens, "
        names += "output_tokens, status, duration_s, first_token_s, estimated"
        gaps = ", ".join("?" * len(used))
        state.execute(f"INSERT INTO usage ({names}) VALUES ({gaps})", used)
        state.execute("INSERT INTO usage_totals VALUES ('acme/lab', 'bot', 1, 10, 0, 5)")
    engine = create_engine(f"sqlite:///{home.state}")
    with engine.begin() as connection:
        migrations.upgrade(connection, "0006", to="0007")
    engine.dispose()
    with sqlite3.connect(home.state) as state:
        whole = list(state.execute("SELECT crc FROM usage"))
        state.execute("UPDATE usage SET replica = 's'")
    engine = create_engine(f"sqlite:///{home.state}")
    with engine.begin() as connection:
        migrations.upgrade(connection, "0007", to="0008")
    engine.dispose()
    with sqlite3.connect(home.state) as state:
        assert list(state.execute("SELECT crc, price, micro_wh FROM usage")) == [
            (*whole[0], "", 0)
        ]  # fmt: skip
        (days,) = (state.execute("SELECT crc FROM usage_days").fetchone(),)
        assert days
    store = sqlite.SqliteStore(home)
    await store.open()
    with pytest.raises(Corrupt, match="usage"):
        await store.health()
    await store.close()
