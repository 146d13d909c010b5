"""A nursery of the doomed: for each order on stdin, fork one that opens or restores a home.

An order is a JSON list: what to do, at which step to die (0: not), the home, the backup. Prints the
child's pid, then how it ended. It forks from one thread, which no child of pytest's own could be
sure of.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from madang import settings
from madang.resources.rights import CONTROL, OWNER
from madang.settings import Home
from madang.stores.postgres import PostgresStore
from madang.stores.restore import restore
from madang.stores.sqlite import SqliteStore


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


def main() -> None:
    for line in sys.stdin:
        what, step, home, file = json.loads(line)
        child = os.fork()
        if child == 0:
            {"open": opened, "restore": restored}[what](Steps(step), Home(Path(home)), Path(file))
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
