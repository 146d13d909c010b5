"""A restored state put into a PostgreSQL database, in the place of what that held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from madang import settings
from madang.errors import Corrupt, Rejected, Unavailable
from madang.settings import Home
from madang.stores import archive, copying, swap
from madang.stores.place import make_private, settle
from madang.stores.postgres import PostgresStore


class InDatabase:
    """A `Target` of a restore, replaced in one transaction; the home decides before its commit.

    Killed between the two, the home has the new state as a file that names the one it replaces,
    and whoever opens it next puts it into the database (`PostgresStore`).
    """

    def __init__(self, home: Home, url: str) -> None:
        self._home = home
        self._url = url
        self._store = PostgresStore(home, url)
        self._connection: Connection
        self.name = self._store.place

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Target.held`."""
        with self._store.taken() as self._connection:
            yield

    def keep(self, folder: Path, *, replace: bool) -> int:
        """See `Target.keep`. The copy is a state file, so that what is aside is a home again."""
        if settings.database_url(self._home) != self._url:
            part = folder / "database.part"
            make_private(part)
            part.write_text(self._url + "\n", encoding="utf-8")
            settle(part, folder / self._home.database.name)
        try:
            if self._store.is_empty(self._connection):
                return 0
            if not replace:
                raise Rejected("restore.database-taken", self.name)
            before = folder / swap.BEFORE
            before.mkdir(mode=0o700)
            return self._store.kept(self._connection, before / archive.STATE)
        except Corrupt as error:
            raise Rejected("restore.database-unfit", self.name, cause=str(error)) from error

    @contextmanager
    def replaced(self, state: Path) -> Iterator[None]:
        """See `Target.replaced`."""
        is_decided = False
        try:
            with copying.opened(state) as source, self._connection.begin():
                copying.replace(source, self._connection)
                yield
                is_decided = True
        except DBAPIError as error:
            if is_decided:
                raise Unavailable("restore.unfinished", self.name, cause=str(error.orig)) from error
            raise

    def settle(self) -> None:
        """See `Target.settle`: the state file has done its work."""
        self._home.state.unlink(missing_ok=True)
        swap.sync(self._home.path)
