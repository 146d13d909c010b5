"""One life of control: the product's world, eyes, hands and loop, on simulated edges."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from madang.control.act import Hands
from madang.control.first import Hardware, prepare
from madang.control.gateways import Gateways
from madang.control.intake import Intake
from madang.control.loop import Loop
from madang.control.observe import Observer
from madang.control.tools import Tools
from madang.control.world import World
from madang.engines import program
from madang.engines.fake import Fake
from madang.errors import Rejected, Unavailable
from madang.launchers.local import Local
from madang.planning.action import Plan
from madang.planning.reprice import reprice
from madang.planning.snapshot import Probed
from madang.ports import Found
from madang.registry.codes import FileCodes
from madang.registry.saves import FileSaves
from madang.registry.secrets import FileSecrets
from madang.registry.volumes import FileVolumes
from madang.resources.model import ModelVersion
from madang.resources.revision import Check
from madang.testing.memory import MemoryStore
from madang.testing.simulation.loop import Life
from madang.testing.simulation.stage import Stage
from madang.verify.subject import Subject

T = TypeVar("T")
GB = 10**9
HARDWARE = {
    "a": (Found("cpu0", "cpu", 4 * GB, shared=True, attributes={"cores": 4}),),
    "b": tuple(Found(f"gpu{n}", "nvidia/h100", 8 * GB, shared=False) for n in range(2)),
    "c": tuple(Found(f"gpu{n}", "nvidia/h100", 8 * GB, shared=False) for n in range(2)),
}
"""What each node has; control lives on the first."""
MODELS = {"small": GB, "large": 3 * GB, "wrong": GB}
"""Sizes in bytes. What `wrong` answers no gate lets pass."""


def digest(model: str) -> str:
    """Return the digest of a model's file."""
    return "sha256:" + model.encode().hex().ljust(64, "0")


def no_read(_folder: Path, source: str) -> ModelVersion:
    """Refuse to read a model in a volume: the files here are on paper."""
    raise Rejected("model.source-unreadable", source, cause="on paper")


class Files:
    """Every file is there and whole."""

    def path(self, digest: str) -> Path:
        """See `Blobs.path`."""
        return Path("/models") / digest


class Watched(Loop):
    """The product's loop, which tells of every plan it makes."""

    def __init__(self, control: Control, hands: Hands) -> None:
        super().__init__(control.world, control.observer, hands)
        self._history = control.history

    async def turn(self) -> Plan:
        """Go round once."""
        planned = await super().turn()
        self._history.planned(planned)
        return planned


class Control:
    """Control from its start to its end."""

    def __init__(self, history: Stage) -> None:
        self.history = history
        self.life = Life()
        self.is_ready = False
        store = MemoryStore(history.shelf, history.trouble)
        self.store = store
        self.fake = Fake()
        self.world = World(store, {"fake": self.fake.facts}, history.clock)
        self.observer: Observer
        self.gateways: Gateways
        self.intake: Intake

    async def begin(self) -> None:
        """Open the store and start turning; raises MadangError where that can't be."""
        history, world = self.history, self.world
        await world.open()
        for node, found in HARDWARE.items():
            await prepare(
                world, [Hardware(node, found)], history.home / "admin.key", history.random
            )
        launchers: dict[str, Any] = {
            name: Local(
                history.home / name / "run" / "supervisor.sock", world.term, store=world.store.id
            )
            for name in HARDWARE
        }
        self.gateways = Gateways(world, token)
        self.observer = Observer(world, launchers, self.gateways, self._ask)
        files: Any = Files()
        codes = FileCodes(history.home / "codes")
        tools = Tools(
            launchers, {"fake": self.fake}, files, self._judge, token, program.launch,
            FileSaves(history.home / "jobs"), FileVolumes(history.home / "volumes"), codes,
            FileSecrets(history.home / "secrets", history.home / "secrets.key"), no_read, reprice,
        )  # fmt: skip
        hands = Hands(world, self.observer, tools)
        self.intake = Intake(world, self.observer.seen, load, history.random, lambda: None, codes)
        parts = [self.observer.watch(name) for name in launchers]
        parts.append(world.until_superseded())
        for part in (*parts, Watched(self, hands).run()):
            self.life.begin(part).add_done_callback(self._ended)

    async def start(self) -> None:
        """Begin as a process of its own; raises MadangError when that fails."""
        await self._serve(lambda control: control.begin())
        self.is_ready = True

    async def call(self, work: Callable[[Control], Awaitable[T]]) -> T:
        """Have control do something, as by a request; its end is `Unavailable` to the caller."""
        if self.life.is_over or not self.is_ready:
            raise Unavailable("launcher.unreachable", cause="no control")
        return await self._serve(work)

    async def _serve(self, work: Callable[[Control], Awaitable[T]]) -> T:
        async def serve() -> T:
            return await work(self)

        serving = self.life.begin(serve())
        serving.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(serving)  # whoever asked may go away: control goes on
        except asyncio.CancelledError:
            if serving.cancelled():
                raise Unavailable("launcher.unreachable", cause="no control") from None
            raise

    def _ended(self, part: asyncio.Task[None]) -> None:
        """End as a whole when a part does, as the product does; that it does is its own fault."""
        if not part.cancelled() and not self.life.is_over:
            self.history.step("control-ended", repr(part.exception()))
            self.history.lose(self)

    def end(self) -> None:
        """Kill it. The lock on its store falls with it."""
        self.life.end()
        if self.history.shelf.holder is self.store:
            self.history.shelf.holder = None

    def _ask(self, url: str, uid: str, epoch: int) -> Probed | None:
        engine = self.history.engine_at(url)
        if engine is None or not engine.behaviour.answers():
            return None
        ours = engine.plan.uid == uid and engine.plan.epoch == epoch
        if ours:
            self.history.referee.identified.add((uid, epoch))
        return Probed(healthy=ours, detail="" if ours else f"it answers as {engine.plan.uid}")

    def _judge(self, subject: Subject, gate: Sequence[str]) -> Sequence[Check] | None:
        engine = self.history.engine_at(subject.url)
        if engine is None or not engine.behaviour.answers() or engine.plan.uid != subject.uid:
            return None
        passed = digest("wrong") not in engine.plan.argv[-1]
        if passed:
            self.history.referee.judged(engine)
        return [Check(name=f"{gate[0]}.answers", passed=passed, seconds=1.0, detail="")]


def token(uid: str, epoch: int) -> str:
    """Return the key of one engine."""
    return f"{uid}/{epoch}"


def load(source: str, _progress: Callable[[int, int], None]) -> ModelVersion:
    """Read a model whose name is its source."""
    return ModelVersion(
        number=0, digest=digest(source), source=source, size_bytes=MODELS[source], format="fake",
        context_tokens=4096,
    )  # fmt: skip
