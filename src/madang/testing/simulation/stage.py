"""What all parts of a history share: the log, the clock, chance, and how to reach each other."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from madang.errors import MadangError, Unavailable
from madang.planning.action import Plan
from madang.testing.memory import Shelf, When
from madang.testing.simulation.loop import VirtualLoop
from madang.testing.simulation.machine import Living
from madang.testing.simulation.network import Fate

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0
ASK_S = 5.0
JUDGE_S = 60.0
TAIL = 60
"""So many of the last steps are shown when something does not hold."""


class Clock:
    """Virtual time; the wall clock jumps when somebody sets it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.set_s = EPOCH_S

    def now(self) -> float:
        """See `Clock.now`."""
        return self._loop.time() + self.set_s

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


def chance(what: str, seed: int) -> random.Random:
    """Return a source of chance that depends on the seed and on nothing else."""
    return random.Random(f"{what} {seed}")  # noqa: S311 - it is meant to come again


class Dice:
    """Randomness that comes again with the seed."""

    def __init__(self, seed: int) -> None:
        self._chance = chance("tokens", seed)

    def token(self, byte_count: int) -> str:
        """See `Random.token`."""
        return self._chance.randbytes(byte_count).hex()


class Behaviour:
    """How one process goes about its life."""

    def __init__(self, stage: Stage) -> None:
        chance, self._now = stage.faults, stage.loop.time
        calm = not stage.is_stormy
        self._began_s = self._now()
        self.hung_at_s: float | None = None
        self.load_s: float | None = chance.expovariate(1 / 3.0)
        self.crash_s: float | None = None
        self.status = chance.choice([0, 1 << 8, 9, 11])
        self.end_s: float | None = chance.uniform(0.0, 2.0)
        self.has_helper = chance.random() < 0.3
        if calm:
            return
        if chance.random() < 0.1:
            self.load_s = chance.uniform(20.0, 120.0)
        if chance.random() < 0.02:
            self.load_s = None
        if chance.random() < 0.15:
            self.crash_s = chance.expovariate(1 / 60.0)
        if chance.random() < 0.1:
            self.end_s = None

    def hang(self, now_s: float) -> None:
        """Do nothing any more."""
        self.hung_at_s = now_s

    def answers(self) -> bool:
        """Tell whether it answers questions."""
        return self.hung_at_s is None

    def cpu_s(self, now_s: float) -> float:
        """Return the processor time it has used."""
        return 0.01 + 0.2 * ((self.hung_at_s or now_s) - self._began_s)


