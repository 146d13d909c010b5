"""A node on paper: a launcher whose processes are entries in a dictionary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from madang.errors import Rejected, Unavailable
from madang.supervisor.protocol import LaunchPlan, Line, Moment, Observation, Process, Rank


class PaperNode:
    """Starts at once, announces at once, stops at once; can be made unreachable."""

    def __init__(self, running: Iterable[Process] = ()) -> None:
        self.processes = {process.uid: process for process in running}
        self.plans: dict[str, LaunchPlan] = {}
        self.reachable = True
        self.signals: list[tuple[str, str]] = []
        self.refuses: Rejected | None = None
        """Raised at every start while set."""
        self._seq = 1
        self._moved = asyncio.Event()

    @property
    def moment(self) -> Moment:
        """Now, in its one life."""
        return Moment("paper", self._seq)

    async def observe(self, after: int, wait_s: float) -> Observation:
        """Return every process, at once if something changed after `after`."""
        if after == self._seq and self.reachable:
            try:
                async with asyncio.timeout(wait_s):
                    await self._moved.wait()
            except TimeoutError:
                pass
        self._check()
        return Observation(self._seq, "paper", tuple(self.processes.values()))

    async def start(self, plan: LaunchPlan) -> None:
        """Run it, unless that uid already runs at this epoch or a higher one."""
        self._check()
        if self.refuses:
            raise self.refuses
        running = self.processes.get(plan.uid)
        if running and running.epoch > plan.epoch:
            raise Rejected("supervisor.stale-epoch", plan.uid, epoch=running.epoch)
        if running and running.epoch == plan.epoch:
            return
        self.plans[plan.uid] = plan
        self.processes[plan.uid] = Process(
            uid=plan.uid, epoch=plan.epoch, state="running", pid=len(self.plans),
            announced={"url": "http://127.0.0.1:9", "pid": len(self.plans)},
            accelerators=plan.accelerators,
            ranks=tuple(Rank(rank.rank, pid=1) for rank in plan.ranks),
        )  # fmt: skip
        self.move()

    async def stop(self, uid: str, epoch: int, grace_s: float) -> Moment:
        """Forget it."""
        del grace_s
        self._check()
        if uid in self.processes and self.processes[uid].epoch <= epoch:
            del self.processes[uid]
            self.move()
        return self.moment

    async def tail(self, uid: str, lines: int) -> Sequence[str]:
        """Return lines that say whose they are."""
        self._check()
        return [f"line {n} of {uid}" for n in range(min(lines, 3))] if uid in self.plans else []

    async def printed(
        self, uid: str, lines: int, rank: int | None = None, first: bool = False
    ) -> Sequence[Line]:
        """Return lines that say whose they are."""
        del first
        texts = await self.tail(uid, lines)
        return [Line(text, rank or 0, float(at)) for at, text in enumerate(texts)]

    async def progress(
        self, uid: str, epoch: int, rank: int, after: int
    ) -> tuple[Sequence[str], int]:
        """Say that no rank tells anything here."""
        del uid, epoch, rank
        self._check()
        return (), after

    async def signal(self, uid: str, epoch: int, name: str) -> None:
        """Note it; whoever should heed it is only on paper."""
        self._check()
        if self.processes[uid].epoch != epoch:
            raise Rejected("supervisor.unknown-process", uid)
        self.signals.append((uid, name))

    def end(self, uid: str, exit_code: int) -> None:
        """Let a process end by itself."""
        self.processes[uid] = replace(
            self.processes[uid], state="exited", exit_code=exit_code, announced=None
        )
        self.move()

    def move(self) -> None:
        """Let observers look again."""
        self._seq += 1
        self._moved.set()
        self._moved = asyncio.Event()

    def _check(self) -> None:
        if not self.reachable:
            raise Unavailable("launcher.unreachable", cause="on paper")
