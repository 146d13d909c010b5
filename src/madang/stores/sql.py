"""What every store does alike: the calls of the ports, as work for the lane."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, inspect, select

from madang.errors import Corrupt, Forbidden, Unavailable
from madang.ports import Health, Reply, ToReply, UsageTotal, Write
from madang.resources.bill import By, Span, Used
from madang.resources.event import AuditRecord, Event
from madang.resources.resource import AnyResource
from madang.resources.rights import Principal, Right
from madang.settings import Home
from madang.stores import bill, budgets, lane, queries
from madang.stores.ledger import records, refuse_outside
from madang.stores.migrations import SCRIPTS, VERSIONS, make, upgrade
from madang.stores.rows import event_row, resource_row, usage_row
from madang.stores.tables import alembic_version
from madang.traffic.leases import Asked, Lent, Spent, Want
from madang.traffic.table import Usage

TOMBSTONES_KEPT = 10_000
"""The newest this many stay in the feed."""

EVENTS_KEPT = 1_000_000
"""The newest this many are kept."""

BACKUPS_KEPT = 5
"""Copies taken before a migration; the newest this many stay."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of what is over stays."""

    tombstones: int = TOMBSTONES_KEPT
    events: int = EVENTS_KEPT


class Database(lane.Database, Protocol):
    """What a store needs of its database, beside what the lane does."""

    def save(self, connection: Connection, path: Path, version: str) -> None:
        """Write a checked state file with what this connection sees, under a new name."""

    def looking(self) -> AbstractContextManager[Connection]:
        """Open it for reading, however another may hold it; raises as `connect` and the driver."""

    def health(self, connection: Connection, *, whole: bool = True) -> Health:
        """Say what this is, and which of its settings aren't safe.

        The `whole` of it is read where it isn't large: raises `Corrupt` if it isn't what was
        written.
        """


