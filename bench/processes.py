"""Several gateway processes beside one: what limits let in, whom a flood holds up, what it costs.

Real processes on one port, on loopback; the engine stands in this process and works on so many
requests at once as it has slots, in the order in which they come. `--quick` is one short round.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from math import inf
from pathlib import Path
from statistics import mean, median

import msgspec

import doors
from doors import Door, compiled, free_port, pinned
from gateway import Bench
from madang.settings import Home, gateway_uids
from madang.traffic.table import Allowance, Endpoint, Key, RouteTable, Target
from rows import Row, write

COUNT = 4
PLACE = "lab/bench"
KEYS = {"flood": "sk-flood", "victim": "sk-victim"}
LIMIT = 600
"""Requests that each limit leaves room for."""
AT_ONCE = 48
"""Connections that ask for more than that."""
ASKED = 3
"""Times the limit."""
PROMPT, OUTPUT = 300, 20
"""What the engine says that each request has used."""
SLOTS = 4
PREFILL_S, REST_S = 0.04, 0.01
FLOOD = 36
"""Connections of one project that ask again and again: as many as may be under way and wait."""
VICTIM_EVERY_S = 0.1
BUSY_S = 0.05


class Engine:
    """Works on `slots` requests at once, and notes the most that were there."""

    def __init__(self, slots: int, prefill_s: float) -> None:
        self.slots, self._prefill_s = slots, prefill_s
        self._free = asyncio.Semaphore(slots)
        self.here = self.most = self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests of one connection with short streams."""
        with suppress(OSError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(size)
                self.here += 1
                self.most = max(self.most, self.here)
                answer = asyncio.create_task(self._answer(writer))
                gone = asyncio.create_task(reader.read(1))
                try:
                    await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self.here -= 1
                    is_over = answer.done()
                    for each in (answer, gone):
                        each.cancel()
                    await asyncio.gather(answer, gone, return_exceptions=True)
                if not is_over:
                    break
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        async with self._free:
            await self._work(writer)

    async def _work(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._prefill_s)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            + _chunk([{"index": 0, "delta": {"content": "word"}, "finish_reason": None}])
        )
        await writer.drain()
        await asyncio.sleep(REST_S if self._prefill_s else 0)
        used = {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT}
        writer.write(_chunk([], usage={**used, "total_tokens": PROMPT + OUTPUT}))
        done = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))
        await writer.drain()


def _chunk(choices: list[object], **more: object) -> bytes:
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mock"}
    data = b"data: " + json.dumps({**body, "choices": choices, **more}).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def engine(slots: int, prefill_s: float) -> AsyncIterator[Engine]:
    """Run an engine."""
    made = Engine(slots, prefill_s)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1 << 20)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


def table(port: int, slots: int, limits: Allowance | None = None) -> RouteTable:
    """One model, and a key for each of two projects; the flood's may have limits."""
    target = Target("mock", 1, f"http://127.0.0.1:{port}", "t", slots=slots)
    seen_by = frozenset({"lab"})
    endpoint = Endpoint(PLACE, "mock", "mock", (target,), 8192, visible_to=seen_by)
    keys = {
        sha256(secret.encode()).hexdigest(): Key(
            name, f"lab/{name}", "member", uid=name, may_infer=True
        )
        for name, secret in KEYS.items()
    }
    return RouteTable(1, (endpoint,), keys, limits={"lab/flood": limits} if limits else {})


