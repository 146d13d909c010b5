"""Ten thousand hostile requests to the control API, in one process: how many are our fault."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from madang.api.app import build
from madang.settings import Home
from madang.testing.control import Edges, opened
from madang.testing.hostile import besiege
from madang.testing.node import PaperNode
from rows import Row, write

CASES = 10_000
SEED = 2026


async def rows() -> list[Row]:
    """Besiege a control of its own, and count."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        async with opened(home, Edges(PaperNode())) as desk:
            key = f"Bearer {home.admin_key.read_text().strip()}"
            told = await besiege(build(desk), key, CASES, SEED)
    for case in (*told.failed[:20], *told.taken[:20]):
        print(case)
    return [
        Row("hostile requests sent", told.cases, "requests", CASES, lower_is_better=False),
        Row("hostile requests answered 5xx or not at all", len(told.failed), "requests", 0),
        Row("requests that the schema forbids", told.wrong, "requests", None),
        Row("of them done all the same", len(told.taken), "requests", 0),
        Row("time for all of them", time.perf_counter() - began, "s"),
    ]


if __name__ == "__main__":
    write("hostile", asyncio.run(rows()))
