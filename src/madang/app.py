"""The one place that knows every adapter, and plugs them in: each process starts here.

`python -m madang.app HOME --host H --port N` is control; the gateway is `python -m madang.gateway`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os
import platform
import signal
import socket
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang import logs, settings
from madang.ending import ENDS, farewell
from madang.errors import Corrupt, Unavailable
from madang.settings import PORT_DEFAULT, Home, audit_heads, names
from madang.supervisor.protocol import READY_FD, LaunchPlan

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from madang.api.desk import Desk
    from madang.control.backups import Backups
    from madang.control.intake import Intake
    from madang.control.notary import Notary
    from madang.control.observe import Observer
    from madang.control.world import World
    from madang.governance.heads import Signer

log = logging.getLogger("madang.control")

TELL_AGAIN_S = 5.0
"""How often it is looked whether HOME/listen.json is still true."""
SECRET_CHARS_MIN = 32
"""A shorter secret is none: the file was damaged."""
ASK_S = 5.0
"""How long an engine may take to say who it is before it is asked again."""
GATEWAY = "gateway"
CONTROL = "control"
PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "MADANG_LANG",
    "MADANG_NAMES",
    "MADANG_AUDIT_HEADS",
    "SSL_CERT_FILE",
    "TMPDIR",
)
"""What control and gateway see of the environment of `madang up`."""
SPARING = {"MALLOC_ARENA_MAX": "2"}
"""Memory: without it the C library keeps a heap of its own for every thread."""


def boot_plans(home: Home, host: str, port: int) -> list[dict[str, Any]]:
    """Return what the supervisor starts by itself: control, and the gateway on the next port."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | SPARING
    python = (sys.executable, "-I", "-m")
    where = (str(home.path), "--host", host, "--port")
    parts = {
        CONTROL: (*python, "madang.app", *where, str(port)),
        GATEWAY: (*python, "madang.gateway", *where, str(port + 1), "--uid", GATEWAY),
    }
    return [
        asdict(LaunchPlan(uid=uid, epoch=1, argv=argv, env=env, restart="always", grace_s=15.0))
        for uid, argv in parts.items()
    ]


def free_port(host: str) -> int:
    """Return a port that is free together with the next one."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind((host, 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second.bind((host, port + 1))
                return port
    raise Unavailable("up.no-free-port", host=host)


def network_file_system(home: Home) -> str:
    """Return what the home lies on if that can't keep state safely; empty when it can."""
    from madang.stores.place import NETWORK_FILE_SYSTEMS, file_system

    kind = file_system(home.path)
    return kind if kind in NETWORK_FILE_SYSTEMS else ""


def engines() -> dict[str, Any]:
    """Return every engine by recipe."""
    from madang.engines.fake import Fake
    from madang.engines.llamacpp import LlamaCpp

    return {engine.facts.name: engine for engine in (LlamaCpp(), Fake())}


def node_name() -> str:
    """Return what this machine is called, as a name of ours."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in platform.node().lower())
    return kept.strip("-")[:40].strip("-") or "node"


def engine_token(secret: bytes, uid: str, epoch: int) -> str:
    """Return the key of one engine: derived, so that nobody has to keep it."""
    return hmac.new(secret, f"engine/{uid}/{epoch}".encode(), hashlib.sha256).hexdigest()


def _secret(home: Home) -> bytes:
    """Return what engine tokens are derived from, made at the first start.

    One that was lost or damaged is made anew: engines that have a key of the old one answer as
    strangers, and are replaced.
    """
    from madang.clocks import SystemRandom
    from madang.control.first import write_private

    with contextlib.suppress(FileNotFoundError):
        secret = home.secret.read_bytes().strip()
        if len(secret) >= SECRET_CHARS_MIN:
            return secret
        log.warning("%s is damaged and is made anew: every engine gets a new key", home.secret)
    write_private(home.secret, SystemRandom().token(32) + "\n")
    return home.secret.read_bytes().strip()


def chosen_store(home: Home) -> Any:
    """Return the home's store: the database whose address it keeps, else its own state file."""
    url = settings.database_url(home)
    if url:
        from madang.stores.postgres import PostgresStore

        return PostgresStore(home, url)
    from madang.stores.sqlite import SqliteStore

    return SqliteStore(home)


def _signer(home: Home) -> Signer:
    """Return what signs heads of the audit records, its key made at the first start."""
    from madang.clocks import SystemRandom
    from madang.control.first import write_private
    from madang.governance.heads import SEED_BYTES, Signer

    if not home.audit_key.exists():
        write_private(home.audit_key, SystemRandom().token(SEED_BYTES) + "\n")
    try:
        signer = Signer(bytes.fromhex(home.audit_key.read_text("ascii").strip()))
    except ValueError as error:
        raise Unavailable("audit.bad-key", str(home.audit_key), cause=str(error)) from error
    write_private(home.audit_public, signer.key + "\n")
    return signer


