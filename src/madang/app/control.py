"""Control as a process: one world, one loop, two doors."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from madang.app.plugs import (
    chosen_store,
    engine_token,
    engines,
    hardware,
    launchers,
    secret_of,
    signer_of,
    unenclosed,
)
from madang.app.sockets import announce, server, tcp, unix
from madang.app.upkeep import newer_files
from madang.settings import (
    CONTROL_SOCKET,
    GATEWAY_PROCESSES_MAX,
    Home,
    audit_heads,
    backup_age_s,
    fairness_budget,
    gateway_uids,
    jobs_kept,
    moves_per_100,
    names,
    usage_days,
)

if TYPE_CHECKING:
    from madang.api.desk import Desk
    from madang.control.intake import Intake
    from madang.control.notary import Notary
    from madang.control.observe import Observer
    from madang.control.world import World

log = logging.getLogger("madang.control")

TELL_AGAIN_S = 5.0
"""How often it is looked whether HOME/listen.json is still true."""
ASK_S = 5.0
"""How long an engine may take to say who it is before it is asked again."""


async def run_control(home: Home, host: str, port: int) -> None:
    """Be control until SIGTERM: one world, one loop, two doors."""
    from madang.clocks import SystemClock
    from madang.control.world import World
    from madang.threads import ready

    for error in newer_files(home):
        raise error  # it would be written over
    ready()
    store = chosen_store(home)
    plugged = engines(home)
    world = World(store, {name: e.facts for name, e in plugged.items()}, SystemClock())
    await world.open()
    try:
        await _serve(home, host, port, world, plugged)
    finally:
        await store.close()


async def _serve(home: Home, host: str, port: int, world: World, plugged: dict[str, Any]) -> None:
    from madang.api.app import build as build_api
    from madang.api.internal import build as build_internal
    from madang.control.loop import Loop
    from madang.control.notary import last_words
    from madang.control.shelf import Shelf
    from madang.traffic.front import Front

    desk, hands = await _wire(home, world, plugged, f"http://{host}:{port}")
    loop = Loop(world, desk.observer, hands)
    servers = [
        server(build_api(desk, Front(names())), tcp(host, port)),
        server(build_internal(world, desk.gateways), unix(home.sockets, CONTROL_SOCKET)),
    ]
    running = [asyncio.create_task(serve) for serve in servers]
    running += [asyncio.create_task(desk.observer.watch(node)) for node in desk.launchers]
    running += [asyncio.create_task(loop.run()), asyncio.create_task(_tell(home, desk))]
    running.append(asyncio.create_task(desk.notary.run()))
    running.append(asyncio.create_task(Shelf(world, hands.tools).run()))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    running.append(asyncio.create_task(_until(stopping)))
    running.append(asyncio.create_task(world.until_superseded()))
    announce(f"http://{host}:{port}")
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    world.close()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await last_words(desk.notary)
    for launcher in desk.launchers.values():
        await launcher.close()  # type: ignore[attr-defined]
    for task in done:
        task.result()


async def _wire(home: Home, world: World, plugged: dict[str, Any], api: str) -> tuple[Desk, Any]:
    """Put control together: what it stands on, sees, does and shows."""
    from madang.api.desk import Desk
    from madang.clocks import SystemRandom
    from madang.control.act import Hands
    from madang.control.backups import Backups
    from madang.control.first import prepare, tidy
    from madang.control.gateways import Gateways
    from madang.control.keys import Keys
    from madang.control.observe import Observer
    from madang.control.once import Once
    from madang.control.tools import Tools
    from madang.engines import program
    from madang.registry.blobs import FileBlobs
    from madang.stores.backup import pieces
    from madang.verify.gate import judge
    from madang.verify.identity import who_answers
    from madang.verify.subject import Subject

    secret = secret_of(home)
    world.moves_per_100, world.jobs_kept = moves_per_100(), jobs_kept()
    world.usage_days, world.fairness_budget = usage_days(), fairness_budget()
    world.unenclosed, numbers = await asyncio.to_thread(unenclosed, home)
    world.encloses = not world.unenclosed

    def token(uid: str, epoch: int) -> str:
        return engine_token(secret, uid, epoch)

    def ask(url: str, uid: str, epoch: int) -> Any:
        return who_answers(Subject(url, uid, token(uid, epoch), lambda _text: {}, ASK_S))

    await prepare(world, hardware(home), home.admin_key, SystemRandom())
    nodes = launchers(home, world.term, world.store.id)
    blobs = FileBlobs(home.blobs)
    tidy(world, blobs)
    gateways = Gateways(world, token)
    observer = Observer(world, nodes, gateways, ask)
    kept = _kept_for_jobs(home, numbers, blobs)
    tools = Tools(nodes, plugged, blobs, judge, token, program.launch, *kept)
    hands = Hands(world, observer, tools)
    notary, intake = _people(home, world, observer, blobs, tools.codes)

    def where() -> dict[str, str]:
        return {"api": api, "gateway": _gateway_url(observer)}

    backups = Backups(world, home, partial(pieces, world.store, home), backup_age_s())
    keys = Keys(world)
    parts = (intake, observer, gateways, keys, nodes, blobs, where, backups, notary)
    desk = Desk(home, world, *parts, Once(world, secret), tools.secrets)
    return desk, hands


def _kept_for_jobs(home: Home, numbers: bool, blobs: Any) -> tuple[Any, ...]:
    """Return what keeps what jobs have, in the order of `Tools`."""
    from madang.registry.codes import FileCodes
    from madang.registry.importing import import_from
    from madang.registry.saves import FileSaves
    from madang.registry.secrets import FileSecrets
    from madang.registry.volumes import FileVolumes

    volumes, codes = FileVolumes(home.volumes, numbers), FileCodes(home.codes)
    secrets = FileSecrets(home.secrets, home.secrets_key)
    return FileSaves(home.jobs), volumes, codes, secrets, partial(import_from, blobs)


def _people(
    home: Home, world: World, observer: Observer, blobs: Any, codes: Any
) -> tuple[Notary, Intake]:
    """Put together the door for people, and who vouches for what comes through it."""
    from madang.clocks import SystemRandom
    from madang.control.intake import Intake
    from madang.control.notary import Kept, Notary
    from madang.governance.heads import HeadsFile
    from madang.registry.importing import import_model

    notary = Notary(world, signer_of(home), HeadsFile(audit_heads(home)), Kept(home))
    intake = Intake(
        world,
        observer.seen,
        lambda source, p: import_model(source, blobs, p),
        SystemRandom(),
        notary.require,
        codes,
    )
    intake.home = home.path
    return notary, intake


def _gateway_url(observer: Observer) -> str:
    """Return where the gateway listens, by the first of its processes that has said so."""
    for uid in gateway_uids(GATEWAY_PROCESSES_MAX):
        process = observer.process(uid)
        if process and (url := str((process.announced or {}).get("url", ""))):
            return f"{url}/v1"
    return ""


async def _until(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def _tell(home: Home, desk: Desk) -> None:
    """Keep HOME/listen.json true: where api and gateway can be reached."""
    from madang.control.first import write_private
    from madang.forms import marked

    told: dict[str, str] = {}
    while True:
        tick, now = desk.world.tick, dict(desk.where())
        if now["gateway"] and now != told:
            try:
                write_private(home.listen, json.dumps(marked(now)) + "\n")
                told = now
            except OSError as error:  # tried again: clients still have the old one
                log.warning("%s can't be written: %s", home.listen, error)
        await desk.world.moved(tick, TELL_AGAIN_S)
