"""A nursery of the doomed: for each order on stdin, fork one that opens or restores a home.

An order is a JSON list: what to do, at which step to die (0: not), the home, the backup, and how
large a file may grow (0: as it likes), as if the disk were full then. Prints the child's pid, then
how it ended; the code of an error lies beside the home, in a file that ends in `.said`.

It forks from one thread, which no child of pytest's own could be sure of.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from madang import settings
from madang.errors import MadangError
from madang.resources.rights import CONTROL, OWNER
from madang.settings import Home
from madang.stores.postgres import PostgresStore
from madang.stores.restore import restore
from madang.stores.sqlite import SqliteStore

REFUSED = 3


class Steps:
    """Counts steps, and ends the process before the one that it may not take."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.done = 0

    def take(self, *_: object) -> None:
        self.done += 1
        if self.done == self.last:
            os._exit(9)

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            self.take()
            return real(*arguments, **more)

        return step


async def open_once(home: Home) -> None:
    url = settings.database_url(home)
    store = PostgresStore(home, url) if url else SqliteStore(home)
    await store.open()
    await store.load(CONTROL)
    await store.close()


def opened(steps: Steps, home: Home, _file: Path) -> None:
    """Open a home as control does; each statement and each commit is a step."""
    event.listen(Engine, "before_cursor_execute", steps.take)
    event.listen(Engine, "commit", steps.take)
    asyncio.run(open_once(home))


def restored(steps: Steps, home: Home, file: Path) -> None:
    """Replace a home, in its database if it has one.

    Each rename, sync and unlink is a step; over a database each commit instead of each sync.
    """
    url = settings.database_url(home)
    Path.rename = steps.counted(Path.rename)  # type: ignore[method-assign]
    if url:
        event.listen(Engine, "commit", steps.take)
    else:
        os.fsync = steps.counted(os.fsync)
    os.unlink = steps.counted(os.unlink)
    restore(home, file, OWNER, replace=True, url=url)


DEEDS: dict[str, Callable[[Steps, Home, Path], None]] = {"open": opened, "restore": restored}


def in_room(room_bytes: int, said: Path, do: Callable[[], None]) -> int:
    """Do it while no file can grow beyond that; return an exit code."""
    if room_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))
    try:
        do()
    except MadangError as error:
        said.write_text(error.code)
        return REFUSED
    return 0


def main() -> None:
    for line in sys.stdin:
        what, step, home, file, room_bytes = json.loads(line)
        child = os.fork()
        if child == 0:
            do = partial(DEEDS[what], Steps(step), Home(Path(home)), Path(file))
            os._exit(in_room(room_bytes, Path(home + ".said"), do))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