async def run_control(home: Home, host: str, port: int) -> None:
    """Be control until SIGTERM: one world, one loop, two doors."""
    from madang.clocks import SystemClock
    from madang.control.world import World

    store = chosen_store(home)
    plugged = engines()
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
    from madang.traffic.front import Front

    desk, hands = await _wire(home, world, plugged, f"http://{host}:{port}")
    loop = Loop(world, desk.observer, hands)
    servers = [
        _server(build_api(desk, Front(names())), _tcp(host, port)),
        _server(build_internal(world, desk.gateways), _unix(home.sockets, "control.sock")),
    ]
    running = [asyncio.create_task(serve) for serve in servers]
    running += [asyncio.create_task(desk.observer.watch(node)) for node in desk.launchers]
    running += [asyncio.create_task(loop.run()), asyncio.create_task(_tell(home, desk))]
    running.append(asyncio.create_task(desk.notary.run()))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    running.append(asyncio.create_task(_until(stopping)))
    running.append(asyncio.create_task(world.until_superseded()))
    _announce(f"http://{host}:{port}")
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
    from madang.accelerators.cpu import Cpu
    from madang.accelerators.nvidia import Nvidia
    from madang.api.desk import Desk
    from madang.clocks import SystemRandom
    from madang.control.act import Hands, Tools
    from madang.control.backups import Backups
    from madang.control.first import Hardware, prepare, tidy
    from madang.control.gateways import Gateways
    from madang.control.keys import Keys
    from madang.control.observe import Observer
    from madang.control.once import Once
    from madang.registry.blobs import FileBlobs
    from madang.stores.backup import pieces
    from madang.verify.gate import judge
    from madang.verify.identity import who_answers
    from madang.verify.subject import Subject

    secret = _secret(home)

    def token(uid: str, epoch: int) -> str:
        return engine_token(secret, uid, epoch)

    def ask(url: str, uid: str, epoch: int) -> Any:
        return who_answers(Subject(url, uid, token(uid, epoch), lambda _text: {}, ASK_S))

    found = [*Cpu().find(), *Nvidia().find()]
    await prepare(world, Hardware(node_name(), found), home.admin_key, SystemRandom())
    launchers = {node_name(): _launcher(home, world)}
    blobs = FileBlobs(home.blobs)
    tidy(world, blobs)
    gateways = Gateways(world, token)
    observer = Observer(world, launchers, gateways, ask)
    hands = Hands(world, observer, Tools(launchers, plugged, blobs, judge, token))
    notary, intake = _people(home, world, observer, blobs)

    def where() -> dict[str, str]:
        return {"api": api, "gateway": _gateway_url(observer.seen().processes.get(GATEWAY))}

    backups = Backups(world, home, partial(pieces, world.store, home))
    keys = Keys(world)
    parts = (intake, observer, gateways, keys, launchers, blobs, where, backups, notary)
    desk = Desk(home, world, *parts, Once(world, secret))
    return desk, hands


@contextlib.asynccontextmanager
async def at_rest(home: Home) -> AsyncIterator[Backups]:
    """Open a home that no control works on, for backups only; nobody else can start on it."""
    from madang.clocks import SystemClock
    from madang.control.backups import Backups
    from madang.control.world import World
    from madang.stores.backup import pieces

    world = World(chosen_store(home), {}, SystemClock())
    await world.open()
    try:
        yield Backups(world, home, partial(pieces, world.store, home))
    finally:
        await world.store.close()


def back_up(home: Home, path: Path) -> None:
    """Write a backup of a home that no control works on."""
    from madang.resources.rights import OWNER

    async def take() -> None:
        async with at_rest(home) as backups:
            with keeping(path) as write:
                async for piece in backups.take(OWNER):
                    write(piece)

    asyncio.run(take())


def note_backup(home: Home, outcome: Mapping[str, Any]) -> None:
    """Write down what became of a backup, in a home that no control works on."""
    from madang.control.backups import Outcome
    from madang.resources.rights import OWNER

    async def note() -> None:
        async with at_rest(home) as backups:
            await backups.note(OWNER, Outcome.model_validate(outcome))

    asyncio.run(note())


def keeping(path: Path) -> contextlib.AbstractContextManager[Callable[[bytes], None]]:
    """Take a backup piece by piece into a new file; see `stores.archive.keeping`."""
    from madang.stores import archive

    return archive.keeping(path)


def backup_said(path: Path) -> dict[str, Any]:
    """Return what a backup says of itself, with the SHA-256 and the size of its file."""
    from madang.stores import archive

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    listing = archive.read(path)
    members = [asdict(member) for member in listing.members]
    size = path.stat().st_size
    return {**listing.about, "members": members, "sha256": digest, "file_bytes": size}


def check_backup(path: Path) -> None:
    """Check a backup to its last byte; raises where it can't be restored."""
    from madang.stores.restore import checked

    checked(path)


