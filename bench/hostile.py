"""Ten thousand hostile requests to the control API, and as many to a gateway: what is our fault."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from madang.api.app import build
from madang.settings import Home
from madang.testing.control import Edges, opened
from madang.testing.flood import Rig
from madang.testing.hostile import Told
from madang.testing.hostile import besiege as besiege_control
from madang.testing.hostile_gateway import besiege as besiege_gateway
from madang.testing.node import PaperNode
from rows import Row, write

CASES = 10_000
SEED = 2026


async def control() -> Told:
    """Besiege a control of its own, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        async with opened(home, Edges(PaperNode())) as desk:
            key = f"Bearer {home.admin_key.read_text().strip()}"
            return await besiege_control(build(desk), key, CASES, SEED)


async def gateway() -> Told:
    """Besiege a gateway process, over its socket."""
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), token_ms=0)
        try:
            rig.begin()
            return await besiege_gateway(rig.url, CASES, SEED)
        finally:
            rig.close()


def rows_of(door: str, told: Told, seconds: float) -> list[Row]:
    """Count, and show what failed."""
    for case in (*told.failed[:20], *told.taken[:20]):
        print(case)
    return [
        Row(f"{door}: hostile requests sent", told.cases, "requests", CASES, lower_is_better=False),
        Row(f"{door}: answered by a fault of ours, or not at all", len(told.failed), "requests", 0),
        Row(f"{door}: time for all of them", seconds, "s"),
    ]


async def rows() -> list[Row]:
    """Besiege both."""
    began = time.perf_counter()
    told = await control()
    between = time.perf_counter()
    return [
        *rows_of("control", told, between - began),
        Row("control: of these forbidden by its schema", told.wrong, "requests"),
        Row("control: forbidden, and done all the same", len(told.taken), "requests", 0),
        *rows_of("gateway", await gateway(), time.perf_counter() - between),
    ]


if __name__ == "__main__":
    write("hostile", asyncio.run(rows()))