class Stage:
    """Where one history happens; `run.History` puts the parts on it."""

    def __init__(self, seed: int, loop: VirtualLoop, home: Path) -> None:
        self.loop, self.home, self.seed = loop, home, seed
        self.faults = chance("faults", seed)
        self.whims = chance("whims", seed)
        self.traffic = chance("traffic", seed)
        self.random = Dice(seed)
        self.is_stormy = True
        self.intensity = self.faults.choice([0.2, 1.0, 1.0, 3.0])
        self.steps = self.actions = self.measured = 0
        self.limit = self.storm_steps = 0
        self.planned_at_s = 0.0
        self.kill_at = 0
        self.store_is_ill = False
        self.counts: Counter[str] = Counter()
        self.tail: deque[str] = deque(maxlen=TAIL)
        self._digest = hashlib.sha256()
        self._enough = asyncio.Event()
        self.clock = Clock(loop)
        self.referee: Any
        self.people: Any
        self.nodes: dict[str, Any] = {}
        self.gateways: list[Any] = []
        self.control: Any = None
        """The one that answers now."""
        self.shelf = Shelf(on_commit=self._committed)
        self.deposed: list[Any] = []
        loop.takes_s = self._takes_s
        loop.dial = lambda node, protocol: self.nodes[node].dial(protocol)

    # The log.

    def step(self, what: str, subject: str = "", detail: str = "") -> None:
        """Note that something has happened, and see whether everything still holds."""
        self.steps += 1
        self.counts[what] += 1
        line = f"{self.loop.time():.6f} {what} {subject} {detail}"
        self._digest.update(line.encode() + b"\n")
        self.tail.append(line)
        self.referee.look()
        if self.kill_at and self.steps >= self.kill_at:
            self.kill_at = 0
            self.kill_control()
        if self.steps >= self.limit:
            self._enough.set()

    def stop(self) -> None:
        """Let nothing more happen than must."""
        self._enough.set()

    def _committed(self, who: Any, changes: Any) -> None:
        self.referee.committed(who, changes)
        self.step("commit", who.actor, " ".join(_written(c) for c in changes))

    def planned(self, plan: Plan) -> None:
        """Count what control has decided."""
        if plan.actions:
            self.actions += len(plan.actions)
            self.planned_at_s = self.loop.time()
            self.step("plan", "", " ".join(f"{a.verb}:{a.subject.name}" for a in plan.actions))

    # What is drawn.

    def happens(self, chance: float) -> bool:
        """Draw whether a fault of that chance happens now."""
        return self.is_stormy and self.faults.random() < chance * self.intensity

    def line_fate(self) -> Fate:
        """Draw what becomes of a line on a wire."""
        if not self.happens(0.03):
            return ""
        return self.faults.choice(("lost", "doubled", "doubled", "late", "late", "cut"))

    def die_s(self) -> float:
        """Draw how long a killed process takes to vanish."""
        return self.faults.uniform(0, 20.0) if self.happens(0.05) else self.faults.uniform(0, 0.05)

    def behaviour(self) -> Behaviour:
        """Draw how a process goes about its life."""
        return Behaviour(self)

    def _takes_s(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
        name = getattr(work, "__name__", "")
        if name == "_ask":
            engine = self.engine_at(arguments[0])
            hangs = engine is not None and not engine.behaviour.answers()
            return ASK_S if hangs else self.faults.uniform(0.001, 0.3)
        if name == "_judge":
            engine = self.engine_at(arguments[0].url)
            hangs = engine is not None and not engine.behaviour.answers()
            return JUDGE_S if hangs else self.faults.uniform(0.5, 10.0)
        return self.faults.uniform(0.0005, 0.02)

    async def trouble(self, when: When) -> None:
        """Let the store take its time, fail, or forget to answer."""
        await asyncio.sleep(self.faults.uniform(0.0002, 0.01))
        ill = self.store_is_ill and self.faults.random() < 0.5
        if when == "open":
            return
        if ill or self.happens(0.01):
            lost = when == "committed" or self.faults.random() < 0.3
            code = "store.outcome-unknown" if lost else "store.write-failed"
            self.step("store-fails", when, code)
            raise Unavailable(code if when != "read" else "store.read-failed", cause="simulated")

    def engine_at(self, url: str) -> Living | None:
        """Return what lives behind a url."""
        node, _, pid = url.removeprefix("sim://").partition("/")
        living = self.nodes[node].machine.processes.get(int(pid)) if node in self.nodes else None
        return living if living and not living.is_dying else None

    # Control, and how others reach it.

    async def ask(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Ask control for something, as people do over HTTP."""
        if self.control is None:
            raise Unavailable("launcher.unreachable", cause="no control")
        answer: T = await self.control.call(work)
        return answer

    async def post(self, work: Callable[[Any], Awaitable[T]], patience_s: float) -> T:
        """Ask control as a gateway does, over a wire that may fail; raises TimeoutError."""
        fate = self.line_fate()
        async with asyncio.timeout(patience_s):
            await asyncio.sleep(self.faults.uniform(0.0002, 0.01))
            if fate in {"doubled", "late"}:
                self.loop.call_later(self.faults.uniform(0.1, 30.0), self._stray, work)
            if fate in {"lost", "late"}:
                await asyncio.sleep(patience_s)
            answer = await self.ask(work)
            if fate == "cut":
                raise Unavailable("launcher.unreachable", cause="cut")
            return answer

    def _stray(self, work: Callable[[Any], Awaitable[object]]) -> None:
        """Let something arrive that nobody waits for any more."""
        control = self.control

        async def serve() -> None:
            if control:
                try:
                    await work(control)
                except MadangError:
                    return

        if control and control.is_ready:
            control.life.begin(serve())

    def kill_control(self) -> None:
        """Kill control, at whatever it is doing."""
        if self.control:
            control, self.control = self.control, None
            control.end()
            self.step("control-killed")

    def lose(self, control: Any) -> None:
        """See a control end by itself."""
        control.end()
        if self.control is control:
            self.control = None

    def depose_control(self) -> None:
        """Let a new control begin while the old one still believes to be it."""
        if self.control and self.control.is_ready:
            old, self.control = self.control, None
            self.deposed.append(old)
            self.shelf.holder = None
            self.step("control-deposed")
            self.loop.call_later(self.faults.uniform(0.5, 30.0), old.end)

    def node_lost(self, node: Any) -> None:
        """Take down with a node's supervisor what it has started."""
        if node.name == next(iter(self.nodes)):
            self.kill_control()


def _written(change: Any) -> str:
    before, after, is_gone = change
    phase = getattr(after.status, "phase", "")
    verb = "-" if is_gone else "~" if before else "+"
    return f"{verb}{after.kind}/{after.name}:{phase}"