def restore(home: Home, path: Path, *, replace: bool) -> dict[str, Any]:
    """Make a home of a backup; return what it says, where the old one lies, and what is missing."""
    from madang.registry.blobs import FileBlobs
    from madang.resources.rights import OWNER
    from madang.stores.restore import restore as put_back

    done = put_back(home, path, OWNER, replace=replace)
    blobs, missing = FileBlobs(home.blobs), []
    for each in done.listing.about["model_files"]:
        try:
            blobs.path(each["digest"])
        except (Unavailable, Corrupt):
            missing.append(each)
    aside = str(done.aside) if done.aside else ""
    return {**done.listing.about, "home": str(home.path), "aside": aside, "missing": missing}


def drill(path: Path) -> dict[str, Any]:
    """Restore a backup into a scratch home and query it; see `stores.restore.drill`."""
    from madang.resources.rights import OWNER
    from madang.stores.restore import drill as try_out

    return {**try_out(path, OWNER), "sha256": backup_said(path)["sha256"]}


def finish_restore(home: Home) -> None:
    """Bring a restore to its end that was interrupted after it was decided; nothing may run."""
    from madang.stores import swap

    swap.finish(home)


def refuse_newer(home: Home) -> None:
    """Raise `Corrupt` for a home that a newer Madang has written; looks, and touches nothing."""
    from madang.stores import peek

    peek.refuse_newer(home.state)


def schema_versions() -> tuple[str, ...]:
    """Return every version of the tables that this Madang knows, oldest first."""
    from madang.stores.migrations import VERSIONS

    return VERSIONS


def file_system(path: Path) -> str:
    """Return the type of the file system below a path."""
    from madang.stores import place

    return place.file_system(path)


def _launcher(home: Home, world: World) -> Any:
    from madang.launchers.local import Local

    return Local(home.sockets / "supervisor.sock", world.term, store=world.store.id)


def _people(home: Home, world: World, observer: Observer, blobs: Any) -> tuple[Notary, Intake]:
    """Put together the door for people, and who vouches for what comes through it."""
    from madang.clocks import SystemRandom
    from madang.control.intake import Intake
    from madang.control.notary import Notary
    from madang.governance.heads import HeadsFile
    from madang.registry.importing import import_model

    notary = Notary(world, _signer(home), HeadsFile(audit_heads(home)))
    intake = Intake(
        world,
        observer.seen,
        lambda source, p: import_model(source, blobs, p),
        SystemRandom(),
        notary.require,
    )
    return notary, intake


def _gateway_url(process: Any) -> str:
    url = str((process.announced or {}).get("url", "")) if process else ""
    return f"{url}/v1" if url else ""


async def _until(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def _tell(home: Home, desk: Desk) -> None:
    """Keep HOME/listen.json true: where api and gateway can be reached."""
    from madang.control.first import write_private

    told: dict[str, str] = {}
    while True:
        tick, now = desk.world.tick, dict(desk.where())
        if now["gateway"] and now != told:
            try:
                write_private(home.listen, json.dumps(now) + "\n")
                told = now
            except OSError as error:  # tried again: clients still have the old one
                log.warning("%s can't be written: %s", home.listen, error)
        await desk.world.moved(tick, TELL_AGAIN_S)


def _tcp(host: str, port: int) -> socket.socket:
    # Named as TCP, or asyncio does not switch Nagle's delay off (40 ms an answer).
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        where, cause = f"{host}:{port}", error.strerror or str(error)
        raise Unavailable("control.port", where, cause=cause) from error
    listening.listen(256)
    return listening


def _unix(folder: Path, name: str) -> socket.socket:
    """Listen on a socket of any path length: bound through the folder's descriptor."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        before = os.umask(0o177)
        listening.bind(f"/proc/self/fd/{descriptor}/{name}")
        os.umask(before)
    finally:
        os.close(descriptor)
    listening.listen(64)
    return listening


async def _server(app: FastAPI | ASGIApp, listening: socket.socket) -> None:
    """Serve until cancelled; signals are the caller's."""
    import uvicorn

    from madang import wire

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app, http=wire.BoundedHeads, timeout_graceful_shutdown=2, **wire.SETTINGS
    )
    server = Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving
        listening.close()


def _announce(url: str) -> None:
    """Tell the supervisor that control listens."""
    descriptor = os.environ.pop(READY_FD, "")
    if descriptor:
        with os.fdopen(int(descriptor), "w") as ready:
            ready.write(json.dumps({"url": url, "pid": os.getpid()}) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run control; an error that has a code ends it with one line."""
    parser = ArgumentParser(prog="python -m madang.app", description=__doc__)
    parser.add_argument("home", type=Path, help="the directory that holds all state")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT_DEFAULT)
    given = parser.parse_args(arguments)
    logs.begin()
    try:
        asyncio.run(run_control(Home(given.home), given.host, given.port))
    except ENDS as error:
        return farewell(CONTROL, error)
    return 0


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    os._exit(status)  # a thread may still wait for an engine that hangs; nobody waits for it
