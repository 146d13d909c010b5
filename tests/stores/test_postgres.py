"""What holds for the PostgreSQL store only: its hold, its fence, its bad days."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from madang.errors import Corrupt, MadangError, Rejected, Unavailable
from madang.ports import Write
from madang.resources.event import Event
from madang.resources.resource import AnyResource
from madang.resources.rights import CONTROL
from madang.resources.tenancy import Empty, Organization, TitleSpec
from madang.settings import Home
from madang.stores import lane, peek, postgres, sql
from madang.stores.postgres import PostgresStore
from madang.stores.sqlite import SqliteStore
from madang.testing.postgres import PASSWORD, PostgresServer, running

SOON_S = 20.0
"""Within this a store has come back by itself; far more than it takes."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this file alone: it is stopped, killed and filled."""
    with running() as made:
        yield made


@pytest.fixture
def database(server: PostgresServer) -> str:
    return server.make_database()


def made(home: Path, server: PostgresServer, database: str, **more: Any) -> PostgresStore:
    return PostgresStore(Home(home), server.url(database), hold_wait_s=0.3, **more)


@pytest.fixture
async def store(
    tmp_path: Path, server: PostgresServer, database: str
) -> AsyncIterator[PostgresStore]:
    ready = made(tmp_path / "home", server, database)
    await ready.open()
    yield ready
    await ready.close()


def organization(name: str) -> Organization:
    title = TitleSpec(title="기관")
    return Organization(project=name, name=name, uid=name, spec=title, status=Empty())


async def put(store: Any, name: str) -> list[AnyResource]:
    told = Event(at=0, actor="a", code="c", kind="organization", project=name, name=name, uid=name)
    return list(await store.commit(CONTROL, [Write(organization(name))], [told]))


async def names(store: Any) -> set[str]:
    return {each.name for each in (await store.load(CONTROL))[1]}


async def refused(work: Any) -> MadangError:
    with pytest.raises(MadangError) as caught:
        await work
    return caught.value


async def back(store: Any, name: str) -> None:
    """Wait until the store takes writes again, by itself."""
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            await put(store, name)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_second_control_of_another_home_is_refused_and_told_who_has_it(
    store: PostgresStore, tmp_path: Path, server: PostgresServer, database: str
) -> None:
    error = await refused(made(tmp_path / "other", server, database).open())
    assert error.code == "store.held"
    assert str(error.values["pid"]).startswith(f"{os.getpid()} on ")


async def test_a_control_that_lost_its_hold_to_another_never_writes_again(
    store: PostgresStore, tmp_path: Path, server: PostgresServer, database: str
) -> None:
    await put(store, "before")
    with server.connect(database) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'madang %' AND datname = current_database()"
        )
    other = made(tmp_path / "other", server, database)
    assert await other.open() == 2
    codes = {(await refused(put(store, "late"))).code for _ in range(2)}
    assert codes <= {"store.unreachable", "store.held"}
    await other.close()
    await asyncio.sleep(lane.AGAIN_S)
    for _ in range(2):
        assert (await refused(put(store, "later"))).code == "store.superseded"
        await asyncio.sleep(lane.AGAIN_S)


async def test_the_fence_holds_even_on_a_connection_that_never_broke(
    store: PostgresStore, server: PostgresServer, database: str
) -> None:
    with server.connect(database) as admin:
        admin.execute("UPDATE meta SET value = value + 1 WHERE name = 'term'")
    assert (await refused(put(store, "late"))).code == "store.superseded"
    assert await names(store) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
async def test_a_server_that_restarts_loses_nothing_and_is_found_again(
    store: PostgresStore, server: PostgresServer, number: signal.Signals
) -> None:
    told: set[str] = set()

    async def write_on(writer: int) -> None:
        for serial in range(10**6):
            name = f"w{writer}-{serial}"
            try:
                await put(store, name)
            except Unavailable:
                return
            told.add(name)

    writers = [asyncio.create_task(write_on(n)) for n in range(4)]
    while len(told) < 20:
        await put(store, f"warm-{len(told)}-{time.monotonic_ns()}")
    await asyncio.to_thread(server.stop, number)
    await asyncio.wait_for(asyncio.gather(*writers), SOON_S)
    began = time.monotonic()
    for _ in range(3):
        assert isinstance(await refused(put(store, "while-away")), Unavailable)
    assert time.monotonic() - began < SOON_S
    await asyncio.to_thread(server.start)
    await back(store, "after")
    assert told <= await names(store)


