"""An upgrade of a PostgreSQL database with rows in it, from every version there ever was."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, MetaData, create_engine, insert

from madang.settings import Home
from madang.stores import migrations
from madang.testing.postgres import PostgresServer

from .conftest import Doomed
from .test_upgrade import RESOURCES, opened

EVENTS = 1_200
"""More than a migration takes in one go."""
STEPS_MAX = 500
EVERY = 25
"""A copy of a database takes its time: of so many steps one is tried, another in each version."""
OLDER = migrations.VERSIONS[:-1]


def rows(version: str) -> dict[str, list[dict[str, Any]]]:
    """Return what tables of that version may hold, as the first version wrote it."""
    told = {"actor": "key/admin", "code": "service.created", "kind": "service",
            "project": "acme/lab", "name": "민원", "uid": "u", "values": "{}"}  # fmt: skip
    made = {"uid": "u", "generation": 1, "created_at": 0.1, "status": "{}", "gone": False}
    found: dict[str, list[dict[str, Any]]] = {
        "resources": [
            made | {"id": n, "kind": kind, "project": project, "name": name, "uid": f"{kind}{n}",
                    "resource_version": n, "spec": json.dumps(spec, ensure_ascii=False)}
            for n, (kind, project, name, spec) in enumerate(RESOURCES, 1)
        ],
        "events": [{"seq": n + 1, "at": n / 7, **told} for n in range(EVENTS)],
        "usage": [
            {"id": "u1", "at": 1.3, "key": "app", "project": "acme/lab", "endpoint": "민원",
             "replica": "r", "prompt_tokens": 10, "cached_tokens": 0, "output_tokens": 5,
             "status": 200, "duration_s": 0.1, "first_token_s": None, "estimated": True},
        ],
        "usage_totals": [
            {"project": "acme/lab", "endpoint": "민원", "requests": 1, "prompt_tokens": 10,
             "cached_tokens": 0, "output_tokens": 5},
        ],
        "meta": [{"name": "term", "value": 7}],
    }  # fmt: skip
    found["resources"].append(
        made | {"id": 9, "kind": "service", "project": "acme/lab", "name": "gone", "uid": "g",
                "resource_version": 9, "deleted_at": 1.0, "spec": '{"model": "tiny"}', "gone": True}
    )  # fmt: skip
    if version >= "0002":
        found["audit"] = [{"seq": 1, "at": 0.1, "by": "k", "digest": "d", **told}]
    if version >= "0003":
        found["replies"] = [{"id": "r", "asked": "a", "at": 0.1, "answer": "{}"}]
    return found


def fill(connection: Connection, version: str) -> None:
    """Make the state that a Madang of that version left: begun by the first, upgraded since.

    Each table is filled by the version that brought it: the later ones seal what they write.
    """
    before, known = None, set[str]()
    for each in OLDER[: OLDER.index(version) + 1]:
        migrations.upgrade(connection, before, to=each)
        kept = rows(each)
        _insert(connection, {name: own for name, own in kept.items() if name not in known})
        before, known = each, set(kept)


def _insert(connection: Connection, kept: dict[str, list[dict[str, Any]]]) -> None:
    there = MetaData()
    there.reflect(connection)
    for name, each in kept.items():
        for row in each:
            connection.execute(insert(there.tables[name]), row)


@pytest.fixture(params=OLDER)
def old(request: pytest.FixtureRequest, postgres: PostgresServer) -> tuple[str, str]:
    """Give a version, and the name of a database that it has left."""
    name = postgres.make_database()
    engine = create_engine("postgresql+psycopg://", creator=lambda: _plain(postgres, name))
    with engine.begin() as connection:
        fill(connection, request.param)
    engine.dispose()
    return request.param, name


def _plain(server: PostgresServer, name: str) -> psycopg.Connection[Any]:
    connection = server.connect(name)
    connection.autocommit = False
    return connection


def home_of(server: PostgresServer, database: str, folder: Path) -> Home:
    folder.mkdir()
    home = Home(folder)
    home.database.write_text(server.url(database))
    return home


def check(home: Home, version: str) -> None:
    """All rows are there, each with its seal, and the copy that was taken before is whole."""
    found = asyncio.run(opened(home))
    assert {name for _, _, name in found["living"]} == {"acme", "lab", "admin", "app", "민원"}
    assert found["roles"] == {"admin": ("operator", ""), "app": ("member", "acme/lab")}
    assert (found["revision"], found["events"]) == (9, 1_000), "a page of events"
    assert (found["gone"], found["requests"]) == (["gone"], [1])
    assert found["term"] > 7
    (copy,) = home.backups.glob("*")
    with closing(sqlite3.connect(copy)) as state:
        assert state.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert state.execute("SELECT version_num FROM alembic_version").fetchone() == (version,)
        assert state.execute("SELECT count(*) FROM events").fetchone() == (EVENTS,)


def test_an_upgrade_keeps_every_row_and_seals_it(
    old: tuple[str, str], postgres: PostgresServer, tmp_path: Path
) -> None:
    version, database = old
    check(home_of(postgres, database, tmp_path / "home"), version)
    with postgres.connect(database) as admin:
        kept = admin.execute("SELECT version_num, (SELECT count(*) FROM events) "
                             "FROM alembic_version").fetchall()  # fmt: skip
        unsealed = admin.execute("SELECT count(*) FROM events WHERE crc = 0").fetchall()
    assert (kept, unsealed) == ([(migrations.VERSIONS[-1], EVENTS)], [(0,)])


@pytest.mark.timeout(600)
def test_killed_at_a_statement_an_upgrade_is_finished_by_the_next(
    old: tuple[str, str], postgres: PostgresServer, tmp_path: Path, doomed: Doomed
) -> None:
    version, template = old
    killed = 0
    for step in range(1 + OLDER.index(version) * EVERY // len(OLDER), STEPS_MAX, EVERY):
        database = postgres.make_database(like=template)
        home = home_of(postgres, database, tmp_path / f"home-{step}")
        doomed.send("open", step, home.path)
        status = doomed.ended()
        check(home, version)
        postgres.drop_database(database)
        if status == 0:
            break
        assert status == 9
        killed += 1
    print(f"killed at {killed} of {step} statements and commits")
    assert killed > 2
    assert step < STEPS_MAX - EVERY
