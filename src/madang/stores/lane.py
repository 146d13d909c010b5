"""One thread with one connection. What waits together to be written is committed together.

SQLite before 3.51.3 can lose a write-ahead log that two connections use at once; nothing here
ever opens a second one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from madang.errors import Corrupt, MadangError, Rejected, Unavailable

GROUP_MAX = 256
"""At most this many writes share one transaction."""

WAITING_MAX = 10_000
"""A write that finds this many before it is refused."""

_DAMAGED = {11, 26}
"""SQLite's result codes CORRUPT and NOTADB."""

T = TypeVar("T")
Work = Callable[[Connection], T]


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    done: Future[Any] = field(default_factory=Future)
    value: Any = None
    refused: Rejected | None = None


class _Group(list[_Job]):
    """Jobs that share one transaction and learn of its end together, whatever that is."""

    def __enter__(self) -> _Group:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for job in self:
            if refusal := error or job.refused:
                job.done.set_exception(refusal)
            else:
                job.done.set_result(job.value)


class Lane:
    """The only way to the connection."""

    def __init__(self, after_group: Callable[[Connection], None]) -> None:
        self._after_group = after_group
        self._waiting: deque[_Job] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._connection: Connection | None = None

    async def start(self, connect: Callable[[], Connection]) -> None:
        """Make the connection, in the thread that will use it."""
        assert self._thread is None, "already started"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="madang-store")
        self._connection = await asyncio.wrap_future(self._thread.submit(connect))

    async def read(self, work: Work[T]) -> T:
        """Run in a transaction of its own that changes nothing."""

        def transaction(connection: Connection) -> T:
            with translated("store.read-failed"), connection.begin():
                return work(connection)

        return await self.outside(transaction)

    async def write(self, work: Work[T]) -> T:
        """Run in a transaction shared with whoever waits too; return once it is on disk.

        What `work` refuses (`Rejected`) is undone and harms nobody else in the transaction.
        """
        thread, connection = self._started()
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable("store.busy", waiting=WAITING_MAX)
        job = _Job(work)
        self._waiting.append(job)
        thread.submit(self._flush, connection)
        result: T = await asyncio.wrap_future(job.done)
        return result

    async def outside(self, work: Work[T]) -> T:
        """Run with no transaction open."""
        thread, connection = self._started()
        return await asyncio.wrap_future(thread.submit(work, connection))

    async def stop(self) -> None:
        """Finish what waits and close the connection; again is a no-op."""
        thread, connection = self._thread, self._connection
        self._thread = self._connection = None
        if thread is not None:
            if connection is not None:
                await asyncio.wrap_future(thread.submit(connection.close))
            thread.shutdown()

    def _started(self) -> tuple[ThreadPoolExecutor, Connection]:
        if self._thread is None or self._connection is None:
            raise Unavailable("store.closed")
        return self._thread, self._connection

    def _flush(self, connection: Connection) -> None:
        """Commit what waits; whoever came in the meantime has already been taken along."""
        with self._take() as group, translated("store.write-failed"):
            if not group:
                return
            with connection.begin():
                for job in group:
                    _attempt(connection, job)
                self._after_group(connection)

    def _take(self) -> _Group:
        group = _Group()
        while self._waiting and len(group) < GROUP_MAX:
            job = self._waiting.popleft()
            if job.done.set_running_or_notify_cancel():
                group.append(job)
        return group


def _attempt(connection: Connection, job: _Job) -> None:
    """Do one job. An error of the database itself ends the whole group, savepoints and all."""
    savepoint = connection.begin_nested()
    try:
        job.value = job.work(connection)
    except Rejected as refusal:
        savepoint.rollback()
        job.refused = refusal
    else:
        savepoint.commit()


@contextmanager
def translated(code: str) -> Iterator[None]:
    """Turn the database's errors into ours: `Corrupt` for damage, else `Unavailable(code)`."""
    try:
        yield
    except DBAPIError as error:
        raise _named(error, code) from error


def _named(error: DBAPIError, code: str) -> MadangError:
    cause = str(error.orig)
    if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        return Corrupt("store.damaged", cause=cause)
    return Unavailable(code, cause=cause)