async def test_a_lock_that_somebody_holds_is_waited_for_within_bounds(
    store: PostgresStore, server: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.connect(database) as other:
        other.autocommit = False
        other.execute("LOCK TABLE resources IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        errors = await asyncio.gather(refused(put(store, "a")), refused(put(store, "b")))
        assert {error.code for error in errors} == {"store.locked"}
        assert time.monotonic() - began < SOON_S
    await back(store, "after")


async def test_a_server_with_no_connection_left_is_found_again_when_it_has_one(
    store: PostgresStore, server: PostgresServer, database: str
) -> None:
    taken = []
    user = "crowd"
    with server.connect(database) as admin:
        admin.execute("SELECT 1")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'madang %' AND datname = current_database()"
        )
    try:
        while True:
            taken.append(server.connect(database))
    except psycopg.OperationalError:
        pass
    error = await refused(put(store, user))
    if "too many" not in str(error.values["cause"]):
        error = await refused(put(store, user))
    assert error.code == "store.unreachable"
    assert "too many" in str(error.values["cause"]) or "reserved" in str(error.values["cause"])
    for each in taken:
        each.close()
    await back(store, "after")


async def test_a_server_that_hangs_is_cut_off(
    store: PostgresStore, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "SILENCE_S", 0.5)
    with server.connect("postgres") as admin:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'madang %'"
        backends = [pid for (pid,) in admin.execute(query)]
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        error = await asyncio.wait_for(refused(put(store, "a")), SOON_S)
        assert error.code in {"store.unreachable", "store.outcome-unknown"}
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    await back(store, "after")


async def test_a_commit_that_dies_in_its_last_step_is_called_unknown(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune = store._lane._after_group

    def cut_before_the_end(connection: Any) -> None:
        prune(connection)
        store._database.cut()

    monkeypatch.setattr(store._lane, "_after_group", cut_before_the_end)
    assert (await refused(put(store, "a"))).code == "store.outcome-unknown"
    monkeypatch.undo()
    await back(store, "after")


async def test_a_value_that_the_database_does_not_take_harms_nobody_else(
    store: PostgresStore,
) -> None:
    odd = Event(at=0, actor="a", code="c\0", kind="k", name="n")
    outcomes = await asyncio.gather(
        store.commit(CONTROL, [], [odd]), put(store, "beside"), return_exceptions=True
    )
    assert isinstance(outcomes[0], Rejected)
    assert outcomes[0].code == "store.value"
    assert await names(store) == {"beside"}


async def open_at(home: Path, url: str) -> None:
    await PostgresStore(Home(home), url).open()


async def test_nothing_says_the_password(server: PostgresServer, tmp_path: Path) -> None:
    secrets = (PASSWORD, quote(PASSWORD, safe=""))
    fine = server.url("nowhere")
    for url in (
        fine,
        fine.replace("nowhere", "postgres").replace(quote(PASSWORD, safe=""), "geheim%20x"),
        f"postgresql://u:{secrets[1]}@127.0.0.1:1/x",
        f"postgresql://u:{secrets[1]}@127.0.0.1:port/x",
        f"postgresql://u:{secrets[1]}@[::1/x",
    ):
        error = await refused(open_at(tmp_path, url))
        said = f"{error} {error!r} {error.__cause__} {error.__cause__!r} {error.values}"
        assert not any(secret in said for secret in (*secrets, "geheim")), said
        assert error.code in {"store.unreachable", "setting.database-url"}


async def test_what_is_no_place_for_state_is_refused_with_its_name(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.connect("postgres") as admin:
        admin.execute("DROP DATABASE IF EXISTS latin")
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        admin.execute("DROP DATABASE IF EXISTS still")
        admin.execute("CREATE DATABASE still")
        admin.execute("ALTER DATABASE still SET default_transaction_read_only = on")
    theirs = server.make_database()
    with server.connect(theirs) as other:
        other.execute("CREATE TABLE theirs (x int)")
    expected = {"latin": (Rejected, "store.encoding"), "still": (Unavailable, "store.read-only"),
                theirs: (Corrupt, "store.not-ours")}  # fmt: skip
    for database, (kind, code) in expected.items():
        error = await refused(made(tmp_path, server, database).open())
        assert (type(error), error.code) == (kind, code)
    monkeypatch.setattr(postgres, "OLDEST", 990_000)
    error = await refused(made(tmp_path, server, server.make_database()).open())
    assert error.code == "store.old-server"


async def test_an_empty_database_takes_in_the_homes_state_and_a_copy_is_a_state_file(
    server: PostgresServer, database: str, tmp_path: Path
) -> None:
    home, copy = Home(tmp_path / "home"), Home(tmp_path / "copy")
    before = SqliteStore(home)
    await before.open()
    for name in ("a", "b"):
        await put(before, name)
    told = await before.events(CONTROL)
    identity, state = before.id, await before.load(CONTROL)
    await before.close()
    moved = PostgresStore(home, server.url(database))
    assert await moved.open() == 2
    assert (moved.id, await moved.load(CONTROL)) == (identity, state)
    assert await moved.events(CONTROL) == told
    await put(moved, "c")
    assert not home.state.exists()
    assert [path.suffix for path in home.backups.iterdir()] == [".db"]
    await moved.backup(CONTROL, copy.state)
    back_again = SqliteStore(copy)
    assert await back_again.open() == 3
    assert await back_again.load(CONTROL) == await moved.load(CONTROL)
    assert [e.seq for e in await back_again.events(CONTROL)] == [1, 2, 3]
    await back_again.close()
    await moved.close()


async def test_a_home_with_another_state_than_the_databases_is_refused_and_both_stay(
    server: PostgresServer, database: str, tmp_path: Path, store: PostgresStore
) -> None:
    await put(store, "there")
    await store.close()
    home = Home(tmp_path / "other")
    here = SqliteStore(home)
    await here.open()
    await put(here, "here")
    await here.close()
    error = await refused(made(home.path, server, database).open())
    assert error.code == "store.two-states"
    await here.open()
    assert await names(here) == {"here"}
    await here.close()
    await store.open()
    assert await names(store) == {"there"}


async def test_a_migration_that_is_killed_changes_nothing(
    server: PostgresServer, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path / "home", server, database)
    await store.open()
    await put(store, "kept")
    await store.close()
    monkeypatch.setattr(sql, "VERSIONS", (*sql.VERSIONS, "9998"))

    def shape() -> list[Any]:
        query = (
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' ORDER BY 1, 2"
        )
        with server.connect(database) as admin:
            return admin.execute(query).fetchall()

    def die_half_way(connection: Any, *_: Any) -> None:
        connection.exec_driver_sql("CREATE TABLE half (x int)")
        connection.exec_driver_sql("ALTER TABLE usage ADD COLUMN half int")
        server.restart(signal.SIGKILL)
        connection.exec_driver_sql("SELECT 1")

    before = shape()
    monkeypatch.setattr(sql, "upgrade", die_half_way)
    assert isinstance(await refused(store.open()), Unavailable)
    assert shape() == before
    assert len(list(Home(tmp_path / "home").backups.glob("term-*.db"))) == 1
    monkeypatch.undo()
    store = made(tmp_path / "home", server, database)
    await store.open()
    assert await names(store) == {"kept"}
    await store.close()


async def test_doctor_learns_which_settings_are_not_safe(store: PostgresStore) -> None:
    health = await store.health()
    assert (health.product, health.unsafe) == ("PostgreSQL", ("fsync",))
    assert PASSWORD not in health.place


async def test_a_state_in_a_database_is_looked_at_while_no_control_has_it(
    server: PostgresServer, database: str, tmp_path: Path
) -> None:
    home, url = Home(tmp_path / "home"), server.url(database)
    store = made(home.path, server, database)
    await store.open()
    await put(store, "kept")
    await store.close()

    def outcome(change: str = "") -> tuple[str, str]:
        with server.connect(database) as admin:
            admin.execute(change or "SELECT 1")
        try:
            return peek.examine(home, url)[1], ""
        except MadangError as error:
            return error.code, error.subject

    assert outcome() == (sql.VERSIONS[-1], "")
    assert outcome("UPDATE events SET name = 'x'") == ("store.unreadable", "events/1")
    peek.refuse_newer(home, url)
    assert outcome("UPDATE alembic_version SET version_num = '9999'")[0] == "store.newer-version"
    with pytest.raises(Corrupt):
        peek.refuse_newer(home, url)
    away = "postgresql://127.0.0.1:1/x"
    with pytest.raises(Unavailable) as raised:
        peek.examine(home, away)
    assert raised.value.code == "store.unreachable"
    peek.refuse_newer(home, away)  # that is left to control, which says so
