"""A load from a process of its own: requests leave on time, whatever becomes of the earlier ones.

`python -m madang.testing.load` reads an order (JSON of `Order`), sends what it says and writes one
JSON line per answer. Bounded in number and time, and for gateways on loopback only.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import uvloop

REQUESTS_MAX = 200_000
OPEN_MAX = 4_000
"""Requests under way; no other leaves until one is back. Reaching this is told, not hidden."""
PATIENCE_S = 120.0
LEAVES_S = 0.3
NO_ANSWER = 0
LEFT = 499


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of load: so many requests per second, or so many callers who ask again at once."""

    name: str
    seconds: float
    per_s: float = 0.0
    callers: int = 0
    model: str = "bot"
    streamed: float = 0.0
    """Share of the requests that ask for a stream."""
    leaving: float = 0.0
    """Share of the clients that leave within `LEAVES_S`."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to send, and where."""

    url: str
    """Of the gateway, without a path."""
    key: str
    phases: list[Phase]
    seed: int
    max_tokens: int = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request."""

    phase: str
    began_s: float
    """Since the load began."""
    took_s: float
    status: int
    """`NO_ANSWER`: the connection ended without one. `LEFT`: we did not wait."""
    code: str = ""
    """Of a refusal, or of the error that ends a stream."""
    id: str = ""
    waited: bool = field(default=False)
    """True when it left late, because `OPEN_MAX` were under way."""


def start(order: Order, out: Path) -> subprocess.Popen[bytes]:
    """Begin a load; its answers come into a file."""
    argv = [sys.executable, "-m", "madang.testing.load"]
    with out.open("wb") as file:
        load = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=file)
    assert load.stdin is not None
    with load.stdin as told:
        told.write(json.dumps(asdict(order)).encode())
    return load


def answers_in(out: Path) -> list[Answer]:
    """Read what came back."""
    return [Answer(**json.loads(line)) for line in out.read_text().splitlines()]


class Load:
    """One order being carried out."""

    def __init__(self, order: Order, session: aiohttp.ClientSession) -> None:
        self._order = order
        self._session = session
        self._chance = random.Random(order.seed)  # noqa: S311 - to be repeated, not to be secret
        self._began_s = time.monotonic()
        self._room = asyncio.Semaphore(OPEN_MAX)

    async def run(self) -> None:
        """Go through the phases, then wait for the answers that are still out."""
        async with asyncio.TaskGroup() as group:
            for phase in self._order.phases:
                if phase.callers:
                    end_s = time.monotonic() + phase.seconds
                    calls = [self._call_again(phase, end_s) for _ in range(phase.callers)]
                    await asyncio.gather(*calls)
                else:
                    await self._send_on_time(phase, group)

    async def _call_again(self, phase: Phase, end_s: float) -> None:
        while time.monotonic() < end_s:
            await self._ask(phase, waited=False)

    async def _send_on_time(self, phase: Phase, group: asyncio.TaskGroup) -> None:
        """Send at random moments, on average so many per second."""
        end_s = time.monotonic() + phase.seconds
        due_s = time.monotonic()
        while due_s < end_s:
            due_s += self._chance.expovariate(phase.per_s)
            await asyncio.sleep(max(0.0, min(due_s, end_s) - time.monotonic()))
            if due_s < end_s:
                waited = self._room.locked()
                await self._room.acquire()
                task = group.create_task(self._ask(phase, waited))
                task.add_done_callback(lambda _: self._room.release())

    async def _ask(self, phase: Phase, waited: bool) -> None:
        """Send one request and write down what became of it."""
        chance, order = self._chance, self._order
        stream = chance.random() < phase.streamed
        leaves = chance.random() < phase.leaving
        patience_s = chance.uniform(0.0, LEAVES_S) if leaves else PATIENCE_S
        body = {"model": phase.model, "max_tokens": order.max_tokens, "stream": stream,
                "messages": [{"role": "user", "content": "hi"}]}  # fmt: skip
        began_s, status, code, number = time.monotonic(), NO_ANSWER, "", ""
        try:
            async with (
                asyncio.timeout(patience_s),
                self._session.post(f"{order.url}/v1/chat/completions", json=body) as answer,
            ):
                number = answer.headers.get("x-request-id", "")
                code = code_in(await answer.read())
                status = answer.status
        except TimeoutError:
            status = LEFT if leaves else NO_ANSWER
        except (aiohttp.ClientError, OSError) as error:
            code = type(error).__name__
        now_s = time.monotonic()
        said = Answer(phase.name, began_s - self._began_s, now_s - began_s, status, code, number,
                      waited)  # fmt: skip
        sys.stdout.write(json.dumps(asdict(said)) + "\n")


def code_in(data: bytes) -> str:
    """Return the code of a refusal or of the last event of a stream; nothing for an answer."""
    last = data.strip().rpartition(b"\n")[2].removeprefix(b"data: ")
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        return str(json.loads(last)["error"]["code"])
    return ""


async def carry_out(order: Order) -> None:
    """Send all of it."""
    headers = {"Authorization": f"Bearer {order.key}"}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        await Load(order, session).run()


def main() -> None:
    """Read the order, refuse one that is too large or for elsewhere, and carry it out."""
    given = json.load(sys.stdin)
    order = Order(**{**given, "phases": [Phase(**each) for each in given["phases"]]})
    wanted = sum(each.per_s * each.seconds for each in order.phases)
    if urlsplit(order.url).hostname != "127.0.0.1" or wanted > REQUESTS_MAX:
        sys.exit("only for loopback, and for so many requests")
    uvloop.run(carry_out(order))


if __name__ == "__main__":
    main()
