"""State in one SQLite file: durable after every commit, one connection in one thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from madang.errors import Corrupt, MadangError, Rejected, Unavailable
from madang.ports import Health
from madang.settings import Home
from madang.stores import place, swap
from madang.stores.seals import CHECKED_BYTES_MAX, verify
from madang.stores.sql import Kept, SqlStore

LOG_BYTES_MAX = 64 << 20
"""The write-ahead log is cut back to this after a checkpoint."""

_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": "on",
    "busy_timeout": "5000",
    "temp_store": "memory",  # no file has to be opened in the middle of a statement
    "journal_size_limit": str(LOG_BYTES_MAX),
}

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NO_TEXT = "Could not decode to UTF-8"
"""Python's own words for a text that is none, without a code."""
_UNDONE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})
"""A commit that ends with one of these never got as far as its last page; one whose flush to the
disk failed did, and would be found there after a crash."""


class Sqlite:
    """A `Database` of `sql`, in `home.state`."""

    def __init__(
        self, home: Home, hold: place.Hold, file_system: Callable[[Path], str] = place.file_system
    ) -> None:
        self._home = home
        self._hold = hold
        self._file_system = file_system

    def connect(self) -> Connection:
        """See `lane.Database.connect`; raises `Rejected` for a network file system."""
        place.refuse_network(self._home.path, self._file_system(self._home.path))
        self._hold.take()
        try:
            swap.finish(self._home)
            place.make_private(self._home.state)
        except OSError as error:
            raise Unavailable("store.write-failed", cause=str(error)) from error
        with ExitStack() as undo:
            connection = undo.enter_context(_engine(self._home.state).connect())
            with connection.begin():
                problem = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if problem != "ok":
                raise Corrupt("store.damaged", cause=problem)
            undo.pop_all()
        return connection

    def cut(self) -> None:
        """See `lane.Database.cut`; a file on a disk of this machine answers, or fails."""

    def named(self, error: DBAPIError, code: str) -> MadangError:
        """See `lane.Database.named`."""
        cause = str(error.orig)
        if _is_damage(error):
            return Corrupt("store.damaged", cause=cause)
        return Unavailable(code, cause=cause)

    def is_undone(self, error: DBAPIError) -> bool:
        """See `lane.Database.is_undone`."""
        return _result(error) in _UNDONE

    def let_go(self) -> None:
        """See `lane.Database.let_go`."""
        self._hold.release()

    def save(self, connection: Connection, path: Path, version: str) -> None:  # noqa: ARG002
        """See `sql.Database.save`; the copy has the version that the file has."""
        source = connection.connection.driver_connection
        assert isinstance(source, sqlite3.Connection)
        with new_file(path) as part, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)

    @contextmanager
    def looking(self) -> Iterator[Connection]:
        """See `sql.Database.looking`; no other may write to the file meanwhile."""
        name = place.read_only(self._home.state)
        dial = partial(sqlite3.connect, name, uri=True, isolation_level=None)
        with create_engine("sqlite://", creator=dial, poolclass=NullPool).connect() as connection:
            yield connection

    def health(self, connection: Connection, *, whole: bool = True) -> Health:
        """See `sql.Database.health`."""
        version = str(connection.exec_driver_sql("SELECT sqlite_version()").scalar_one())
        if whole and self._home.state.stat().st_size <= CHECKED_BYTES_MAX:
            check(connection)
        return Health("SQLite", version, str(self._home.state))


class SqliteStore(SqlStore):
    """A `madang.ports.Store` and `History` in `home.state`."""

    def __init__(
        self,
        home: Home,
        *,
        hold: place.Hold | None = None,
        file_system: Callable[[Path], str] = place.file_system,
        kept: Kept | None = None,
    ) -> None:
        self._sqlite = Sqlite(home, hold or place.Hold(home.control_lock), file_system)
        super().__init__(self._sqlite, home, kept)

    @contextmanager
    def taken(self) -> Iterator[Connection]:
        """Open the file for whoever takes its content over, migrated; no term begins."""
        with self._sqlite.connect() as connection:
            self._ready(connection)
            yield connection


def _result(error: DBAPIError) -> int:
    """Return SQLite's extended result code."""
    return int(getattr(error.orig, "sqlite_errorcode", 0))


def _is_damage(error: DBAPIError) -> bool:
    """Tell whether it says that a page, or a text in one, is not what was written."""
    return _result(error) & 0xFF in _DAMAGED or str(error.orig).startswith(_NO_TEXT)


def _engine(path: Path, settings: Mapping[str, str] = _PRAGMAS) -> Engine:
    """Return an engine whose transactions are SQLite's own, begun as writers."""
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(
        url, poolclass=NullPool, connect_args={"isolation_level": None}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def prepare(raw: sqlite3.Connection, _record: object) -> None:
        for name, value in settings.items():
            (answer,) = raw.execute(f"PRAGMA {name}={value}").fetchone() or (None,)
            if name == "journal_mode" and answer != value:
                raise Unavailable("store.write-failed", cause=f"no write-ahead log: {answer}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def check(connection: Connection) -> None:
    """Read all of it, every cell and index; raises `Corrupt` where it is not what was written."""
    problem = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
    if problem != "ok":
        raise Corrupt("store.damaged", cause=problem)
    verify(connection)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a place to write a database to; checked and on disk before it gets its name."""
    if path.exists():
        raise Rejected("store.backup-exists", str(path))
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        place.make_private(part)
        yield part
        with _engine(part, {}).connect() as copy, copy.begin():
            check(copy)
        place.settle(part, path)
    except DBAPIError as error:
        if _is_damage(error):
            raise Corrupt("store.damaged", cause=str(error.orig)) from error
        raise Unavailable("store.backup-failed", str(path), cause=str(error.orig)) from error
    except (OSError, sqlite3.Error) as error:
        raise Unavailable("store.backup-failed", str(path), cause=str(error)) from error
    finally:
        with suppress(OSError):
            part.unlink()
