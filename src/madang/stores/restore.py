"""A home made of a backup: checked to the last byte and opened before anything is changed."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from madang.errors import Corrupt, Rejected, Unavailable
from madang.resources.event import Event
from madang.resources.rights import Principal
from madang.settings import Home
from madang.stores import archive, swap
from madang.stores.backup import describe
from madang.stores.copying import REPLACES
from madang.stores.migrations import VERSIONS
from madang.stores.seals import seal
from madang.stores.sql import EVENTS_KEPT
from madang.stores.sqlite import SqliteStore
from madang.stores.tables import meta
from madang.stores.target import InHome, Target

ADDED = {"events": 1, "audit": 1}
"""Rows that a restore writes itself: that it was done."""


WHOLE = frozenset({"audit", "events", "usage", "usage_totals", "usage_days"})
"""Tables of which an open store lets nothing go; events until there are too many."""


class Restored(NamedTuple):
    """What a home was made of, and where what was there before lies now, if anything was."""

    listing: archive.Listing
    aside: Path | None
    database: str
    """Where the state is, if it is in a database."""


def checked(file: Path, progress: archive.Progress = archive.untold) -> archive.Listing:
    """Check a backup to the last byte; raises `Rejected` or `Corrupt` if it can't be restored."""
    listing = archive.unpack(file, None, progress)
    schema = str(listing.about.get("schema"))
    if schema not in VERSIONS:
        raise Rejected("restore.newer", str(file), found=schema, known=VERSIONS[-1])
    return listing


def restore(home: Home, file: Path, who: Principal, *, replace: bool, url: str = "") -> Restored:
    """Make the home what the backup says, its state in the database at `url` if there is one.

    To be called while nothing runs on it. A home or a database that has state is refused unless
    `replace`; what it had is kept aside. Raises as `checked` does, and then nothing has changed.
    """
    checked(file)
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = _target(home, url)
    try:
        with target.held():
            swap.finish(home)
            _refuse_taken(home, replace=replace)
            listing = _decided(home, file, who, target, replace=replace)
            done = Restored(listing, swap.finish(home), target.name)
            target.settle()
            return done
    except OSError as error:
        raise Unavailable("restore.failed", str(home.path), cause=str(error)) from error


def _target(home: Home, url: str) -> Target:
    if not url:
        return InHome(home)
    from madang.stores.takeover import InDatabase  # noqa: PLC0415 - loads what only a database needs

    return InDatabase(home, url)


