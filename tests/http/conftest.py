"""The whole of control in one process, over a node on paper: real store, real loop, real API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from madang.api.app import build
from madang.api.desk import Desk
from madang.resources.revision import Check
from madang.settings import Home
from madang.testing import control
from madang.testing.node import PaperNode
from madang.verify.subject import Subject

PROJECT = "local/main"
DEADLINE_S = 20.0


@dataclass
class Yard:
    """A running control, and a client with the operator's key."""

    desk: Desk
    node: PaperNode
    client: httpx.AsyncClient
    home: Home
    verdict: list[bool]

    async def get(self, path: str, status: int = 200, **params: Any) -> Any:
        answer = await self.client.get(f"/api/v1/{path}", params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path: str, body: Any, status: int = 200) -> Any:
        answer = await self.client.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def apply(self, *documents: Any, status: int = 200, **more: Any) -> Any:
        return await self.post("apply", {"documents": list(documents), **more}, status)

    async def add_model(self, name: str = "tiny", **script: Any) -> Any:
        path = self.home.path / f"{name}.json"
        path.write_text(json.dumps({"fake": 1, **script}))
        body = {"name": name, "source": str(path)}
        answer = await self.client.post("/api/v1/model", json=body)
        return json.loads(answer.text.splitlines()[-1])

    async def until(self, kind: str, name: str, phase: str) -> Any:
        """Wait for a resource to come to a phase."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = await self.client.get(f"/api/v1/{kind}/{name}")
                if found.status_code == 200 and found.json()["status"]["phase"] == phase:
                    return found.json()
                await self.desk.world.moved(self.desk.world.tick, 0.1)

    async def until_gone(self, kind: str, name: str) -> None:
        """Wait until something is forgotten, but not for gateways of an earlier control."""
        self.desk.gateways._since_s = 0.0
        async with asyncio.timeout(DEADLINE_S):
            while (await self.client.get(f"/api/v1/{kind}/{name}")).status_code != 404:
                await self.desk.world.moved(self.desk.world.tick, 0.1)


@asynccontextmanager
async def opened(
    home: Home, node: PaperNode | None = None, store: Any = None, **edges: Any
) -> AsyncIterator[Yard]:
    """Run control on this home until the block ends."""
    node, verdict = node or PaperNode(), [True]

    def judge(_subject: Subject, gate: Sequence[str]) -> Sequence[Check]:
        detail = "" if verdict[0] else "expected text, got none"
        return [Check(name=f"{gate[0]}.answers", passed=verdict[0], seconds=0, detail=detail)]

    async with control.opened(home, control.Edges(node, store=store, judge=judge, **edges)) as desk:
        transport = httpx.ASGITransport(app=build(desk), raise_app_exceptions=False)
        key = home.admin_key.read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://api", headers=headers
        ) as client:
            yield Yard(desk, node, client, home, verdict)


@asynccontextmanager
async def serving(yard: Yard) -> AsyncIterator[str]:
    """Serve the API on a port until the block ends; its address."""
    config = uvicorn.Config(build(yard.desk), port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with opened(Home(tmp_path)) as running:
        yield running


async def deeds(yard: Yard) -> list[str]:
    """Return what somebody with a key has done, by the events of it."""
    events = (await yard.get("event", limit=1000))["items"]
    return [event["code"] for event in events if event["actor"].startswith("key/")]
