"""What wrote a state file, seen without opening it as its owner: no byte of it changes."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from madang.errors import Corrupt
from madang.stores.migrations import VERSIONS


def version(state: Path) -> str:
    """Return the version of the tables; empty where that can't be told from outside."""
    log = state.with_name(state.name + "-wal")
    is_settled = not log.exists() or log.stat().st_size == 0
    # Without a log the file is read as it is; with one, SQLite must look into both.
    how = "immutable=1" if is_settled else "mode=ro"
    with suppress(sqlite3.Error):
        with closing(sqlite3.connect(f"{state.absolute().as_uri()}?{how}", uri=True)) as file:
            found = file.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found[0]) if found else ""
    return ""


def refuse_newer(state: Path) -> None:
    """Raise `Corrupt` where a newer Madang has written that file. Nobody may have it open."""
    if state.is_file() and (found := version(state)) and found not in VERSIONS:
        raise Corrupt("store.newer-version", found=found, known=VERSIONS[-1])
