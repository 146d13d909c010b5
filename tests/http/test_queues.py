"""Queues as people are told of them: where each project stands, for whoever may see the site."""

from __future__ import annotations

import asyncio
from typing import Any

from .conftest import DEADLINE_S, Yard


async def told(yard: Yard, project: str) -> dict[str, Any]:
    """Return where a project stands in the queue for processors, once it does."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            items = (await yard.get("queue"))["items"]
            found = {each["name"]: each["status"]["projects"] for each in items}
            if project in found.get("cpu", {}):
                return dict(found["cpu"][project])
            await asyncio.sleep(0.05)


async def test_a_queue_tells_what_a_project_asks_for_has_and_counts_for(yard: Yard) -> None:
    await yard.apply({"kind": "quota", "name": "local/main", "weight": 2.5})
    await yard.apply({"kind": "job", "name": "train", "command": "sleep 60"})
    row = await told(yard, "local/main")
    assert row["demand"] > 0
    assert row["weight"] == 2.5
    assert 0.0 <= row["shortfall"] <= 1.0


async def test_nobody_writes_a_queue(yard: Yard) -> None:
    refused = await yard.apply({"kind": "queue", "name": "cpu", "accelerator": "cpu"}, status=400)
    assert refused["error"]["hint"]
