"""The whole of control in one process, on any store, node, clock and files: the real loop and API.

Only the edges may be other ones than in `madang.app`: where processes run, who answers behind them,
and how a gate judges.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from madang.api.desk import Desk
from madang.clocks import SystemClock, SystemRandom
from madang.control.act import Hands
from madang.control.backups import Backups
from madang.control.first import Hardware, prepare, tidy
from madang.control.gateways import Gateways
from madang.control.intake import Intake
from madang.control.keys import Keys
from madang.control.loop import Loop
from madang.control.notary import Kept, Notary
from madang.control.observe import Observer
from madang.control.once import Once
from madang.control.shelf import Shelf
from madang.control.tools import Tools
from madang.control.world import World
from madang.engines import program
from madang.engines.fake import Fake
from madang.governance.heads import SEED_BYTES, HeadsFile, Signer
from madang.planning.reprice import reprice
from madang.planning.snapshot import Probed
from madang.ports import Clock, Found, Launcher
from madang.registry.blobs import FileBlobs
from madang.registry.codes import FileCodes
from madang.registry.importing import import_from, import_model
from madang.registry.saves import FileSaves
from madang.registry.secrets import FileSecrets
from madang.registry.volumes import FileVolumes
from madang.resources.revision import Check
from madang.settings import Home, audit_heads
from madang.stores.backup import pieces
from madang.stores.sqlite import SqliteStore
from madang.verify.subject import Subject

NODE = "n"
CPU = Found("cpu0", "cpu", 16 * 10**9, shared=True, attributes={"cores": 4})
ADDRESSES = {"api": "http://api", "gateway": "http://gateway/v1"}

Judge = Callable[[Subject, Sequence[str]], Sequence[Check] | None]


def approve(_subject: Subject, gate: Sequence[str]) -> Sequence[Check]:
    """Let every build pass."""
    return [Check(name=f"{gate[0]}.answers", passed=True, seconds=0, detail="")]


@dataclass
class Edges:
    """What control stands on here; whatever is not given is the real thing."""

    node: Launcher
    store: Any = None
    blobs: Any = None
    clock: Clock | None = None
    judge: Judge = approve
    found: Sequence[Found] = (CPU,)
    seed: bytes = b"k" * SEED_BYTES
    """Of what signs the heads of the audit records."""
    heads: Path | None = None
    """The second place; None: where the home keeps it."""


@asynccontextmanager
async def opened(home: Home, edges: Edges) -> AsyncIterator[Desk]:
    """Run control on this home until the block ends."""
    store = edges.store or SqliteStore(home)
    world = World(store, {"fake": Fake().facts}, edges.clock or SystemClock())
    await world.open()
    tasks: list[asyncio.Task[None]] = []
    try:
        await prepare(world, [Hardware(NODE, edges.found)], home.admin_key, SystemRandom())
        desk, hands = wired(home, world, edges, {NODE: edges.node})
        tidy(world, desk.blobs)
        loop = Loop(world, desk.observer, hands)
        shelf = Shelf(world, hands.tools)
        tasks += [asyncio.create_task(desk.observer.watch(NODE)), asyncio.create_task(loop.run())]
        tasks += [asyncio.create_task(desk.notary.run()), asyncio.create_task(shelf.run())]
        await desk.observer.first_look()
        yield desk
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


def wired(
    home: Home, world: World, edges: Edges, launchers: Mapping[str, Launcher]
) -> tuple[Desk, Hands]:
    """Put control together on these nodes; nothing of it runs yet."""

    def token(uid: str, epoch: int) -> str:
        return f"{uid}/{epoch}"

    blobs = edges.blobs or FileBlobs(home.blobs)
    gateways = Gateways(world, token)
    observer = Observer(world, launchers, gateways, lambda *_: Probed(healthy=True))
    codes, secrets = FileCodes(home.codes), FileSecrets(home.secrets, home.secrets_key)
    tools = Tools(
        launchers, {"fake": Fake()}, blobs, edges.judge, token, program.launch,
        FileSaves(home.jobs), FileVolumes(home.volumes), codes,
        secrets, partial(import_from, blobs), reprice,
    )  # fmt: skip
    notary = Notary(
        world, Signer(edges.seed), HeadsFile(edges.heads or audit_heads(home, {})), Kept(home)
    )
    intake = Intake(
        world, observer.seen, lambda source, told: import_model(source, blobs, told),
        SystemRandom(), notary.require, codes,
    )  # fmt: skip
    intake.home = home.path
    keys, backups = Keys(world), Backups(world, home, partial(pieces, world.store, home))
    desk = Desk(
        home, world, intake, observer, gateways, keys, launchers, blobs, lambda: ADDRESSES, backups,
        notary, Once(world, b"of a test"), secrets,
    )  # fmt: skip
    return desk, Hands(world, observer, tools)
