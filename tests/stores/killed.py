"""A nursery of writers: for each line on stdin, fork one that commits until it is killed.

Each writer prints its pid, then `version uid` of each commit once it was acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from madang import settings
from madang.ports import Write
from madang.resources.event import Event
from madang.resources.rights import CONTROL
from madang.resources.service import Service, ServiceSpec, ServiceStatus
from madang.settings import Home
from madang.stores.postgres import PostgresStore
from madang.stores.sqlite import SqliteStore

WRITERS = 4


def made(uid: str, part: str) -> Service:
    spec = ServiceSpec(model="qwen")
    return Service(
        project="org/team", name=f"{uid}-{part}", uid=f"{uid}-{part}", spec=spec,
        status=ServiceStatus(),
    )  # fmt: skip


async def commit_for_ever(store: SqliteStore | PostgresStore, term: int, writer: int) -> None:
    for serial in count():
        uid = f"s{term}-{writer}-{serial}"
        told = Event(at=0, actor="test", code="made", kind="service", name=uid)
        pair = [Write(made(uid, "a")), Write(made(uid, "b"))]
        stored = await store.commit(CONTROL, pair, [told])
        os.write(1, f"{stored[0].resource_version} {uid}\n".encode())


def store_of(home: Home) -> SqliteStore | PostgresStore:
    url = settings.database_url(home)
    return PostgresStore(home, url) if url else SqliteStore(home)


async def write(home: Path) -> None:
    store = store_of(Home(home))
    term = await store.open()
    os.write(1, f"pid {os.getpid()}\n".encode())
    await asyncio.gather(*(commit_for_ever(store, term, n) for n in range(WRITERS)))


def main() -> None:
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(write(Path(sys.argv[1])))
        os.waitpid(child, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()
