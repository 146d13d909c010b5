"""The line to control: POST over the UNIX socket in the home, found again after each failure."""

from __future__ import annotations

import os
from pathlib import Path

from aiohttp import (
    ClientError,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    UnixConnector,
)

from madang.errors import Unavailable

SOCKET = "control.sock"
ANSWER_BYTES_MAX = 64 << 20
"""A table of some 100,000 keys and replicas fits."""


class ControlLine:
    """One caller's line. An answer is (status, body); no answer raises `Unavailable`."""

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._session: ClientSession | None = None
        self._folder_fd = -1

    async def post(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Ask control something."""
        try:
            session = self._session or self._open()
            headers = {"Content-Type": "application/json"}
            timeout = ClientTimeout(total=timeout_s)
            async with session.post(
                f"http://control{path}", data=body, headers=headers, timeout=timeout
            ) as answer:
                return answer.status, await _read(answer)
        except (ClientError, OSError, TimeoutError) as error:
            await self.close()
            reason = str(error) or type(error).__name__
            raise Unavailable("gateway.control-unreachable", reason=reason) from error

    def _open(self) -> ClientSession:
        """Hold the folder by a descriptor: a socket's path is limited to 107 bytes, ours is not."""
        self._folder_fd = os.open(self._sockets, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connector = UnixConnector(f"/proc/self/fd/{self._folder_fd}/{SOCKET}")
        self._session = ClientSession(connector=connector)
        return self._session

    async def close(self) -> None:
        """Hang up; the next call dials again."""
        session, self._session = self._session, None
        if session:
            await session.close()
            os.close(self._folder_fd)


async def _read(answer: ClientResponse) -> bytes:
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            raise ClientPayloadError("the answer is over the bound")
    return bytes(body)