class Gateway:
    """So many processes on one port."""

    def __init__(self, folder: Path, given: RouteTable, count: int) -> None:
        self.home, self.count, self.port = Home(folder), count, free_port()
        self.by_uid: dict[str, subprocess.Popen[bytes]] = {}
        self.home.gateway.mkdir(parents=True)
        for uid in gateway_uids(count):
            self.home.table_of(uid).write_bytes(msgspec.json.encode(given))
            self.start(uid)

    def start(self, uid: str) -> None:
        """Start one of them, and wait until it listens."""
        reader, writer = os.pipe()
        argv = [sys.executable, "-m", "madang.gateway", str(self.home.path), "--uid", uid]
        argv += ["--port", str(self.port), "--processes", str(self.count)]
        env = {**os.environ, "MADANG_READY_FD": str(writer)}
        with (self.home.path / f"{uid}.log").open("ab") as log:
            process = subprocess.Popen(argv, env=env, stderr=log, pass_fds=[writer], **pinned(0))
        os.close(writer)
        with os.fdopen(reader) as ready:
            json.loads(ready.readline())
        self.by_uid[uid] = process

    def kill(self, uid: str) -> None:
        """Kill one of them."""
        self.by_uid[uid].send_signal(signal.SIGKILL)
        self.by_uid[uid].wait()


@contextmanager
def gateway(given: RouteTable, count: int) -> Iterator[Gateway]:
    """Run a gateway of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        made = Gateway(Path(folder) / "home", given, count)
        try:
            yield made
        finally:
            for uid in made.by_uid:
                made.kill(uid)


async def ask(port: int, key: str) -> tuple[int, float]:
    """Ask over a connection of its own; the status (0: it broke off), and when the first came."""
    body = {"model": f"{PLACE}/mock", "stream": True, "max_tokens": OUTPUT}
    body["messages"] = [{"role": "user", "content": "What does the yard hold today? " * 40}]
    data = json.dumps(body).encode()
    head = f"POST {doors.PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {KEYS[key]}\r\nContent-Type: application/json\r\n"
    began = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
        if status == 200:
            await reader.readuntil(b"data: ")
        first_s = time.perf_counter() - began
        ended = (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()
    except (OSError, asyncio.IncompleteReadError):
        return 0, 0.0
    return (status if status != 200 or ended else 0), first_s


async def let_in(limit: str, killed: bool) -> tuple[float, int]:
    """Ask for three times a limit; return by what part more was let in than may be, and errors."""
    most = {"concurrent": 24, "tokens_per_minute": LIMIT * (PROMPT + OUTPUT)}.get(limit, LIMIT)
    asked, held = LIMIT * ASKED, limit == "concurrent"
    async with engine(1024, 0.2 if held else 0.0) as made:
        given = table(made.port, made.slots, Allowance(**{limit: most}))
        with gateway(given, COUNT) as door:
            found, in_midst = {0: 0, 200: 0, 429: 0}, asyncio.Event()

            async def call() -> None:
                nonlocal asked
                while asked > 0:
                    asked -= 1
                    if asked < LIMIT * (ASKED - 0.5):
                        in_midst.set()
                    status, _ = await ask(door.port, "flood")
                    found[status] = found.get(status, 0) + 1
                    if held and status == 429:
                        await asyncio.sleep(BUSY_S)

            calls = [asyncio.create_task(call()) for _ in range(AT_ONCE)]
            if killed:
                await in_midst.wait()
                await asyncio.to_thread(door.kill, "gateway-2")
            await asyncio.gather(*calls)
    in_all = made.most if held else found[200]
    used = in_all * (PROMPT + OUTPUT if limit == "tokens_per_minute" else 1)
    return used / most - 1, sum(
        count for status, count in found.items() if status not in {200, 429}
    )


async def victims(count: int, seconds: float, killed: bool = False) -> tuple[list[float], int]:
    """Return when the first tokens of a small project came while another floods, and its errors."""
    async with engine(SLOTS, PREFILL_S) as made:
        with gateway(table(made.port, SLOTS), count) as door:
            end, firsts, errors = time.monotonic() + seconds, list[float](), 0

            async def flood() -> None:
                while time.monotonic() < end:
                    if (await ask(door.port, "flood"))[0] != 200:
                        await asyncio.sleep(BUSY_S)

            async def one() -> None:
                nonlocal errors
                status, first_s = await ask(door.port, "victim")
                firsts.extend([first_s] if status == 200 else [])
                errors += status != 200

            tasks = [asyncio.create_task(flood()) for _ in range(FLOOD)]
            await asyncio.sleep(1)
            dies_at = (time.monotonic() + end) / 2 if killed else inf
            while time.monotonic() < end:
                tasks.append(asyncio.create_task(one()))
                await asyncio.sleep(VICTIM_EVERY_S)
                if time.monotonic() >= dies_at:
                    dies_at = inf
                    await asyncio.to_thread(door.kill, "gateway-3")
                    tasks.append(asyncio.create_task(asyncio.to_thread(door.start, "gateway-3")))
            await asyncio.gather(*tasks)
    return firsts, errors


class Several(Door):
    """All processes as one door, whose CPU is that of all."""

    pids: tuple[int, ...] = ()

    def cpu_s(self) -> float:
        """Seconds of CPU of all of them."""
        return sum(Door("", 0, pid).cpu_s() for pid in self.pids)


def costs(seconds: float, rounds: int) -> list[Row]:
    """Return CPU per request by one and by several, all limits on, interleaved."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(compiled(folder, "load"), folder)
        with doors.engine(compiled(folder, "mock")) as port:
            given = doors.table(port)
            with gateway(given, 1) as one, gateway(given, COUNT) as four:
                made = []
                for each in (one, four):
                    pids = tuple(process.pid for process in each.by_uid.values())
                    door = Several(f"{each.count}", each.port, pids[0])
                    door.pids = pids
                    made.append(door)
                for _ in range(rounds):
                    for door in made:
                        bench.warm(door, seconds)
                        for many in (16, 64):
                            said = doors.request(door.port)
                            bench.requests(door, f"c={many}", said, many, seconds)
    found = []
    for many in (16, 64):
        alone, several = (door.typical(f"c={many} us") for door in made)
        name = f"processes: a request, {many} at once, by {COUNT}"
        found.append(
            Row(name, several, "us CPU", None, None, "one", alone, round(several / alone, 3))
        )
    errors = sum(sum(door.seen["errors"]) for door in made)
    return [*found, Row("processes: errors", errors, "", 0.0)]


