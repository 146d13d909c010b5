"""A home in one file: a copy of its state as one moment had it, and the few files beside it.

Every store writes its copy as an SQLite file with the tables of `tables.py`, so that a backup of
one kind of store can be restored into another, and be looked into with a tool that everybody has.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from madang import __version__
from madang.errors import Corrupt
from madang.ports import Store
from madang.resources.rights import Principal
from madang.settings import Home
from madang.stores import archive

BESIDE = ("admin.key", "secret.key", "audit.key", "audit.pub", "listen.json", "first-run.json",
          "fleet.json",          "gateway/usage.jsonl")  # fmt: skip
"""What a home needs beside its state: keys, its address, and usage that control has yet to take."""


async def pieces(store: Store, home: Home, who: Principal, now: float) -> AsyncIterator[bytes]:
    """Yield a backup of a home piece by piece, as it is at the first; the store goes on working.

    The copy lies in the home until the last piece is taken, or nobody wants another.
    """
    home.backups.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home.backups, prefix="taking-") as folder:
        copy = Path(folder) / archive.STATE
        await store.backup(who, copy)
        about = await asyncio.to_thread(describe, copy)
        stream = archive.packed(files(home, copy), {"made_at": now, **about})
        while piece := await asyncio.to_thread(next, stream, b""):
            yield piece


def files(home: Home, copy: Path) -> dict[str, Path]:
    """Return the members of a backup and where each lies now."""
    beside = {name: home.path / name for name in BESIDE}
    records = {f"blobs/{path.name}": path for path in sorted(home.blobs.glob("sha256-*.json"))}
    usage = {f"gateway/{path.name}": path for path in sorted(home.gateway.glob("usage-*.log"))}
    named = beside | records | usage
    there = {name: path for name, path in named.items() if path.is_file()}
    known = {name: path for name, path in there.items() if archive.NAMES.fullmatch(name)}
    return {archive.STATE: copy, **known}


def describe(state: Path) -> dict[str, Any]:
    """Return what a copy of the state holds, counted in it; raises `Corrupt` for a broken one."""
    try:
        with closing(sqlite3.connect(f"{state.absolute().as_uri()}?mode=ro", uri=True)) as copy:
            return {"madang": __version__, **_facts(copy)}
    except sqlite3.Error as error:
        raise Corrupt("store.damaged", cause=str(error)) from error


def _facts(copy: sqlite3.Connection) -> dict[str, Any]:
    def one(query: str) -> Any:
        return copy.execute(query).fetchone()[0]

    tables = copy.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    names = [name for (name,) in tables if name.isidentifier() and name != "sqlite_sequence"]
    kinds = copy.execute("SELECT kind, count(*) FROM resources WHERE NOT gone GROUP BY kind")
    meta = dict(copy.execute("SELECT name, value FROM meta"))
    return {
        "schema": one("SELECT version_num FROM alembic_version"),
        "store": f"{meta.get('store', 0):016x}",
        "term": meta.get("term", 0),
        "revision": one("SELECT coalesce(max(resource_version), 0) FROM resources"),
        "newest_event": one("SELECT coalesce(max(seq), 0) FROM events"),
        "rows": {name: one(f'SELECT count(*) FROM "{name}"') for name in names},  # noqa: S608 - identifiers
        "kinds": dict(kinds),
        "model_files": _model_files(copy),
    }


def _model_files(copy: sqlite3.Connection) -> list[Mapping[str, Any]]:
    """Return the model files that the state names: a backup holds none of them."""
    query = "SELECT project, name, status FROM resources WHERE kind = 'model' AND NOT gone"
    return [
        {
            "model": f"{project}/{name}@{version['number']}",
            **{key: version[key] for key in ("digest", "size_bytes", "source")},
        }
        for project, name, status in copy.execute(f"{query} ORDER BY project, name")
        for version in json.loads(status)["versions"]
    ]
