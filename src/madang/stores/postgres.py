"""State in one PostgreSQL database: held by one control, every wait bounded.

The connection goes through libpq, so an address may say all that libpq knows: several hosts,
`sslmode`, a password file. No address is ever shown with its password.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import conninfo
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from madang.errors import Corrupt, MadangError, Rejected, Unavailable
from madang.ports import Health
from madang.resources.rights import Principal
from madang.settings import Home
from madang.stores import copying, place, queries
from madang.stores.migrations import VERSIONS
from madang.stores.seals import CHECKED_BYTES_MAX, verify
from madang.stores.sql import Kept, SqlStore, refuse_backup, version
from madang.stores.sqlite import SqliteStore

OLDEST = 140_000
"""The oldest server that is taken: it notices that a client has gone while it still works."""

HOLD_WAIT_S = 3.0
"""So long a server may take to notice that the control before this one has ended."""

HOLD_KEY = int.from_bytes(b"madang", "big")
"""The advisory lock that makes a second control impossible."""

_CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Seconds, but the last in milliseconds; what the address says counts before these."""

_SETTINGS = {
    "lock_timeout": "3s",
    "statement_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
    "client_connection_check_interval": "1s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}
"""No statement waits longer than these; a server that lost us lets the hold go soon."""

_SAFE = ("fsync", "full_page_writes")
"""Settings of the server without which a power failure may lose what was acknowledged."""

_LOCKED = frozenset({"55P03", "57014", "40P01"})
"""SQLSTATEs: a lock, a statement took too long, or two waited for each other."""
_FULL = frozenset({"53100", "53200"})
_DAMAGED = frozenset({"XX001", "XX002"})
_READ_ONLY = "25006"
_NOT_ALLOWED = "42501"


class Postgres:
    """A `Database` of `lane`, at one address."""

    def __init__(
        self,
        url: str,
        home: Home,
        hold_wait_s: float = HOLD_WAIT_S,
        hold: place.Hold | None = None,
    ) -> None:
        self.place, self._password = _place(url)
        self._url = url
        self._hold_wait_s = hold_wait_s
        self.hold = hold or place.Hold(home.control_lock)
        self._name = f"madang {os.getpid()} on {socket.gethostname()[:24]} {secrets.token_hex(4)}"
        self._engine = _engine(self._dial)
        self._wire: socket.socket | None = None

    def connect(self) -> Connection:
        """See `Database.connect`."""
        self.hold.take()
        with ExitStack() as undo:
            connection = undo.enter_context(self._engine.connect())
            self._keep_wire(connection)
            with connection.begin():
                _refuse_unfit(connection, self.place)
                _set(connection)
            self._take(connection)
            undo.pop_all()
        return connection

    def cut(self) -> None:
        """See `Database.cut`: the socket is shut, whatever the server or the network does."""
        if self._wire is not None:
            with suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)

    def named(self, error: DBAPIError, code: str) -> MadangError:
        """See `Database.named`."""
        cause, state = self._told(error.orig), getattr(error.orig, "sqlstate", None) or ""
        if state in _DAMAGED:
            return Corrupt("store.damaged", self.place, cause=cause)
        if state in _LOCKED:
            return Unavailable("store.locked", self.place, cause=cause)
        if state == _NOT_ALLOWED:
            return Unavailable("store.not-allowed", self.place, cause=cause)
        if state == _READ_ONLY:
            self.cut()  # another server may have taken over: dial again
            return Unavailable("store.read-only", self.place)
        if state in _FULL or not (error.connection_invalidated or code == "store.unreachable"):
            return Unavailable(code, self.place, cause=cause)
        return Unavailable("store.unreachable", self.place, cause=cause)

    def is_undone(self, error: DBAPIError) -> bool:
        """See `Database.is_undone`: only a server that still answers can say so."""
        return not error.connection_invalidated and bool(getattr(error.orig, "sqlstate", None))

    def let_go(self) -> None:
        """See `Database.let_go`; the lock in the database went with the connection."""
        if self._wire is not None:
            self._wire.close()
        self.hold.release()

    def save(self, connection: Connection, path: Path, version: str) -> None:
        """See `Database.save`: a state file of SQLite, whatever the database was."""
        with connection.begin():
            copying.save(connection, path, version)

    def copy(self, path: Path, version: str) -> None:
        """Write a consistent copy over a connection of its own: nobody waits for it."""
        try:
            with self._engine.connect() as fresh:
                connection = fresh.execution_options(isolation_level="REPEATABLE READ")
                with connection.begin():
                    connection.exec_driver_sql("SET TRANSACTION READ ONLY")
                    copying.save(connection, path, version)
        except DBAPIError as error:
            raise self.named(error, "store.backup-failed") from error

    @contextmanager
    def looking(self) -> Iterator[Connection]:
        """See `Database.looking`: whoever holds it goes on."""
        with self._engine.connect() as connection, connection.begin():
            _refuse_unfit(connection, self.place)
            _set(connection)
            yield connection

    def health(self, connection: Connection, *, whole: bool = True) -> Health:
        """See `Database.health`."""
        size = "SELECT pg_database_size(current_database())"
        if whole and _ask(connection, size) <= CHECKED_BYTES_MAX:
            verify(connection)
        off = [name for name in _SAFE if _ask(connection, f"SHOW {name}") != "on"]
        server = str(_ask(connection, "SHOW server_version"))
        return Health("PostgreSQL", server, self.place, tuple(off))

    def _dial(self) -> psycopg.Connection[Any]:
        """Connect; raises `Unavailable` that tells where, and never the password."""
        given = {**_CONNECT, "application_name": self._name, **conninfo.conninfo_to_dict(self._url)}
        try:
            return psycopg.connect(**given)  # type: ignore[arg-type]
        except psycopg.Error as error:
            cause = self._told(error)
            raise Unavailable("store.unreachable", self.place, cause=cause) from None

    def _keep_wire(self, connection: Connection) -> None:
        """Keep a descriptor of the connection's own socket: its number means nothing later."""
        if self._wire is not None:
            self._wire.close()
        line = connection.connection.driver_connection
        assert isinstance(line, psycopg.Connection)
        self._wire = socket.socket(fileno=os.dup(line.fileno()))

    def _take(self, connection: Connection) -> None:
        """Take the hold; ends a connection of our own that the server has not missed yet."""
        deadline = time.monotonic() + self._hold_wait_s
        while True:
            with connection.begin():
                if _ask(connection, f"SELECT pg_try_advisory_lock({HOLD_KEY})"):
                    return
                own = (HOLD_KEY >> 32, HOLD_KEY & 0xFFFFFFFF)
                holders = connection.exec_driver_sql(_HOLDERS, own).all()
                for pid, name in holders:
                    if name == self._name:
                        connection.exec_driver_sql(f"SELECT pg_terminate_backend({int(pid)})")
            if time.monotonic() > deadline:
                name = next((name for _, name in holders), "") or "?"
                pid = name.removeprefix("madang ").rpartition(" ")[0] or name
                raise Unavailable("store.held", self.place, pid=pid)
            time.sleep(0.05)

    def _told(self, error: object) -> str:
        """Return the first line of what the driver says, without the password."""
        said = next((line for line in str(error).strip().splitlines() if line.strip()), "?")
        said = said.removeprefix("connection is bad: ").removeprefix("connection failed: ")
        for secret in self._password:
            said = said.replace(secret, "…")
        return said[:300]


