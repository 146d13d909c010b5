"""A small engine, a small control and a gateway, all on loopback and in the test's own loop."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web

import madang
from madang.clocks import SystemClock
from madang.gateway.app import Gateway
from madang.gateway.engines import Engines
from madang.gateway.entrance import Entrance
from madang.gateway.house import Connected, Means
from madang.gateway.journal import waiting_in
from madang.settings import Home
from madang.threads import Lacks
from madang.traffic.desk import Desk
from madang.traffic.leases import Asked, Books, charge, lend
from madang.traffic.limits import Limits
from madang.traffic.table import Endpoint, Key, RouteTable, Target, Usage

KEY = "sk-test"
PROJECT = "seoul/minwon"
DEADLINE_S = 20.0

Behaviour = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail when it never does."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 (what is awaited may be in another process)
            await asyncio.sleep(0.01)


USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 2},
}


class Engine:
    """An engine whose behaviour a test may replace."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running = 0
        self.cancelled = 0
        self.words = ["one ", "two ", "three"]
        self.behave: Behaviour = self.answer
        self.port = 0

    @property
    def target(self) -> Target:
        """How a route table names it."""
        return Target(self.uid, 1, f"http://127.0.0.1:{self.port}", f"token-{self.uid}", 2)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.running += 1
        try:
            return await self.behave(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if request.path == "/v1/embeddings":
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            data = [
                {"object": "embedding", "index": i, "embedding": [0.5, 0.25]}
                for i in range(len(texts))
            ]
            return self.say({"object": "list", "data": data})
        if body.get("stream"):
            return await self.stream(request, body)
        if request.path == "/v1/completions":
            choice = {"index": 0, "text": "".join(self.words), "finish_reason": "stop"}
            return self.say({"id": "c", "object": "text_completion", "choices": [choice]})
        message = {"role": "assistant", "content": "".join(self.words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self.say({"id": "c", "object": "chat.completion", "choices": [choice]})

    def event(self, text: str) -> bytes:
        """One event of a chat stream."""
        delta = {"role": "assistant", "content": text}
        return self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def _event(self, choices: list[Any], **more: Any) -> bytes:
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": self.uid}
        body = {**head, "choices": choices, **more}
        return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"

    def say(self, body: dict[str, Any]) -> web.Response:
        return web.json_response({**body, "created": 1, "model": self.uid, "usage": USAGE})

    async def open(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        return response

    async def stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = await self.open(request)
        for word in self.words:
            await response.write(self.event(word))
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(self._event([], usage=USAGE))
        await response.write(b"data: [DONE]\n\n")
        return response


class Fleet:
    """Starts engines and stops them all."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []

    async def start(self, uid: str = "rep-a") -> Engine:
        engine = Engine(uid)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/{path:.*}", engine.handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        engine.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return engine

    async def stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()


@pytest.fixture
async def engines() -> AsyncIterator[Fleet]:
    """Start engines with `await engines.start(uid)`."""
    all_of_them = Fleet()
    yield all_of_them
    await all_of_them.stop()


def table(*targets: Target, version: int = 1, **fields: Any) -> RouteTable:
    """A table with one model, `bot`, and one key."""
    endpoint = Endpoint(PROJECT, "bot", "bot", targets, context_tokens=4096, **fields)
    keys = {sha256(KEY.encode()).hexdigest(): Key("app", PROJECT, "member", may_infer=True)}
    return RouteTable(version, (endpoint,), keys)


class Door:
    """A gateway that is being served, with a client and the records it wrote."""

    def __init__(self, desk: Desk, app: Gateway, records: list[Usage]) -> None:
        self.desk = desk
        self.app = app
        self.records = records
        self.url = ""
        self.client = httpx.AsyncClient()

    @property
    def connections(self) -> tuple[Connected, ...]:
        return self.app.connections

    def post(self, path: str = "/v1/chat/completions", **fields: Any) -> Any:
        return self.client.post(path, json=chat(**fields))

    def stream(self, **fields: Any) -> Any:
        return self.client.stream("POST", "/v1/chat/completions", json=chat(stream=True, **fields))

    async def record(self) -> Usage:
        """Wait for the one record."""
        await eventually(lambda: self.records)
        assert len(self.records) == 1
        return self.records[0]


def chat(**fields: Any) -> dict[str, Any]:
    """A small request."""
    return {"model": "bot", "messages": [{"role": "user", "content": "안녕"}], **fields}


@asynccontextmanager
async def _gateway(limits: Limits) -> AsyncIterator[Door]:
    desk, clock, records = Desk(limits), SystemClock(), []
    lacks = Lacks(lambda cause: desk.lack(cause, clock.monotonic()))
    engines = Engines(limits.connect_s, lacks)
    app = Gateway(Means(desk, engines, clock, records.append, lacks), "test")
    sweep = asyncio.create_task(app.sweep())
    try:
        yield Door(desk, app, records)
    finally:
        sweep.cancel()
        await engines.close()


@asynccontextmanager
async def _served(limits: Limits) -> AsyncIterator[Door]:
    async with _gateway(limits) as door:
        listener = socket.create_server(("127.0.0.1", 0))
        entrance = Entrance(door.app.connect, Lacks())
        entrance.listen(listener)
        door.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=door.url, headers=headers, timeout=30) as door.client:
            yield door
        entrance.close()
        await door.app.cut(0)


@pytest.fixture
def serve() -> Callable[..., Any]:
    """`async with serve(target, …, limits=Limits(…)) as door`: a gateway on a real socket."""

    @asynccontextmanager
    async def start(*targets: Target, limits: Limits | None = None) -> AsyncIterator[Door]:
        async with _served(limits or Limits()) as door:
            door.desk.take(table(*targets))
            door.desk.hear(SystemClock().monotonic())
            yield door

    return start


@pytest.fixture
async def app() -> AsyncIterator[Door]:
    """A gateway for small bodies that has no table, and a client without a key."""
    async with _served(Limits(body_bytes_max=1000)) as door:
        del door.client.headers["Authorization"]
        yield door


class Control:
    """A control that serves whatever table and takes whatever usage a test wants."""

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._runner: web.AppRunner | None = None
        self.table: RouteTable | None = None
        self.pulls: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self.usage_status = 200
        self.limits: dict[tuple[str, str], int] = {}
        """What is lent of, by owner and what it counts."""
        self.books: Books = {}

    async def start(self) -> None:
        self._sockets.mkdir(parents=True, exist_ok=True)
        app = web.Application()
        app.router.add_post("/internal/routes", self._routes)
        app.router.add_post("/internal/usage", self._usage)
        app.router.add_post("/internal/leases", self._lend)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        folder = os.open(self._sockets, os.O_PATH)
        try:
            path = f"/proc/self/fd/{folder}/control.sock"
            (self._sockets / "control.sock").unlink(missing_ok=True)
            await web.UnixSite(self._runner, path).start()
        finally:
            os.close(folder)

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner:
            await runner.cleanup()

    async def _routes(self, request: web.Request) -> web.Response:
        pull = await request.json()
        self.pulls.append(pull)
        end = time.monotonic() + min(pull["wait_s"], 0.3)
        while time.monotonic() < end:
            if self.table and self.table.version != pull["serving"]:
                return web.Response(body=msgspec.json.encode(self.table))
            await asyncio.sleep(0.01)
        return web.Response(status=204)

    async def _lend(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=Asked)
        limits = ((want, self.limits.get((want.owner, want.what), 0)) for want in asked.wants)
        lents = [lend(self.books, asked, want, limit) for want, limit in limits]
        return web.Response(body=msgspec.json.encode(lents))

    async def _usage(self, request: web.Request) -> web.Response:
        if self.usage_status == 200:
            records = msgspec.json.decode(await request.read(), type=list[Usage])
            known = {each["id"] for each in self.taken}
            charge(self.books, [each for each in records if each.id not in known])
            self.taken += [msgspec.to_builtins(each) for each in records]
        return web.Response(status=self.usage_status)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home so deep that no socket in it has a name of 107 bytes."""
    return Home(tmp_path / ("deep-" * 25) / "home")


@pytest.fixture
async def control(home: Home) -> AsyncIterator[Control]:
    """A control that is not yet started."""
    fake = Control(home.sockets)
    yield fake
    await fake.stop()


class Process:
    """A real gateway process."""

    def __init__(self, home: Home, process: subprocess.Popen[bytes], url: str) -> None:
        self.home = home
        self.popen = process
        self.url = url
        self.headers = {"Authorization": f"Bearer {KEY}"}

    @property
    def waiting(self) -> set[str]:
        """Ids of the accounts that are closed on its disk."""
        return waiting_in(self.home.gateway)

    @property
    def log(self) -> str:
        return (self.home.path / "gateway.log").read_text()

    async def ask(self, key: str = KEY, **fields: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:
            return await client.post(f"{self.url}/v1/chat/completions", json=chat(**fields))

    async def health(self) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(f"{self.url}/healthz")

    async def ended(self) -> int:
        await eventually(lambda: self.popen.poll() is not None)
        return self.popen.returncode


def start_process(home: Home, *more: str, port: int = 0) -> Process:
    """Start a gateway and wait until it says that it is ready."""
    home.path.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    env = {**os.environ, "PYTHONPATH": str(Path(madang.__file__).parents[1])}
    env["MADANG_READY_FD"] = str(writer)
    argv = [sys.executable, "-m", "madang.gateway", str(home.path), "--port", str(port), *more]
    with (home.path / "gateway.log").open("ab") as log:
        process = subprocess.Popen(argv, env=env, stderr=log, pass_fds=[writer])
    os.close(writer)
    with os.fdopen(reader) as ready:
        announced = json.loads(ready.readline())
    assert announced["pid"] == process.pid
    return Process(home, process, announced["url"])


@pytest.fixture
def start_gateway(home: Home) -> Iterator[Callable[..., Process]]:
    """Start a gateway process, as often as a test likes; whatever still runs is killed.

    A table that is given lies on its disk by then.
    """
    started: list[Process] = []

    def start(on_disk: RouteTable | None = None, *more: str, port: int = 0) -> Process:
        if on_disk:
            home.gateway.mkdir(parents=True, exist_ok=True)
            (home.gateway / "table.json").write_bytes(msgspec.json.encode(on_disk))
        started.append(start_process(home, *more, port=port))
        return started[-1]

    yield start
    for each in started:
        each.popen.kill()
        each.popen.wait()


@pytest.fixture(name="eventually")
def _eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until a condition holds; fail when it never does."""
    return eventually


@pytest.fixture(name="table")
def _table() -> Callable[..., RouteTable]:
    """Build a table with one model, `bot`, and one key."""
    return table