def _decided(
    home: Home, file: Path, who: Principal, target: Target, *, replace: bool
) -> archive.Listing:
    """Make the next home ready, and then the one that counts."""
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    folder = swap.stage(home, f"{stamp}-{secrets.token_hex(2)}")
    try:
        replaces = target.keep(folder, replace=replace)
        listing = archive.unpack(file, folder)
        _lift(folder / archive.STATE, now, replaces)
        asyncio.run(_open_once(Home(folder), who, listing, now))
        with target.replaced(folder / archive.STATE):
            swap.decide(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return listing


def _refuse_taken(home: Home, *, replace: bool) -> None:
    there = swap.entries(home)
    if not there:
        return
    if not replace:
        raise Rejected("restore.home-taken", str(home.path), found=there[0].name)
    if not (home.state.exists() or home.secret.exists()):
        raise Rejected("restore.not-a-home", str(home.path), found=there[0].name)


def _lift(state: Path, now: float, replaces: int) -> None:
    """Raise term and revisions above all that this state may have reached since it was copied.

    Supervisors refuse an older term, gateways an older table, and whoever follows the feed would
    take new changes for ones it has seen. Time grows faster than any of them: the term becomes
    minutes since 1970, the newest revision milliseconds; followers from before start anew. From
    here on it is another state than the one that was copied, so it gets an id of its own: a
    database that still holds the older one is not taken for it.
    """
    newest = "(SELECT coalesce(max(resource_version), 0) FROM resources)"
    try:
        with closing(sqlite3.connect(state, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode=delete")
            copy.execute("PRAGMA synchronous=full")
            (problem,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if problem != "ok":
                raise Corrupt("store.damaged", cause=problem)
            copy.execute("BEGIN IMMEDIATE")
            (before,) = copy.execute(f"SELECT {newest}").fetchone()
            shift = max(0, int(now * 1000) - before)
            copy.execute("UPDATE resources SET resource_version = resource_version + ?", [shift])
            (term,) = copy.execute("SELECT max(value) FROM meta WHERE name = 'term'").fetchone()
            _note(copy, "term", max((term or 0) + 1, int(now / 60)))
            _note(copy, "pruned", before + shift if before else 0)
            _note(copy, "store", secrets.randbits(62) | 1)
            _note(copy, REPLACES, replaces)
            copy.execute("COMMIT")
    except sqlite3.Error as error:
        raise Corrupt("store.damaged", cause=str(error)) from error


def _note(copy: sqlite3.Connection, name: str, value: int) -> None:
    """Keep a number beside the tables, whichever version they have."""
    row = seal(meta, {"name": name, "value": value})
    there = [column[1] for column in copy.execute("PRAGMA table_info(meta)")]
    columns, marks = ", ".join(there), ", ".join(f":{each}" for each in there)
    copy.execute(f"REPLACE INTO meta ({columns}) VALUES ({marks})", row)  # noqa: S608


async def _open_once(home: Home, who: Principal, listing: archive.Listing, now: float) -> None:
    """Open the new state as control will, with all its checks, and write down what was done."""
    store = SqliteStore(home)
    await store.open()
    try:
        await store.load(who)
        values = {"made_at": float(listing.about["made_at"]), "term": int(listing.about["term"])}
        told = Event(at=now, actor=who.actor, code="home.restored", kind="home", name="home",
                     values=values)  # fmt: skip
        await store.commit(who, (), (told,))
    finally:
        await store.close()
    home.control_lock.unlink(missing_ok=True)
    shutil.rmtree(home.backups, ignore_errors=True)


def drill(file: Path, who: Principal) -> dict[str, Any]:
    """Restore a backup where nobody needs it, open and query what came out, and let go of it.

    Returns what was found; `differences` names what is not as the backup says, and is empty when
    it can be relied on; `restore_s` is how long the restore took. Raises as `restore` does.
    """
    with TemporaryDirectory(prefix="madang-drill-") as folder:
        home, began = Home(Path(folder) / "home"), time.monotonic()
        listing = restore(home, file, who, replace=False).listing
        took_s = time.monotonic() - began
        found = describe(home.state)
        newest, keys, chained = asyncio.run(_queried(home, who))
    said = listing.about
    counted = {
        "kinds": (said["kinds"], found["kinds"]),
        "keys": (said["kinds"].get("key", 0), keys),
        "audit chain": (found["rows"]["audit"], chained),
    }
    whole = WHOLE if said["rows"]["events"] < EVENTS_KEPT else WHOLE - {"events"}
    counted |= {
        f"rows of {table}": (count, found["rows"].get(table, 0) - ADDED.get(table, 0))
        for table, count in said["rows"].items()
        if table in whole
    }
    return {
        "made_at": said["made_at"],
        "madang": said["madang"],
        "schema": said["schema"],
        "kinds": found["kinds"],
        "events": found["rows"]["events"] - ADDED["events"],
        "newest_event_at": newest,
        "keys": keys,
        "bytes": listing.bytes,
        "restore_s": round(took_s, 3),
        "differences": [name for name, (said, is_now) in counted.items() if said != is_now],
    }


async def _queried(home: Home, who: Principal) -> tuple[float, int, int]:
    """Open a restored home as control does.

    Returns when its newest event was, its keys, and its audit records that fit their chain.
    """
    store = SqliteStore(home)
    await store.open()
    try:
        _, living = await store.load(who)
        newest, after = 0.0, 0
        while events := await store.events(who, after):
            newest, after = events[-1].at, events[-1].seq
        keys = sum(each.kind == "key" for each in living)
        return newest, keys, await _chained(store, who)
    finally:
        await store.close()


async def _chained(store: SqliteStore, who: Principal) -> int:
    """Count audit records up to the first that does not follow from the one before."""
    count, digest = 0, ""
    while records := await store.audit(who, count):
        for record in records:
            if (record.seq, record) != (count + 1, record.sealed(digest)):
                return count
            count, digest = record.seq, record.digest
    return count
