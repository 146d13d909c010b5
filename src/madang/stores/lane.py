"""One thread with one connection. What waits together to be written is committed together.

SQLite before 3.51.3 can lose a write-ahead log that two connections use at once; nothing here
ever opens a second one. A connection that breaks is made anew by whoever comes next.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError

from madang.errors import MadangError, Rejected, Unavailable

GROUP_MAX = 256
"""At most this many writes share one transaction."""

WAITING_MAX = 10_000
"""A write that finds this many before it is refused."""

SILENCE_S = 15.0
"""Nobody waits longer for an answer: the connection is cut then, and made anew."""

AGAIN_S = 0.5
"""A database that could not be reached is not tried again before this; who comes is refused."""

T = TypeVar("T")
Work = Callable[[Connection], T]


class Database(Protocol):
    """What differs from one database to the next. All but `cut` is called in the lane's thread."""

    def connect(self) -> Connection:
        """Take it for this control alone; return a connection on which a commit is durable.

        MUST raise `Unavailable` with code `store.held` while another control has it.
        """

    def cut(self) -> None:
        """Let what is asked right now fail at once; called from any thread."""

    def named(self, error: DBAPIError, code: str) -> MadangError:
        """Return what an error is: `Corrupt` for damage, else mostly `Unavailable(code)`."""

    def is_undone(self, error: DBAPIError) -> bool:
        """Tell whether a commit that ended like this has certainly changed nothing."""

    def let_go(self) -> None:
        """Let another control have it; again is a no-op."""


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

    def __init__(
        self,
        database: Database,
        *,
        ready: Callable[[Connection], None],
        before_group: Callable[[Connection], None],
        after_group: Callable[[Connection], None],
    ) -> None:
        """`ready` runs on each new connection, the others within each group's transaction."""
        self._database = database
        self._ready = ready
        self._before_group = before_group
        self._after_group = after_group
        self._waiting: deque[_Job] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._connection: Connection | None = None
        self._away: tuple[float, MadangError] | None = None

    async def start(self) -> None:
        """Make the first connection, in the thread that will use it."""
        assert self._thread is None, "already started"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="madang-store")
        self._away = None
        await asyncio.wrap_future(self._thread.submit(self._connected))

    async def read(self, work: Work[T]) -> T:
        """Run in a transaction of its own that changes nothing."""

        def transaction(connection: Connection) -> T:
            with connection.begin():
                return work(connection)

        with self._unless_silent():
            return await self._run(transaction)

    async def write(self, work: Work[T]) -> T:
        """Run in a transaction shared with whoever waits too; return once it is on disk.

        What `work` refuses (`Rejected`) is undone and harms nobody else in the transaction.
        Raises `Unavailable` with code `store.outcome-unknown` if it may be stored all the same.
        """
        thread = self._started()
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable("store.busy", waiting=WAITING_MAX)
        job = _Job(work)
        self._waiting.append(job)
        with self._unless_silent():
            thread.submit(self._flush)
            result: T = await asyncio.wrap_future(job.done)
        return result

    async def outside(self, work: Work[T]) -> T:
        """Run with no transaction open, for as long as it takes."""
        return await self._run(work)

    async def stop(self) -> None:
        """Finish what waits and close the connection; again is a no-op."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._unless_silent():
                await asyncio.wrap_future(thread.submit(self._close))
            thread.shutdown()

    def _started(self) -> ThreadPoolExecutor:
        if self._thread is None:
            raise Unavailable("store.closed")
        return self._thread

    async def _run(self, work: Work[T]) -> T:
        def turn() -> T:
            with self._translated("store.read-failed"):
                return work(self._connected())

        return await asyncio.wrap_future(self._started().submit(turn))

    @contextmanager
    def _unless_silent(self) -> Iterator[None]:
        timer = asyncio.get_running_loop().call_later(SILENCE_S, self._database.cut)
        try:
            yield
        finally:
            timer.cancel()

    def _connected(self) -> Connection:
        """Return the connection; make it anew where there is none, but not at every call."""
        if self._connection is not None:
            return self._connection
        now = time.monotonic()
        if self._away and now < self._away[0]:
            raise self._away[1].again()
        try:
            with self._translated("store.write-failed"), ExitStack() as undo:
                connection = undo.enter_context(self._database.connect())
                self._ready(connection)
                undo.pop_all()
        except MadangError as error:
            self._away = (time.monotonic() + AGAIN_S, error)
            raise
        self._away, self._connection = None, connection
        return connection

    def _flush(self) -> None:
        """Commit what waits; whoever came in the meantime has already been taken along."""
        with self._take() as group, self._translated("store.write-failed"):
            if not group:
                return
            is_done = False
            try:
                connection = self._connected()
                with connection.begin():
                    self._before_group(connection)
                    for job in group:
                        _attempt(connection, job)
                    self._after_group(connection)
                    is_done = True
            except DBAPIError as error:
                if not is_done or self._database.is_undone(error):
                    raise
                cause = str(error.orig)
                raise Unavailable("store.outcome-unknown", cause=cause) from error

    @contextmanager
    def _translated(self, code: str) -> Iterator[None]:
        """Turn the database's errors into ours, and let go of a connection that broke."""
        try:
            yield
        except DBAPIError as error:
            raise self._database.named(error, code) from error
        finally:
            if self._connection is not None and self._connection.invalidated:
                self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

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
    except DataError as error:
        savepoint.rollback()
        job.refused = Rejected("store.value", cause=str(error.orig))
    except Rejected as refusal:
        savepoint.rollback()
        job.refused = refusal
    else:
        savepoint.commit()
