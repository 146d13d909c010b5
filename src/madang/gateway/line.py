"""The line to control: POST over the UNIX socket in the home, found again after each failure."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from madang.errors import Unavailable
from madang.settings import CONTROL_SOCKET

ANSWER_BYTES_MAX = 64 << 20
"""A table of some 100,000 keys and replicas fits."""
READ_BYTES = 256 << 10


class _Answer:
    """One answer as the parser tells of it."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.is_whole = self.is_begun = self.keeps_alive = False
        self.status = 0
        self._parser = HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take some bytes; raises ValueError for what is no answer."""
        self.is_begun = True
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise ValueError(str(error) or type(error).__name__) from error

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.keeps_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.body += body
        if len(self.body) > ANSWER_BYTES_MAX:
            raise ValueError("the answer is over the bound")

    def on_message_complete(self) -> None:
        self.is_whole = True


class ControlLine:
    """One caller's line. An answer is (status, body); no answer raises `Unavailable`."""

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Ask control something."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(path, body)
        except (OSError, TimeoutError, ValueError) as error:
            await self.close()
            reason = str(error) or type(error).__name__
            raise Unavailable("gateway.control-unreachable", reason=reason) from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def _ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Ask; once more when a line that was used before turns out to be dead."""
        head = f"POST {path} HTTP/1.1\r\nHost: control\r\nContent-Type: application/json\r\n"
        said = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        was_used = self._writer is not None
        answer = await self._try(said)
        if was_used and not answer.is_begun:
            await self.close()
            answer = await self._try(said)
        if not answer.is_whole:
            raise ConnectionError("control hung up")
        if not answer.keeps_alive:
            await self.close()
        return answer.status, bytes(answer.body)

    async def _try(self, said: bytes) -> _Answer:
        answer = _Answer()
        try:
            reader, writer = await self._dial()
            writer.write(said)
            while not answer.is_whole and (data := await reader.read(READ_BYTES)):
                answer.feed(data)
        except ConnectionError:
            if answer.is_begun or self._writer is None:
                raise
        return answer

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Hold the folder by a descriptor: a socket's path is limited to 107 bytes, ours is not."""
        if self._reader is None or self._writer is None:
            folder = os.open(self._sockets, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                place = f"/proc/self/fd/{folder}/{CONTROL_SOCKET}"
                self._reader, self._writer = await asyncio.open_unix_connection(place)
            finally:
                os.close(folder)
        return self._reader, self._writer

    async def close(self) -> None:
        """Hang up; the next call dials again."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
