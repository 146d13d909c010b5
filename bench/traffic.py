"""What deciding costs: one request through `traffic` alone, without a socket; CPU time only.

Beside it, in turns, runs a fixed loop of ordinary Python. Their ratio can be judged on a machine
that others use too, where microseconds can't. `--profile` shows where the time goes instead.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import sys
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import TypeVar

from doors import PATH, request, table
from madang.traffic.desk import Desk
from madang.traffic.doors import Head
from madang.traffic.exchange import Exchange
from madang.traffic.front import Front
from madang.traffic.limits import Limits
from madang.traffic.table import Key, Target
from rows import Row, write

PORT = 8000
TURNS = 1500
AT_ONCE = 20
"""Requests, or pieces, or rounds of the loop, in one turn."""
LOOP_ROUNDS = 100
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,'
    b'"model":"mock","choices":[{"index":0,"delta":{"content":" word"},'
    b'"logprobs":null,"finish_reason":null}]}\n\n'
)
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"mock",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"'
    + b"word "
    * 30
    + b'"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":900,"completion_tokens":30,"total_tokens":930}}'
)
T = TypeVar("T")


def ours(found: object, kind: type[T]) -> T:
    """Return what was to come of a step."""
    assert isinstance(found, kind), found
    return found


class Path:
    """One request after the other, from its head to its account, as the gateway has it done."""

    def __init__(self) -> None:
        self.desk = Desk(Limits(), Front(), 7)
        self.desk.take(table(PORT))
        self.desk.hear(0.0)
        head, _, self.body = request(PORT).partition(b"\r\n\r\n")
        self.streamed = request(PORT, stream=True).partition(b"\r\n\r\n")[2]
        pairs = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
        kept = {b"host", b"authorization", b"content-length"}
        self.headers = [(n.lower(), value) for n, value in pairs if n.lower() in kept]
        self.now, self.number = 1000.0, 0
        self.at = 1_790_000_000.0

    def ask(self, body: bytes) -> tuple[Exchange, Target]:
        """Go as far as what is sent to an engine."""
        desk, now = self.desk, self.now
        self.now += 0.001
        self.number += 1
        server = ("127.0.0.1", PORT)
        head = ours(desk.enter("POST", PATH, self.headers, server), Head)
        key = ours(desk.identify(head, self.at + now, now), Key)
        assert desk.carry(len(body)) is None
        kind = head.door
        assert kind == "chat"
        exchange = ours(desk.admit(f"req-1-{self.number:x}", key, kind, body, now), Exchange)
        target = ours(desk.start(exchange, print, now), Target)
        exchange.upstream(target)
        return exchange, target

    def serve(self) -> None:
        """Have one request answered as a whole."""
        exchange, _ = self.ask(self.body)
        now = self.now
        assert exchange.answers(200, "application/json", now) is None
        assert exchange.collect(ANSWER, now) is None
        ours(exchange.answer(now), bytes)
        self.desk.free(exchange, now)
        assert self.desk.settle(exchange, 200, now, self.at + now)
        self.desk.leave(len(self.body))

    def stream(self, pieces: int) -> Callable[[], None]:
        """Begin a stream; what is returned passes so many of its pieces on."""
        exchange, _ = self.ask(self.streamed)
        assert exchange.answers(200, "text/event-stream", self.now) is None

        def passed() -> None:
            for _ in range(pieces):
                self.now += 0.001
                ours(exchange.feed(EVENT, self.now), bytes)
                exchange.engine_turn(self.now)

        return passed


class _Thing:
    __slots__ = ("count", "rows")

    def __init__(self) -> None:
        self.count = 0
        self.rows: dict[str, int] = {}

    def add(self, name: str, size: int) -> int:
        self.count += size
        self.rows[name] = self.rows.get(name, 0) + size
        return self.count


def loop() -> None:
    """Do what never changes: calls, objects, dicts, strings and a digest."""
    thing = _Thing()
    for index in range(LOOP_ROUNDS):
        name = f"name-{index & 7}"
        thing.add(name, index)
        if index % 10 == 0:
            sha256(name.encode()).hexdigest()


def measured(works: Iterable[Callable[[], None]]) -> list[float]:
    """Return the CPU seconds of each, the least of many turns: whoever disturbs only adds."""
    each_of = tuple(works)
    least = [float("inf")] * len(each_of)
    for _ in range(TURNS):
        for index, work in enumerate(each_of):
            began = time.thread_time()
            work()
            least[index] = min(least[index], time.thread_time() - began)
    return least


def rows() -> list[Row]:
    """Measure all, in turns."""
    path = Path()

    def requests() -> None:
        for _ in range(AT_ONCE):
            path.serve()

    def loops() -> None:
        for _ in range(AT_ONCE):
            loop()

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    figures = measured((requests, path.stream(AT_ONCE), loops))
    request_us, piece_us, loop_us = (seconds * 1e6 / AT_ONCE for seconds in figures)
    us = "us CPU"
    return [
        Row("traffic: a request", round(request_us, 2), us),
        Row("traffic: a piece of a stream", round(piece_us, 3), us),
        Row("traffic: a round of the fixed loop", round(loop_us, 2), us),
        Row("traffic: a request, to the loop", round(request_us / loop_us, 3), ""),
        Row("traffic: a piece of a stream, to the loop", round(piece_us / loop_us, 4), ""),
    ]


def main() -> None:
    """Run it, or look into it."""
    if "--profile" not in sys.argv:
        write("traffic", rows())
        return
    path = Path()
    with cProfile.Profile() as profile:
        for _ in range(20_000):
            path.serve()
    pstats.Stats(profile).sort_stats("tottime").print_stats(60)


if __name__ == "__main__":
    main()
