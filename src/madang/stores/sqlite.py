"""State in one SQLite file: durable after every commit, one connection in one thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, suppress
from functools import partial
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.pool import NullPool

from madang.errors import Corrupt, Forbidden, Rejected, Unavailable
from madang.ports import UsageTotal, Write
from madang.resources.event import AuditRecord, Event
from madang.resources.resource import AnyResource
from madang.resources.rights import Principal, Right
from madang.settings import Home
from madang.stores import place, queries
from madang.stores.lane import Lane, translated
from madang.stores.ledger import records, refuse_outside
from madang.stores.migrations import SCRIPTS, VERSIONS, upgrade
from madang.stores.rows import event_row, resource_row, usage_row
from madang.stores.tables import alembic_version, metadata
from madang.traffic.table import Usage

TOMBSTONES_KEPT = 10_000
"""The newest this many stay in the feed."""

EVENTS_KEPT = 1_000_000
"""The newest this many are kept."""

BACKUPS_KEPT = 5
"""Copies taken before a migration; the newest this many stay."""

LOG_BYTES_MAX = 64 << 20
"""The write-ahead log is cut back to this after a checkpoint."""

_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": "on",
    "busy_timeout": "5000",
    "journal_size_limit": str(LOG_BYTES_MAX),
}


class SqliteStore:
    """A `madang.ports.Store` and `History` in `home.state`."""

    def __init__(
        self,
        home: Home,
        *,
        file_system: Callable[[Path], str] = place.file_system,
        tombstones_kept: int = TOMBSTONES_KEPT,
        events_kept: int = EVENTS_KEPT,
    ) -> None:
        assert tombstones_kept > 0, "the newest tombstone remembers the newest revision"
        self._home = home
        self._file_system = file_system
        self._kept = (tombstones_kept, events_kept)
        self._hold = place.Hold(home.control_lock)
        self._lane = Lane(self._prune)
        self._revision = 0
        self._id = ""

    async def open(self) -> int:
        """See `Store.open`; raises `Rejected` for a home on a network file system."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            await self._lane.start(self._connect)
            term = await self._lane.write(self._begin_term)
            undo.pop_all()
        return term

    @property
    def id(self) -> str:
        """See `Store.id`."""
        return self._id

    async def load(self, who: Principal) -> tuple[int, Sequence[AnyResource]]:
        """See `Store.load`."""
        ask = partial(queries.living, who=who)
        return await self._lane.read(lambda c: (queries.newest_revision(c), ask(c)))

    async def commit(
        self, who: Principal, writes: Sequence[Write], events: Sequence[Event] = ()
    ) -> Sequence[AnyResource]:
        """See `Store.commit`. Writes are done in the order given."""
        refuse_outside(who, writes)
        rows = [resource_row(each.resource) for each in writes]
        told = [event_row(each) for each in events]

        def work(connection: Connection) -> list[AnyResource]:
            self._revision += 1
            stamp = {"resource_version": self._revision}
            if who.audited:
                queries.add_audit(connection, records(connection, who, writes, events))
            for each, row in zip(writes, rows, strict=True):
                planned = each.resource.resource_version
                queries.write(connection, row, planned, self._revision, gone=each.gone)
            queries.add_events(connection, told)
            return [each.resource.model_copy(update=stamp) for each in writes]

        return await self._lane.write(work)

    async def changes(
        self, who: Principal, after: int, limit: int = 1000
    ) -> Sequence[tuple[AnyResource, bool]]:
        """See `Store.changes`."""
        return await self._lane.read(partial(queries.changes, who=who, after=after, limit=limit))

    async def events(
        self, who: Principal, after: int = 0, limit: int = 1000, project: str | None = None
    ) -> Sequence[Event]:
        """See `History.events`."""
        ask = partial(queries.events_after, who=who, after=after, limit=limit, project=project)
        return await self._lane.read(ask)

    async def audit(
        self, who: Principal, after: int = 0, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """See `History.audit`."""
        ask = partial(queries.audit_after, who=who, after=after, limit=limit)
        return await self._lane.read(ask)

    async def record_usage(self, who: Principal, records: Sequence[Usage]) -> Sequence[UsageTotal]:
        """See `History.record_usage`."""
        rows = [usage_row(each) for each in records]
        ask = partial(queries.totals, who=who)

        def work(connection: Connection) -> list[UsageTotal]:
            queries.keep_usage(connection, rows)
            return ask(connection)

        return await (self._lane.write(work) if rows else self._lane.read(ask))

    async def backup(self, who: Principal, path: Path) -> None:
        """See `Store.backup`. The copy is checked before it gets its name."""
        if not who.may(Right.OPERATE, ""):
            raise Forbidden("role.right-needed", who.actor, right=Right.OPERATE, role=who.role)
        await self._lane.outside(lambda connection: _copy(connection, path))

    async def close(self) -> None:
        """See `Store.close`; again is a no-op."""
        await self._lane.stop()
        self._hold.release()

    def _connect(self) -> Connection:
        place.refuse_network(self._home.path, self._file_system(self._home.path))
        try:
            place.make_private(self._home.control_lock)
            self._hold.take()
            place.make_private(self._home.state)
        except OSError as error:
            raise Unavailable("store.write-failed", cause=str(error)) from error
        with translated("store.write-failed"), ExitStack() as undo:
            connection = undo.enter_context(_engine(self._home.state).connect())
            self._make_ready(connection)
            undo.pop_all()
        return connection

    def _make_ready(self, connection: Connection) -> None:
        with connection.begin():
            problem = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if problem != "ok":
                raise Corrupt("store.damaged", cause=problem)
            found = _version(connection)
            if found is None:
                metadata.create_all(connection)
                connection.execute(insert(alembic_version), {"version_num": VERSIONS[-1]})
            term = queries.read_meta(connection, "term")
            self._revision = queries.newest_revision(connection)
        if found not in (None, VERSIONS[-1]):
            self._migrate(connection, found, term)

    def _migrate(self, connection: Connection, found: str, term: int) -> None:
        """Copy, then change. A copy of this term and version is the same copy: keep it."""
        backups = self._home.backups
        backups.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = backups / f"term-{term:010}-version-{found}.db"
        if not path.exists():
            _copy(connection, path)
        for old in sorted(backups.glob("term-*.db"))[:-BACKUPS_KEPT]:
            old.unlink()
        with connection.begin():
            upgrade(connection, found, SCRIPTS)

    def _begin_term(self, connection: Connection) -> int:
        self._id = queries.store_id(connection)
        term = queries.read_meta(connection, "term") + 1
        queries.write_meta(connection, "term", term)
        return term

    def _prune(self, connection: Connection) -> None:
        tombstones, events = self._kept
        queries.prune_tombstones(connection, tombstones)
        queries.prune_events(connection, events)


def _engine(path: Path) -> Engine:
    """Return an engine whose transactions are SQLite's own, begun as writers."""
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, poolclass=NullPool, connect_args={"isolation_level": None})

    @event.listens_for(engine, "connect")
    def prepare(raw: sqlite3.Connection, _record: object) -> None:
        for name, value in _PRAGMAS.items():
            (answer,) = raw.execute(f"PRAGMA {name}={value}").fetchone() or (None,)
            if name == "journal_mode" and answer != value:
                raise Unavailable("store.write-failed", cause=f"no write-ahead log: {answer}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _version(connection: Connection) -> str | None:
    """Return the version of the tables, None for an empty file; raises `Corrupt`."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if alembic_version.name not in tables:
        raise Corrupt("store.not-ours", cause=", ".join(sorted(tables)[:5]))
    found: str | None = connection.scalar(select(alembic_version.c.version_num))
    if found not in VERSIONS:
        raise Corrupt("store.newer-version", found=str(found), known=VERSIONS[-1])
    return found


def _copy(connection: Connection, path: Path) -> None:
    """Write a checked copy to a new file, in the connection's own thread."""
    if path.exists():
        raise Rejected("store.backup-exists", str(path))
    part = path.with_name(path.name + ".part")
    source = connection.connection.driver_connection
    assert isinstance(source, sqlite3.Connection)
    try:
        part.unlink(missing_ok=True)
        place.make_private(part)
        with closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
            (problem,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if problem != "ok":
            raise Corrupt("store.damaged", cause=problem)
        place.settle(part, path)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable("store.backup-failed", str(path), cause=str(error)) from error
    finally:
        with suppress(OSError):
            part.unlink()
