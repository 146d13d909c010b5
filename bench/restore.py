"""How long a home is away: a backup, its restore and its drill, with 10,000 resources in it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from madang.ports import Write
from madang.resources.event import Event
from madang.resources.rights import CONTROL, OWNER
from madang.resources.tenancy import Empty, Organization, TitleSpec
from madang.settings import Home
from madang.stores import archive, backup
from madang.stores.postgres import PostgresStore
from madang.stores.restore import drill, restore
from madang.stores.sqlite import SqliteStore
from madang.testing.postgres import running
from rows import Row

RESOURCES, EVENTS = 10_000, 100_000
COMMIT = 100
"""Resources in one commit, each with its share of the events."""
RESTORE_S_MAX = 60.0
"""A floor for a machine that is busy with other things; what is wanted is a tenth of it."""


def organization(number: int) -> Organization:
    name = f"org-{number}"
    return Organization(
        project=name, name=name, uid=f"uid-{number}", spec=TitleSpec(title=f"기관 {number}"),
        status=Empty(),
    )  # fmt: skip


async def fill(home: Home) -> None:
    """Give a home what a busy one has after some months."""
    store = SqliteStore(home)
    await store.open()
    for first in range(0, RESOURCES, COMMIT):
        made = [organization(number) for number in range(first, first + COMMIT)]
        told = [
            Event(at=float(first), actor="key/admin", code="organization.created", values={"n": n},
                  kind="organization", project=each.name, name=each.name, uid=each.uid)
            for each in made
            for n in range(EVENTS // RESOURCES)
        ]  # fmt: skip
        await store.commit(CONTROL, [Write(each) for each in made], told)
    await store.close()
    home.secret.write_text("s" * 64)


async def take(home: Home, path: Path) -> None:
    """Take a backup as control does."""
    store = SqliteStore(home)
    await store.open()
    with archive.keeping(path) as write:
        async for piece in backup.pieces(store, home, OWNER, time.time()):
            write(piece)
    await store.close()


async def counted(home: Home, url: str) -> int:
    """Open a home as its next start does, and count what lives in it."""
    store = PostgresStore(home, url) if url else SqliteStore(home)
    await store.open()
    _, living = await store.load(CONTROL)
    await store.close()
    return len(living)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Do it, and return how many seconds that took, and what it gave."""
    began = time.monotonic()
    done = work()
    return round(time.monotonic() - began, 2), done


def run() -> list[Row]:
    """Return the rows."""
    with tempfile.TemporaryDirectory() as name, running(fsync="on") as server:
        folder, file = Path(name), Path(name) / "kept.backup"
        asyncio.run(fill(Home(folder / "home")))
        took_s, _ = timed(lambda: asyncio.run(take(Home(folder / "home"), file)))
        url, rows, found = server.url(server.make_database()), list[Row](), set[int]()
        into = (("an empty home", "", False), ("an empty database", url, False),
                ("a database in use", url, True))  # fmt: skip
        for number, (what, where, replace) in enumerate(into):
            home = Home(folder / f"restored-{number}")

            def put_back(home: Home = home, where: str = where, replace: bool = replace) -> int:
                restore(home, file, OWNER, replace=replace, url=where)
                return asyncio.run(counted(home, where))

            restore_s, count = timed(put_back)
            found.add(count)
            rows.append(Row(f"restored into {what} and opened (RTO)", restore_s, "s",
                            RESTORE_S_MAX, RESTORE_S_MAX / 10))  # fmt: skip
        drill_s, drilled = timed(lambda: drill(file, OWNER))
        lost = len(found - {RESOURCES}) + len(drilled["differences"])
        size = round(file.stat().st_size / 1e6, 2)
    return [
        Row("in the home that is restored", RESOURCES + EVENTS, "resources and events"),
        Row("its backup, taken and checked", took_s, "s"),
        Row("size of that backup", size, "MB"),
        *rows,
        Row("its drill: restored, opened and queried", drill_s, "s"),
        Row("what did not come back", lost, "", 0.0, 0.0),
    ]
