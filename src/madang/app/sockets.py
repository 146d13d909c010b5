"""Where control listens, and the server behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from madang.errors import Unavailable
from madang.holders import holder_of, noted
from madang.supervisor.protocol import READY_FD

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp


def tcp(host: str, port: int) -> socket.socket:
    """Listen on a port; raises when it is taken."""
    # Named as TCP, or asyncio does not switch Nagle's delay off (40 ms an answer).
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        where, cause = f"{host}:{port}", error.strerror or str(error)
        holder = noted(holder_of(host, port))
        raise Unavailable("control.port", where, cause=cause, holder=holder) from error
    listening.listen(256)
    return listening


def unix(folder: Path, name: str) -> socket.socket:
    """Listen on a socket of any path length: bound through the folder's descriptor."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        before = os.umask(0o177)
        listening.bind(f"/proc/self/fd/{descriptor}/{name}")
        os.umask(before)
    finally:
        os.close(descriptor)
    listening.listen(64)
    return listening


async def server(app: FastAPI | ASGIApp, listening: socket.socket) -> None:
    """Serve until cancelled; signals are the caller's."""
    import uvicorn

    from madang import wire

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app, http=wire.BoundedHeads, timeout_graceful_shutdown=2, **wire.SETTINGS
    )
    server = Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving
        listening.close()


def announce(url: str) -> None:
    """Tell the supervisor that control listens."""
    descriptor = os.environ.pop(READY_FD, "")
    if descriptor:
        with os.fdopen(int(descriptor), "w") as ready:
            ready.write(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