_HOLDERS = (
    "SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
    "WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() "
    "AND l.classid = %s AND l.objid = %s"
)


class PostgresStore(SqlStore):
    """A `madang.ports.Store` and `History` in a PostgreSQL database.

    A database that is still empty takes over what the home's state file holds.
    """

    def __init__(
        self, home: Home, url: str, *, hold_wait_s: float = HOLD_WAIT_S, kept: Kept | None = None
    ) -> None:
        self._postgres = Postgres(url, home, hold_wait_s)
        super().__init__(self._postgres, home, kept)

    @property
    def place(self) -> str:
        """Where the database is, without its password."""
        return self._postgres.place

    @contextmanager
    def taken(self) -> Iterator[Connection]:
        """Hold the database for whoever replaces what is in it; no term begins."""
        try:
            with self._postgres.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise self._postgres.named(error, "store.write-failed") from error
        finally:
            self._postgres.let_go()

    def is_empty(self, connection: Connection) -> bool:
        """Tell whether there is no state yet; raises `Corrupt` where there is somebody else's."""
        with connection.begin():
            return version(connection) is None

    def kept(self, connection: Connection, path: Path) -> int:
        """Write a checked copy of what there is, brought to this version; return its number."""
        self._ready(connection)
        self._postgres.save(connection, path, VERSIONS[-1])
        with connection.begin():
            return int(queries.store_id(connection), 16)

    async def backup(self, who: Principal, path: Path) -> None:
        """See `Store.backup`. The copy is checked before it gets its name."""
        refuse_backup(who)
        await asyncio.to_thread(self._postgres.copy, path, VERSIONS[-1])

    def _make(self, connection: Connection) -> None:
        super()._make(connection)
        if self._home.state.exists():
            source = SqliteStore(self._home, hold=self._postgres.hold)
            with source.taken() as old:
                copying.copy(old, connection)
            copying.number_on(connection)

    def _migrate(self, connection: Connection, found: str, term: int) -> None:
        with connection.begin():
            connection.exec_driver_sql("SET statement_timeout = 0")  # it takes what it takes
        super()._migrate(connection, found, term)
        with connection.begin():
            _set(connection)

    def _ready(self, connection: Connection) -> None:
        super()._ready(connection)
        if self._home.state.exists():
            self._put_aside(connection)

    def _put_aside(self, connection: Connection) -> None:
        """Move a state file whose content is in the database; refuse one that is another's.

        The content of one that a restore has decided on gets there now, if it is not there yet.
        """
        source = SqliteStore(self._home, hold=self._postgres.hold)
        with source.taken() as old, old.begin(), connection.begin():
            found = queries.store_id(connection)
            if queries.read_meta(old, copying.REPLACES) == int(found, 16):
                copying.replace(old, connection)
                self._revision = queries.newest_revision(connection)
            elif queries.store_id(old) != found:
                raise Rejected("store.two-states", self._postgres.place, path=str(self._home.state))
        self._home.backups.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._home.state.rename(self._home.backups / f"moved-{time.time_ns()}.db")


