"""Usage on its way to control: into the journal at once, delivered when control can take it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from msgspec import DecodeError, Struct, json

from madang.errors import Unavailable
from madang.gateway.journal import Group, Journal
from madang.gateway.line import ControlLine
from madang.threads import started
from madang.traffic.account import Closed, Entry, Opened, Passed

if TYPE_CHECKING:
    from madang.ports import Clock
    from madang.traffic.exchange import Exchange
    from madang.traffic.table import Usage

GROUP_S = 0.1
"""Records of so long share one write; no more than these are lost if the process is killed."""
WAITING_RECORDS_MAX = 100_000
"""Records held in memory while the disk does not take them."""
ANSWER_S = 10.0
LAST_ANSWER_S = 1.0
"""At the end one delivery is tried; what is left waits on disk for the next start."""
RETRY_S_MIN = 0.2
RETRY_S_MAX = 5.0
RECOVER_S = 60.0
"""So often it is looked whether another process has died."""
AWAY_S = 60.0
"""It is said when control has taken no usage for so long, and again after each."""

T = TypeVar("T")

log = logging.getLogger("madang.gateway")


class Taken(Struct):
    """What control answers: up to where it has the segment."""

    cursor: int = -1


class Spool:
    """Takes records without waiting; files and network happen behind."""

    def __init__(
        self,
        journal: Journal,
        line: ControlLine,
        clock: Clock,
        under_way: Callable[[], Collection[Exchange]] = tuple,
    ) -> None:
        """`under_way` tells which requests a replica works on, at each write."""
        self._journal = journal
        self._line = line
        self._clock = clock
        self._under_way = under_way
        self._thread = started(1, "usage")
        self._waiting: list[Usage] = []
        self._open: dict[str, Opened] = {}
        """What the journal has as open."""
        self._passed: dict[str, int] = {}
        self._flushing = asyncio.Lock()
        self._written = asyncio.Event()
        self.lost = 0
        """Records dropped since the start because the disk took none."""
        self._unwritten = ""

    def record(self, usage: Usage) -> None:
        """Take one record."""
        if len(self._waiting) >= WAITING_RECORDS_MAX:
            self.lost += 1
            self._forget(usage)
            return
        self._waiting.append(usage)

    def trouble(self) -> tuple[int, str]:
        """Return how many records are lost since the start, and why the disk takes none, if so."""
        return self.lost + self._journal.lost, self._unwritten

    def _forget(self, usage: Usage) -> None:
        self._open.pop(usage.id, None)
        self._passed.pop(usage.id, None)

    async def write(self) -> None:
        """Bring records to disk, for ever."""
        while True:
            await self._clock.sleep(GROUP_S)
            try:
                await asyncio.shield(self._flush())
                self._unwritten = ""
            except OSError as error:
                self._unwritten = error.strerror or str(error)
                log.warning("usage can't be written (%d lost so far): %s", self.lost, error)
                await self._clock.sleep(RETRY_S_MAX)

    async def _flush(self) -> None:
        """Bring a group to disk; one at a time, each to its end."""
        async with self._flushing:
            await self._write_group()

    async def _write_group(self) -> None:
        """Write down who has come, how far each is, and who has gone, in that order.

        Whatever fails on the way, what waits goes on waiting.
        """
        under_way = self._under_way()
        if not (self._waiting or under_way or self._open):
            return
        closed = tuple(self._waiting)
        now, at = self._clock.monotonic(), self._clock.now()
        opened = [each.opened(now, at) for each in under_way if each.id not in self._open]
        counts = ((each.id, each.passed) for each in under_way)
        passed = {name: count for name, count in counts if count != self._passed.get(name, 0)}
        gone = {each.id for each in closed}
        standing = [each for name, each in self._open.items() if name not in gone]
        entries: list[Entry] = [*opened, *([Passed(at, tuple(passed.items()))] if passed else [])]
        entries += map(Closed, closed)
        far = Passed(at, tuple((n, c) for n, c in self._passed.items() if n not in gone))
        await self._do(self._journal.append, Group(entries, standing, far))
        del self._waiting[: len(closed)]
        self._open.update((each.usage.id, each) for each in opened)
        self._passed.update(passed)
        for usage in closed:
            self._forget(usage)
        if closed:
            self._written.set()

    async def deliver(self) -> None:
        """Bring records from disk to control, for ever; beginning with those of an earlier life."""
        retry_s, said_s = RETRY_S_MIN, self._clock.monotonic()
        self._written.set()
        while True:
            await self._written.wait()
            self._written.clear()
            try:
                while await self._deliver_batch(ANSWER_S):
                    retry_s, said_s = RETRY_S_MIN, self._clock.monotonic()
                said_s = self._clock.monotonic()
            except Unavailable as error:
                if self._clock.monotonic() - said_s >= AWAY_S:
                    said_s, kept = self._clock.monotonic(), self._journal.bytes_kept
                    log.warning("control takes no usage; %d bytes wait on disk: %s", kept, error)
                self._written.set()
                await self._clock.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)

    async def _deliver_batch(self, answer_s: float) -> bool:
        """Deliver one batch; False when there was none."""
        batch = await self._do(self._journal.batch)
        if batch is None:
            return False
        where = f"segment={batch.segment}&start={batch.start}&end={batch.end}"
        body = json.encode(batch.records)
        status, answer = await self._line.post(f"/internal/usage?{where}", body, answer_s)
        if status != 200:
            log.error("control did not take %d usage records: HTTP %d", len(batch.records), status)
            raise Unavailable("gateway.usage-refused", status=status)
        cursor = _cursor(answer)
        end = cursor if cursor > batch.start else batch.end
        await self._do(self._journal.delivered, batch.segment, end)
        return True

    async def recover(self) -> None:
        """Take over what the dead left, for ever: at the start, and whenever another dies."""
        while True:
            steps = self._journal.recover()
            try:
                while await self._do(next, steps, False):
                    pass
            except OSError as error:
                log.warning("what a dead gateway left can't be settled yet: %s", error)
            self._written.set()
            await self._clock.sleep(RECOVER_S)

    async def _do(self, work: Callable[..., T], *arguments: object) -> T:
        """Use the journal on its own thread; what was begun is finished even if nobody waits."""
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, work, *arguments))

    async def close(self) -> None:
        """Bring the last records to disk, and to control if it answers."""
        try:
            await self._flush()
            while await self._deliver_batch(LAST_ANSWER_S):
                pass
        except (Unavailable, OSError) as error:
            log.warning("usage waits on disk for the next start: %s", error)
        await self._line.close()
        await self._do(self._journal.close)
        self._thread.shutdown()


def _cursor(answer: bytes) -> int:
    try:
        return json.decode(answer, type=Taken).cursor
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return -1
