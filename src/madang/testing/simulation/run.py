"""One history: a seed decides everything that happens, and the same seed makes the same history."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from madang.errors import MadangError
from madang.testing.simulation.control import HARDWARE, Control
from madang.testing.simulation.gateway import Gateway
from madang.testing.simulation.loop import VirtualLoop
from madang.testing.simulation.machine import installed
from madang.testing.simulation.node import Node
from madang.testing.simulation.people import KEYS, SERVICES, People
from madang.testing.simulation.referee import Referee
from madang.testing.simulation.stage import Stage

QUIET_S = 60.0
"""Nothing must be planned for so long,"""
SETTLE_S = 3_600.0
"""and that must be reached in so long after the last fault."""
ACTIONS_MAX = 600
"""By so many actions."""


@dataclass(frozen=True)
class Outcome:
    """What became of one history."""

    seed: int
    storm_steps: int
    """How many were asked for, before the calm."""
    steps: int
    virtual_s: float
    digest: str
    """Of the whole log: equal digests are equal histories."""
    violations: tuple[str, ...]
    tail: tuple[str, ...]
    counts: Counter[str]
    """How often each kind of step was made."""

    def told(self) -> str:
        """Say what did not hold, and how to see it again."""
        again = f"MADANG_SEED={self.seed} MADANG_STEPS={self.storm_steps} pytest tests/simulation"
        return "\n".join((*self.tail, *self.violations, f"again: {again}"))


class _Blame(logging.Handler):
    """Errors of our own in the log are violations."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.ERROR)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else ""
        self._history.referee.blame(f"an error of ours: {record.getMessage()}: {cause!r}")


class History(Stage):
    """Everything that is simulated: first a storm, then calm."""

    def __init__(self, seed: int, loop: VirtualLoop, home: Path) -> None:
        super().__init__(seed, loop, home)
        self.referee = Referee(self)
        self.people = People(self)
        self.nodes = {name: Node(name, self) for name in HARDWARE}
        self.gateways = [Gateway(f"g{n}", self) for n in (1, 2)]

    async def _keep_control(self) -> None:
        """Start control whenever it is not there and its node is."""
        home = self.nodes[next(iter(HARDWARE))]
        while True:
            if self.control is None and home.supervisor is not None:
                control = self.control = Control(self)
                self.step("control-start")
                try:
                    await control.start()
                except MadangError as error:
                    self.step("control-failed", error.code)
                    self.lose(control)
            await asyncio.sleep(0.5)

    # The storm, and the calm after it.

    async def play(self, steps: int) -> None:
        """Let everything happen, for that many steps, and then let it come to rest."""
        self.limit = self.storm_steps = steps
        for name, node in self.nodes.items():
            (self.home / name / "run").mkdir(parents=True)
            node.start()
        for gateway in self.gateways:
            gateway.start()
        spawn = self.loop.create_task
        tasks = [spawn(self._keep_control())]
        await self.people.import_models()
        minds = [spawn(self.people.mind_service(name)) for name in SERVICES]
        minds += [spawn(self.people.mind_key(name)) for name in KEYS]
        storm = spawn(self._storm())
        await self._enough.wait()
        for task in (*minds, storm):
            task.cancel()
        await self._settle()
        for task in tasks:
            task.cancel()
        for control in (self.control, *self.deposed):
            if control:
                control.end()
        for gateway in self.gateways:
            if gateway.life:
                gateway.life.end()

    async def _storm(self) -> None:
        kinds: list[tuple[Callable[[], object], int]] = [
            (self._doom_control, 5), (self.depose_control, 2), (self._crash_node, 4),
            (self._crash_machine, 2), (self._cut_off, 4), (self._break_engine, 5),
            (self._kill_gateway, 2), (self._set_clock, 2), (self._sicken_store, 2),
        ]  # fmt: skip
        faults, weights = zip(*kinds, strict=True)
        while True:
            await asyncio.sleep(self.faults.expovariate(self.intensity / 20.0))
            self.faults.choices(faults, weights)[0]()

    def _doom_control(self) -> None:
        self.kill_at = self.steps + self.faults.randrange(1, 60)

    def _node(self) -> Node:
        chosen: Node = self.faults.choice(list(self.nodes.values()))
        return chosen

    def _crash_node(self) -> None:
        node = self._node()
        if self.faults.random() < 0.5:
            node.crash_in = self.faults.randrange(1, 12)
        elif node.supervisor:
            node.crash()

    def _crash_machine(self) -> None:
        node = self._node()
        if node.supervisor:
            node.crash(machine=True)

    def _cut_off(self) -> None:
        node = self._node()
        if not node.is_cut_off:
            node.cut_off(True)
            self.loop.call_later(self.faults.uniform(1, 90), node.cut_off, False)

    def _break_engine(self) -> None:
        self._node().break_engine(hang=self.faults.random() < 0.4)

    def _kill_gateway(self) -> None:
        self.faults.choice(self.gateways).kill()

    def _set_clock(self) -> None:
        self.clock.set_s += self.faults.uniform(-7200, 7200)
        self.step("clock-set")

    def _sicken_store(self) -> None:
        self.store_is_ill = True
        self.step("store-ill")
        self.loop.call_later(self.faults.uniform(0.5, 20), self._heal_store)

    def _heal_store(self) -> None:
        self.store_is_ill = False
        self.step("store-well")

    def _calm(self) -> None:
        """End every fault; what has begun to go wrong still takes its course."""
        self.is_stormy = self.store_is_ill = False
        self.kill_at = 0
        for node in self.nodes.values():
            node.crash_in = 0
            if node.is_cut_off:
                node.cut_off(False)

    async def _settle(self) -> None:
        if self.referee.violations:
            return
        self._calm()
        self.limit = self.steps + 1_000_000
        began_s, self.actions = self.loop.time(), 0
        self.step("calm")
        wrong: list[str] = []
        while self.loop.time() < began_s + SETTLE_S and not self.referee.violations:
            await asyncio.sleep(5.0)
            if self.loop.time() - max(self.planned_at_s, began_s) < QUIET_S:
                continue
            if self.control is None or not self.control.is_ready:
                continue
            wrong = list(self.referee.final())
            if not wrong:
                break
        for each in wrong:
            self.referee.blame(f"after {self.loop.time() - began_s:.0f} s of calm: {each}")
        if self.loop.time() >= began_s + SETTLE_S and not wrong:
            self.referee.blame(f"no quiet after {SETTLE_S} s: {self.actions} actions")
        if self.actions > ACTIONS_MAX:
            self.referee.blame(f"{self.actions} actions until all was quiet")

    def outcome(self) -> Outcome:
        """Return what became of it."""
        return Outcome(
            self.seed, self.storm_steps, self.steps, self.loop.time(), self._digest.hexdigest(),
            tuple(self.referee.violations), tuple(self.tail), self.counts,
        )  # fmt: skip


def storm(seed: int, steps: int) -> Outcome:
    """Play the history of one seed: that many steps of faults, and then calm."""
    loop = VirtualLoop()
    log = logging.getLogger("madang.control")
    with tempfile.TemporaryDirectory() as home, installed():
        history = History(seed, loop, Path(home).resolve())
        handler = _Blame(history)
        before, log.propagate = (log.level, log.propagate), False
        log.addHandler(handler)
        log.setLevel(logging.ERROR)
        try:
            loop.run_until_complete(history.play(steps))
            _finish(loop)
        finally:
            log.removeHandler(handler)
            log.level, log.propagate = before
    return history.outcome()


def _finish(loop: VirtualLoop) -> None:
    """End what is still waiting for something that will not come."""
    while left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=1.0))
    loop.close()
