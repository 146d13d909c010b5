"""The way to whoever takes orders by the supervisor's protocol, on a UNIX socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from madang.supervisor.protocol import LINE_BYTES_MAX, Observation, process_from

ANSWER_SECONDS_MAX = 10.0
"""An order without an answer for this long has failed; for observe this is added to its wait."""


async def dial(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect by way of a descriptor, because socket paths end at 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        return await asyncio.open_unix_connection(short, limit=LINE_BYTES_MAX)
    finally:
        os.close(folder)


def observation_from(body: Mapping[str, Any]) -> Observation:
    """Read an observation; what is none raises KeyError, TypeError or AttributeError."""
    processes = tuple(process_from(process) for process in body["processes"])
    return Observation(body["seq"], body["boot"], processes)
