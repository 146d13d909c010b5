"""Keeping the route table fresh: from disk at the start, then by long polls to control.

A table is on disk before it is served, or none is: a restart never serves an older one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import DecodeError, Struct, json, structs

from madang import forms
from madang.errors import Unavailable, refuse_newer
from madang.gateway.line import ControlLine
from madang.traffic.desk import Desk
from madang.traffic.table import RouteTable

if TYPE_CHECKING:
    from madang.ports import Clock

WAIT_S = 2.0
"""How long control may hold a poll: less than what makes a table stale."""
ANSWER_S = 5.0
"""Time for control to answer beyond that."""
RETRY_S_MIN = 0.2
RETRY_S_MAX = 2.0

log = logging.getLogger("madang.gateway")


async def _unprepared(_table: RouteTable) -> None:
    """Do nothing."""


def _untroubled() -> tuple[int, str]:
    return 0, ""


class Marked(Struct):
    """The form of a table, whatever else is in it."""

    form: int = 1


class TableFile:
    """The newest table on disk, mode 600: it holds the engines' keys."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> RouteTable | None:
        """Read the table; one that can't be read is set aside and named.

        Raises `Corrupt` for one that a newer gateway has kept: it stays as it is.
        """
        try:
            data = self._path.read_bytes()
            refuse_newer(self._path, json.decode(data, type=Marked))
            return json.decode(data, type=RouteTable)
        except FileNotFoundError:
            return None
        except (DecodeError, UnicodeDecodeError):
            aside = self._path.with_suffix(".corrupt")
            self._path.replace(aside)
            log.warning("the route table on disk is damaged; set aside as %s", aside)
            return None

    def drop(self) -> None:
        """Remove the table, so that a restart does not serve an older one; raises OSError."""
        self._path.unlink(missing_ok=True)

    def save(self, data: bytes) -> None:
        """Write the table so that either the old or the new one survives a crash."""
        fresh = self._path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Puller:
    """Asks control for the next table, for ever, and goes on serving while control is away."""

    def __init__(
        self, uid: str, desk: Desk, file: TableFile, line: ControlLine, clock: Clock
    ) -> None:
        self._uid = uid
        self._desk = desk
        self._file = file
        self._line = line
        self._clock = clock
        self._connected: bool | None = None
        self._hurried = asyncio.Event()
        desk.hurry = self._hurried.set
        self.prepare: Callable[[RouteTable], Awaitable[None]] = _unprepared
        """Done with a table before it is served."""
        self.trouble: Callable[[], tuple[int, str]] = _untroubled
        """How many records of usage are lost, and why the disk takes none just now, if it does."""

    def load(self) -> None:
        """Serve the table on disk, if there is one."""
        table = self._file.load()
        if table:
            self._desk.take(table)
            log.info("serving table %d from disk", table.version)

    async def run(self) -> None:
        """Pull for ever."""
        retry_s = RETRY_S_MIN
        while True:
            began = self._clock.monotonic()
            try:
                news = await self._pull()
            except (Unavailable, OSError) as error:
                self._note(connected=False, why=str(error))
                await self._clock.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)
                continue
            self._note(connected=True)
            retry_s = RETRY_S_MIN
            rest_s = RETRY_S_MIN - (self._clock.monotonic() - began)
            if not news and rest_s > 0:
                await self._clock.sleep(rest_s)

    async def _pull(self) -> bool:
        """Ask once; True when there was a newer table."""
        self._hurried.clear()
        lost, unwritten = self.trouble()
        pull = self._desk.pull(self._uid, WAIT_S, self._clock.monotonic())
        pull = structs.replace(pull, lost=lost, unwritten=unwritten)
        answer = await self._until_hurried(json.encode(pull))
        if answer is None:
            return False
        status, body = answer
        table = self._read(status, body) if status != 204 else None
        news = table is not None and self._desk.wants(table)
        if table and news:
            await self._keep(body)
            await self.prepare(table)
            self._desk.take(table)
            log.info("serving table %d", table.version)
        self._desk.hear(self._clock.monotonic())
        return news

    async def _until_hurried(self, asked: bytes) -> tuple[int, bytes] | None:
        """Wait for control's answer; None: it has to be told something else first."""
        post = self._line.post("/internal/routes", asked, WAIT_S + ANSWER_S)
        answer, hurry = asyncio.ensure_future(post), asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((answer, hurry), return_when=asyncio.FIRST_COMPLETED)
            return await answer if answer.done() else None
        finally:
            for each in (answer, hurry):
                each.cancel()
            await asyncio.gather(answer, hurry, return_exceptions=True)

    async def _keep(self, body: bytes) -> None:
        """Write a table down; on a full disk none is better there than an older one.

        So a key that is revoked is refused, and a new replica served, whatever the disk takes.
        """
        try:
            await asyncio.to_thread(self._file.save, body)
        except OSError as error:
            await asyncio.to_thread(self._file.drop)
            log.warning("the route table can't be written, and is kept in memory only: %s", error)

    def _read(self, status: int, body: bytes) -> RouteTable:
        if status != 200:
            raise Unavailable("gateway.control-refused", status=status)
        try:
            if (found := json.decode(body, type=Marked).form) > forms.KNOWN:
                raise Unavailable("gateway.control-newer", found=found, known=forms.KNOWN)
            return json.decode(body, type=RouteTable)
        except (DecodeError, UnicodeDecodeError) as error:
            raise Unavailable("gateway.control-garbled", reason=str(error)) from error

    def _note(self, connected: bool, why: str = "") -> None:
        """Say once that control was lost, and once that it is back."""
        if connected == self._connected:
            return
        self._connected = connected
        if connected:
            log.info("control answers")
        else:
            log.warning("control does not answer, serving table %d: %s", self._desk.version, why)

    async def close(self) -> None:
        """Hang up."""
        await self._line.close()
