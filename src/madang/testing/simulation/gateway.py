"""A gateway as control sees it: it pulls tables, late or not at all, and goes on serving."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from madang.errors import MadangError
from madang.resources.rights import GATEWAY
from madang.settings import GATEWAY_LEASE_S
from madang.testing.simulation.loop import Life
from madang.testing.simulation.stage import Stage
from madang.traffic.table import Pull, RouteTable, Usage

if TYPE_CHECKING:
    from madang.testing.simulation.control import Control

WAIT_S = 2.0
PATIENCE_S = 7.0


class Gateway:
    """One gateway, over all its lives: what is on its disk outlives it."""

    def __init__(self, name: str, history: Stage) -> None:
        self.name = name
        self.history = history
        self.table = RouteTable(version=0)
        self.heard_at_s = -GATEWAY_LEASE_S
        """When control last took a pull of its."""
        self.undelivered: list[Usage] = []
        self.inflight: dict[str, int] = {}
        self.life: Life | None = None
        self._requests = 0

    @property
    def routed(self) -> frozenset[str]:
        """Replicas it may send to."""
        return frozenset(t.uid for e in self.table.endpoints for t in e.targets)

    def start(self) -> None:
        """Begin to serve, with the table on disk."""
        self.life = Life()
        self.inflight = {}
        for work in (self._pull(), self._serve(), self._deliver()):
            self.life.begin(work)

    def kill(self) -> None:
        """End it; the supervisor starts it again."""
        if self.life:
            self.life.end()
            self.life = None
            self.history.step("gateway-killed", self.name)
            self.history.loop.call_later(self.history.faults.uniform(0.5, 20), self._again)

    def _again(self) -> None:
        if self.life is None:
            self.history.step("gateway-start", self.name)
            self.start()

    async def _pull(self) -> None:
        while True:
            asked = Pull(
                self.name, self.table.version, dict(self.inflight), {}, WAIT_S, self.table.store
            )
            with suppress(MadangError, TimeoutError):
                table = await self.history.post(partial(self._asked, asked), PATIENCE_S)
                if table is not None and table.version > self.table.version:
                    await asyncio.sleep(self.history.faults.uniform(0.001, 0.05))  # onto its disk
                    self.table = table
                    self.history.step("table", self.name, str(table.version))
                    self.history.referee.took(self)
            await asyncio.sleep(self.history.faults.uniform(0.01, 0.4))

    async def _asked(self, asked: Pull, control: Control) -> RouteTable | None:
        """Be asked, in control."""
        if not control.life.is_over:
            self.heard_at_s = self.history.loop.time()
            self.history.step("pull", self.name, f"{asked.serving} term={control.world.term}")
        return await control.gateways.pull(asked)

    async def _serve(self) -> None:
        while True:
            await asyncio.sleep(self.history.traffic.expovariate(1 / 4.0))
            targets = [t for e in self.table.endpoints for t in e.targets]
            if targets and self.life:
                target = self.history.traffic.choice(targets)
                self.history.step("request", self.name, f"{target.uid}/{target.epoch}")
                self.history.referee.routed(self, target)
                self.life.begin(self._request(target.uid))

    async def _request(self, uid: str) -> None:
        self._requests += 1
        number = self._requests
        self.inflight[uid] = self.inflight.get(uid, 0) + 1
        long = self.history.traffic.random() < 0.1
        await asyncio.sleep(self.history.traffic.uniform(20, 60) if long else 0.5)
        self.inflight[uid] -= 1
        if not self.inflight[uid]:
            del self.inflight[uid]
        record = Usage(
            id=f"{self.name}-{number}", at=self.history.clock.now(), key="k", project="local/main",
            endpoint="e", replica=uid, prompt_tokens=1, cached_tokens=0, output_tokens=1,
            status=200, duration_s=0.5,
        )  # fmt: skip
        self.undelivered.append(record)
        self.history.measured += 1

    async def _deliver(self) -> None:
        while True:
            await asyncio.sleep(5.0)
            if batch := list(self.undelivered):
                with suppress(MadangError, TimeoutError):
                    await self.history.post(partial(_record, batch), PATIENCE_S)
                    del self.undelivered[: len(batch)]


async def _record(batch: list[Usage], control: Control) -> None:
    await control.world.record_usage(GATEWAY, batch)