def _place(url: str) -> tuple[str, tuple[str, ...]]:
    """Return where an address points to, fit to be shown, and what must never be."""
    try:
        parts = conninfo.conninfo_to_dict(url)
        written = urlsplit(url).password or ""
    except (psycopg.Error, ValueError):
        raise Rejected("setting.database-url") from None
    host, port = parts.get("host") or "localhost", parts.get("port") or 5432
    secret = (str(parts.get("password") or ""), written, str(parts.get("sslpassword") or ""))
    shown = f"{host}:{port}/{parts.get('dbname') or parts.get('user') or ''}"
    return shown, tuple(each for each in secret if each)


def _engine(dial: Callable[[], Any]) -> Engine:
    return create_engine(
        "postgresql+psycopg://",
        creator=dial,
        poolclass=NullPool,
        use_native_hstore=False,
        hide_parameters=True,
    )


def _ask(connection: Connection, query: str) -> Any:
    return connection.exec_driver_sql(query).scalar_one()


def _refuse_unfit(connection: Connection, where: str) -> None:
    """Refuse a server that can't keep what we promise."""
    if int(_ask(connection, "SHOW server_version_num")) < OLDEST:
        found = str(_ask(connection, "SHOW server_version"))
        raise Rejected("store.old-server", where, found=found, oldest=OLDEST // 10_000)
    if (encoding := str(_ask(connection, "SHOW server_encoding"))) != "UTF8":
        raise Rejected("store.encoding", where, found=encoding)
    if _ask(connection, "SHOW transaction_read_only") == "on":
        raise Unavailable("store.read-only", where)


def _set(connection: Connection) -> None:
    """Bound every wait of this connection, and make a commit mean that it is on disk."""
    settings = dict(_SETTINGS)
    if _ask(connection, "SHOW synchronous_commit") == "off":
        settings["synchronous_commit"] = "on"
    for name, value in settings.items():
        connection.exec_driver_sql("SELECT set_config(%s, %s, false)", (name, value))