class SqlStore:
    """A `madang.ports.Store` and `History`, whatever the database."""

    def __init__(self, database: Database, home: Home, kept: Kept | None = None) -> None:
        self._database = database
        self._home = home
        self._kept = kept or Kept()
        assert self._kept.tombstones > 0, "the newest tombstone remembers the newest revision"
        self._lane = lane.Lane(
            database, ready=self._ready, before_group=self._refuse_fenced, after_group=self._prune
        )
        self._revision = 0
        self._term = 0
        self._id = ""

    async def open(self) -> int:
        """See `Store.open`."""
        self._term = 0
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            await self._lane.start()
            self._term = await self._lane.write(self._begin_term)
            undo.pop_all()
        return self._term

    @property
    def id(self) -> str:
        """See `Store.id`."""
        return self._id

    async def load(self, who: Principal) -> tuple[int, Sequence[AnyResource]]:
        """See `Store.load`."""
        ask = partial(queries.living, who=who)

        def work(connection: Connection) -> tuple[int, list[AnyResource]]:
            with connection.begin():
                return queries.newest_revision(connection), ask(connection)

        return await self._lane.outside(work)  # all of it, for as long as that takes

    async def commit(
        self,
        who: Principal,
        writes: Sequence[Write],
        events: Sequence[Event] = (),
        to_reply: ToReply | None = None,
    ) -> Sequence[AnyResource]:
        """See `Store.commit`. Writes are done in the order given."""
        refuse_outside(who, writes)
        rows = [resource_row(each.resource) for each in writes]
        told = [event_row(each) for each in events]

        def work(connection: Connection) -> list[AnyResource]:
            self._revision += 1
            stamp = {"resource_version": self._revision}
            if who.audited:
                found = partial(queries.found, connection)
                queries.add_audit(connection, records(found, who, writes, events))
            for each, row in zip(writes, rows, strict=True):
                planned = each.resource.resource_version
                queries.write(connection, row, planned, self._revision, gone=each.gone)
            queries.add_events(connection, told)
            stored = [each.resource.model_copy(update=stamp) for each in writes]
            if to_reply:
                queries.keep_reply(connection, asdict(to_reply(stored)))
            return stored

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

    async def reply(self, who: Principal, reply_id: str) -> Reply | None:  # noqa: ARG002
        """See `History.reply`."""
        return await self._lane.read(partial(queries.kept_reply, reply_id=reply_id))

    async def record_usage(
        self, who: Principal, records: Sequence[Usage], span: Span | None = None, keep_from: int = 0
    ) -> Sequence[UsageTotal]:
        """See `History.record_usage`."""
        rows = [usage_row(each) for each in records]
        ask = partial(queries.totals, who=who)

        def work(connection: Connection) -> list[UsageTotal]:
            fresh = bill.keep(connection, rows, span, keep_from)
            new = {each.id: each for each in reversed(records) if each.id in fresh}
            budgets.keep_spent(connection, tuple(new.values()))
            bill.prune(connection, keep_from)
            return ask(connection)

        return await (self._lane.write(work) if rows or span else self._lane.read(ask))

    async def usage_mark(self, who: Principal, segment: str) -> int:  # noqa: ARG002
        """See `History.usage_mark`."""
        return await self._lane.read(partial(bill.mark, segment=segment))

    async def used(
        self, who: Principal, days: range, project: str | None, by: By
    ) -> Sequence[Used]:
        """See `History.used`."""
        ask = partial(bill.used, who=who, days=days, project=project, by=by)
        return await self._lane.read(ask)

    async def lend(
        self,
        who: Principal,  # noqa: ARG002
        asked: Asked,
        wants: Sequence[tuple[Want, int]],
    ) -> Sequence[Lent]:
        """See `History.lend`."""
        return await self._lane.write(partial(budgets.lend_of, asked=asked, wants=wants))

    async def spent(self, who: Principal, day: int, month: int) -> Sequence[Spent]:
        """See `History.spent`."""
        return await self._lane.read(partial(budgets.spent_by, who=who, day=day, month=month))

    async def backup(self, who: Principal, path: Path) -> None:
        """See `Store.backup`. The copy is checked before it gets its name."""
        refuse_backup(who)
        await self._lane.outside(lambda c: self._database.save(c, path, VERSIONS[-1]))

    async def health(self) -> Health:
        """See `Store.health`."""
        return await self._lane.read(self._database.health)

    async def close(self) -> None:
        """See `Store.close`; again is a no-op."""
        await self._lane.stop()
        self._database.let_go()

    def _ready(self, connection: Connection) -> None:
        """Make the tables what this version needs; runs on each new connection."""
        with connection.begin():
            found = version(connection)
            if found is None:
                self._make(connection)
            term = queries.newest_term(connection)
            self._refuse_fenced(connection)
            self._revision = max(self._revision, queries.newest_revision(connection))
        if found not in (None, VERSIONS[-1]):
            self._migrate(connection, found, term)

    def _make(self, connection: Connection) -> None:
        """Make the tables of a new store, in the open transaction."""
        make(connection)

    def _migrate(self, connection: Connection, found: str, term: int) -> None:
        """Copy, then change. A copy of this term and version is the same copy: keep it."""
        backups = self._home.backups
        backups.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = backups / f"term-{term:010}-version-{found}.db"
        if not path.exists():
            self._database.save(connection, path, found)
        for old in sorted(backups.glob("term-*.db"))[:-BACKUPS_KEPT]:
            old.unlink()
        with connection.begin():
            upgrade(connection, found, SCRIPTS)

    def _begin_term(self, connection: Connection) -> int:
        self._id = queries.store_id(connection)
        term = queries.read_meta(connection, "term") + 1
        queries.write_meta(connection, "term", term)
        return term

    def _refuse_fenced(self, connection: Connection) -> None:
        """Refuse to write once another control has begun a term: it has the last word now."""
        if self._term and (newest := queries.newest_term(connection)) != self._term:
            raise Unavailable("store.superseded", term=self._term, newest=newest)

    def _prune(self, connection: Connection) -> None:
        queries.prune_tombstones(connection, self._kept.tombstones)
        queries.prune_events(connection, self._kept.events)


def refuse_backup(who: Principal) -> None:
    """Raise `Forbidden` for a caller who may not have a copy of everything."""
    if not who.may(Right.OPERATE, ""):
        raise Forbidden("role.right-needed", who.actor, right=Right.OPERATE, role=who.role)


def version(connection: Connection) -> str | None:
    """Return the version of the tables, None where there are none; raises `Corrupt`."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if alembic_version.name not in tables:
        raise Corrupt("store.not-ours", cause=", ".join(sorted(tables)[:5]))
    found: str | None = connection.scalar(select(alembic_version.c.version_num))
    if found not in VERSIONS:
        raise Corrupt("store.newer-version", found=str(found), known=VERSIONS[-1])
    return found
