"""A state seen without opening it as its owner: no byte of it changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from madang.errors import Corrupt, Unavailable
from madang.settings import Home
from madang.stores.migrations import VERSIONS
from madang.stores.place import Hold, read_only

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from madang.ports import Health
    from madang.resources.resource import AnyResource
    from madang.resources.rights import Principal
    from madang.stores.sql import Database


def version(state: Path) -> str:
    """Return the version of the tables; empty where that can't be told from outside."""
    with suppress(sqlite3.Error):
        with closing(sqlite3.connect(read_only(state), uri=True)) as file:
            found = file.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found[0]) if found else ""
    return ""


def refuse_newer(home: Home, url: str = "") -> None:
    """Raise `Corrupt` where a newer Madang has written the state. Nobody may have the file open.

    With an address, the state is in that database; one that can't be reached is left to control.
    """
    if home.state.is_file() and (found := version(home.state)) and found not in VERSIONS:
        raise Corrupt("store.newer-version", found=found, known=VERSIONS[-1])
    if url:
        with suppress(Unavailable):
            examine(home, url, whole=False)


def examine(home: Home, url: str = "", *, whole: bool = True) -> tuple[Health, str]:
    """Look at a state, and at all of one that isn't large: nobody else may have the file open.

    Returns how it is and the version of its tables, empty where it has none. Raises what opening
    it would raise, and `Corrupt` where something in it is not what was written.
    """
    with _looking(home, url) as (database, connection, found):
        return database.health(connection, whole=whole and bool(found)), found


def stored(home: Home, url: str, who: Principal) -> tuple[int, list[AnyResource]]:
    """Return the newest term of a state and the caller's resources, as they lie there.

    Nobody else may have the file open. Raises as `examine`, and `Unavailable` where an older Madang
    has written it: only control may change its tables.
    """
    from madang.stores import queries  # noqa: PLC0415

    with _looking(home, url) as (_, connection, found):
        if found != VERSIONS[-1]:
            raise Unavailable("store.older-version", found=found or "-", known=VERSIONS[-1])
        return queries.read_meta(connection, "term"), queries.living(connection, who)


@contextmanager
def _looking(home: Home, url: str) -> Iterator[tuple[Database, Connection, str]]:
    """Open a state for reading; gives the version of its tables too, empty where it has none."""
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - heavy, and `version` needs nothing

    from madang.stores import sql, sqlite  # noqa: PLC0415

    database: Database = sqlite.Sqlite(home, Hold(home.control_lock))
    if url:
        from madang.stores.postgres import Postgres  # noqa: PLC0415

        database = Postgres(url, home)
    try:
        with database.looking() as connection:
            yield database, connection, sql.version(connection) or ""
    except DBAPIError as error:
        raise database.named(error, "store.read-failed") from error