async def shared(seconds: float, rounds: int) -> list[Row]:
    """Return what limits let in, and whom a flood holds up."""
    found = []
    for limit in ("requests_per_minute", "tokens_per_minute", "concurrent"):
        for killed in (False, True):
            over, broken = await let_in(limit, killed)
            name = f"processes: {limit} overrun, {COUNT}" + (", one killed" if killed else "")
            found.append(Row(name, round(over, 4), "", 0.05, 0.0))
            if not killed:
                found.append(Row(f"processes: {limit}, other answers", broken, "", 0.0))
    alone, several, dying = list[float](), list[float](), list[float]()
    errors = 0
    for _ in range(rounds):
        for seen, count, killed in (
            (alone, 1, False),
            (several, COUNT, False),
            (dying, COUNT, True),
        ):
            firsts, wrong = await victims(count, seconds, killed)
            seen.extend(firsts)
            errors += wrong if not killed else 0
    for name, firsts in (("", several), (", one killed", dying)):
        for of, what in ((mean, "mean"), (median, "median")):
            here, before = of(firsts) * 1000, of(alone) * 1000
            found.append(
                Row(f"processes: a victim's first token, {what}, {COUNT}{name}", round(here, 1),
                    "ms", round(before * 1.5, 1), None, "one", round(before, 1),
                    round(here / before, 3))
            )  # fmt: skip
    found.append(Row("processes: victims refused", errors, "", 0.0))
    return found


def main() -> None:
    """Run all, or `--quick`: one short round."""
    quick = "--quick" in sys.argv
    seconds, rounds = (6.0, 1) if quick else (20.0, 3)
    rows = asyncio.run(shared(seconds, rounds))
    write("processes", rows + costs(2.0 if quick else 4.0, rounds))


if __name__ == "__main__":
    main()
