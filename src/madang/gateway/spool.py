"""Usage on its way to control: into the journal at once, delivered when control can take it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from madang.errors import Unavailable
from madang.gateway.journal import Journal
from madang.gateway.line import ControlLine
from madang.threads import started

if TYPE_CHECKING:
    from madang.ports import Clock
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

T = TypeVar("T")

log = logging.getLogger("madang.gateway")


class Spool:
    """Takes records without waiting; files and network happen behind."""

    def __init__(self, journal: Journal, line: ControlLine, clock: Clock) -> None:
        self._journal = journal
        self._line = line
        self._clock = clock
        journal.open()
        self._thread = started(1, "usage")
        self._waiting: list[Usage] = []
        self._recorded = asyncio.Event()
        self._written = asyncio.Event()
        self.lost = 0
        """Records dropped since the start because the disk took none."""

    def record(self, usage: Usage) -> None:
        """Take one record."""
        if len(self._waiting) >= WAITING_RECORDS_MAX:
            self.lost += 1
            return
        self._waiting.append(usage)
        self._recorded.set()

    async def write(self) -> None:
        """Bring records to disk, for ever."""
        while True:
            await self._recorded.wait()
            await self._clock.sleep(GROUP_S)
            try:
                await self._flush()
            except OSError as error:
                log.warning("usage can't be written (%d lost so far): %s", self.lost, error)
                await self._clock.sleep(RETRY_S_MAX)

    async def _flush(self) -> None:
        group, self._waiting = self._waiting, []
        self._recorded.clear()
        try:
            await self._do(self._journal.append, group)
        except OSError:
            self._waiting = group + self._waiting
            self._recorded.set()
            raise
        self._written.set()

    async def deliver(self) -> None:
        """Bring records from disk to control, for ever; beginning with those of an earlier life."""
        retry_s = RETRY_S_MIN
        self._written.set()
        while True:
            await self._written.wait()
            self._written.clear()
            try:
                while await self._deliver_batch(ANSWER_S):
                    retry_s = RETRY_S_MIN
            except Unavailable:
                self._written.set()
                await self._clock.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)

    async def _deliver_batch(self, answer_s: float) -> bool:
        """Deliver one batch; False when there was none."""
        records, end = await self._do(self._journal.batch)
        if not end:
            return False
        if records:
            body = b"[" + b",".join(records) + b"]"
            status, _ = await self._line.post("/internal/usage", body, answer_s)
            if status != 200:
                log.error("control did not take %d usage records: HTTP %d", len(records), status)
                raise Unavailable("gateway.usage-refused", status=status)
        await self._do(self._journal.delivered, end)
        return True

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
