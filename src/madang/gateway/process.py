"""The gateway as a process: its socket, its files, its loops, its end."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import uvloop

from madang import logs, messages, settings
from madang.clocks import SystemClock, SystemRandom
from madang.compiled import is_used
from madang.errors import Unavailable
from madang.gateway.app import Gateway
from madang.gateway.columns import Columns, tend
from madang.gateway.engines import Engines
from madang.gateway.entrance import Entrance
from madang.gateway.house import Means
from madang.gateway.journal import Journal, column_of
from madang.gateway.lease import Lessee
from madang.gateway.line import ControlLine
from madang.gateway.listening import Place, listen
from madang.gateway.pull import Puller, TableFile
from madang.gateway.spool import Spool
from madang.gateway.tls import Shown
from madang.settings import BODY_BYTES_MAX, GATEWAY, STALE_TABLE_S, Home
from madang.supervisor.protocol import READY_FD
from madang.threads import Lacks, ready
from madang.traffic.abreast import JointDesk, parted
from madang.traffic.desk import Desk
from madang.traffic.front import Front
from madang.traffic.limits import Limits

FINISH_S = 10
"""Time for streams to end once we are told to stop."""
LAST_WORDS_S = 1.0
"""And then for the rest to be told that they are cut off."""
BREATH_S = 0.25
"""After a loop ran out of memory, before it goes on."""
BOOT_BYTES = 6
SALT_BYTES = 8
"""Of the secret that prefixes are hashed with."""
GC_THRESHOLDS = (50_000, 20, 50)
"""A request leaves no cycles behind: Python need not look for them often."""
WRITERS = 2
"""Threads that write the table."""

log = logging.getLogger("madang.gateway")


def run(home: Home, place: Place, uid: str, processes: int = 1) -> None:
    """Serve until told to stop, alone or as one of several processes."""
    logs.begin()
    _, descriptors_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_max, descriptors_max))
    home.gateway.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = settings.tls_files(home)
    shown = Shown(files, SystemClock()) if files else None
    loop = uvloop.new_event_loop
    with (
        _alone(home, uid),
        _columns(home, processes) as columns,
        listen(place, columns) as listener,
        asyncio.Runner(loop_factory=loop) as runner,
    ):
        runner.run(_serve(home, listener, uid, shown, columns))


@contextmanager
def _columns(home: Home, processes: int) -> Iterator[Columns | None]:
    """Join the other processes of this gateway; None: it is the only one."""
    if processes == 1:
        yield None
        return
    columns = Columns(home.gateway, processes)
    if not columns.claim(SystemClock().monotonic()):
        columns.close()
        raise Unavailable("gateway.crowded", str(home.path))
    try:
        yield columns
    finally:
        columns.close()


@contextmanager
def _alone(home: Home, uid: str) -> Iterator[None]:
    """Hold this process's files: two would tear its table."""
    with (home.gateway / ("lock" if uid == GATEWAY else f"lock-{uid}")).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable("gateway.running", subject=str(home.path)) from None
        yield


def _desk(uid: str, columns: Columns | None) -> Desk:
    limits = Limits(body_bytes_max=BODY_BYTES_MAX, stale_table_s=STALE_TABLE_S)
    front, salt = Front(settings.names()), int(SystemRandom().token(SALT_BYTES), 16)
    if columns is None:
        return Desk(limits, front, salt)
    desk = JointDesk(parted(limits, columns.processes), front, salt, columns)
    desk.tell({"process": uid})
    return desk


async def _serve(
    home: Home, listener: socket.socket, uid: str, shown: Shown | None, columns: Columns | None
) -> None:
    clock = SystemClock()
    desk = _desk(uid, columns)
    lacks = Lacks(lambda cause: desk.lack(cause, clock.monotonic()))
    ready(WRITERS, lacks)
    boot = SystemRandom().token(BOOT_BYTES)
    journal = Journal(home.gateway, column_of(os.getpid(), boot))
    spool = Spool(journal, ControlLine(home.sockets), clock, desk.under_way)
    table = TableFile(home.table_of(uid))
    puller = Puller(uid, desk, table, ControlLine(home.sockets), clock)
    lessee = Lessee((uid, boot), desk, ControlLine(home.sockets), clock)
    puller.prepare, puller.trouble = lessee.prepare, spool.trouble
    engines = Engines(desk.limits.connect_s, lacks)
    means = Means(desk, engines, clock, spool.record, lacks)
    gateway = Gateway(means, boot)
    puller.load()
    messages.load()
    async with asyncio.TaskGroup() as group:
        desk.tell({"machine_code": is_used()})
        entrance = Entrance(gateway.connect, lacks, shown)
        loops: list[Callable[[], Awaitable[None]]] = [
            gateway.sweep, puller.run, spool.write, spool.deliver, spool.recover, lessee.run,
            partial(entrance.tend, clock),
        ]  # fmt: skip
        if columns and isinstance(desk, JointDesk):
            loops.append(partial(tend, desk, columns, clock))
        if shown:
            shown.begin(desk.tell)
            loops.append(partial(shown.watch, listener.getsockname()[:2]))
        tasks = [group.create_task(lasting(each, lacks)) for each in loops]
        await _accept(gateway, listener, entrance, "https" if shown else "http")
        for task in tasks:
            task.cancel()
    await engines.close()
    await puller.close()
    await lessee.close()
    await spool.close()
    log.info("stopped")


async def lasting(work: Callable[[], Awaitable[None]], lacks: Lacks) -> None:
    """Do what is done for ever, again and again where memory runs out in the middle of it."""
    while True:
        try:
            await work()
        except MemoryError as error:
            with suppress(MemoryError):
                lacks.note(error)
        await asyncio.sleep(0)  # takes no memory
        with suppress(MemoryError):
            await asyncio.sleep(BREATH_S)


async def _accept(
    gateway: Gateway, listener: socket.socket, entrance: Entrance, scheme: str
) -> None:
    """Serve until told to stop, and then until all that is under way is served, or cut off."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    entrance.listen(listener)
    _announce(listener, scheme)
    await told.wait()
    entrance.close()
    await gateway.finish(FINISH_S)
    await gateway.cut(LAST_WORDS_S)


def _announce(listener: socket.socket, scheme: str) -> None:
    """Tell whoever started us, and the log, where we listen."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    host, port = listener.getsockname()[:2]
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    log.info("listening on %s, %s", url, "as machine code" if is_used() else "as plain Python")
    ready = os.environ.pop(READY_FD, None)
    if ready:
        with os.fdopen(int(ready), "w") as out:
            out.write(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
