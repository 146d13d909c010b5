"""A flood on a virtual clock: a small project waits no longer before several processes than one."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from itertools import count
from statistics import mean

import pytest

from madang.traffic.desk import Desk
from madang.traffic.limits import Limits
from madang.traffic.refusal import Refusal
from madang.traffic.table import Endpoint, RouteTable, Target

from .test_abreast import FLOOD, VICTIM, desks

SLOTS, PREFILL_S, REST_S = 4, 0.04, 0.01
FLOODERS, EVERY_S, SECONDS = 36, 0.1, 8.0
AGAIN_S = 0.05
ANSWER = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "w",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"},
                 "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
}).encode()  # fmt: skip
BODY = json.dumps({
    "model": "seoul/minwon/bot", "max_tokens": 20,
    "messages": [{"role": "user", "content": "What does the yard hold? " * 50}],
}).encode()  # fmt: skip
WIDE = Target("w", 1, "http://w", "t", slots=SLOTS)


class Play:
    """Requests that come to any of some desks, and one engine with a line of its own."""

    def __init__(self, processes: int) -> None:
        self.chance, self.numbers = random.Random(7), count()
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.now, self.free, self.line = 0.0, SLOTS, []
        self.firsts: list[float] = []
        self.refused = 0
        self.desks = desks(processes, WIDE) if processes > 1 else [self.alone()]

    def alone(self) -> Desk:
        seen_by = frozenset({"seoul"})
        endpoint = Endpoint("seoul/minwon", "bot", "bot", (WIDE,), 9999, visible_to=seen_by)
        desk = Desk(Limits())
        desk.take(RouteTable(1, (endpoint,), {"f": FLOOD, "v": VICTIM}))
        return desk

    def at(self, now, deed):
        heapq.heappush(self.events, (now, next(self.numbers), deed))

    def come(self, key, now):
        desk = self.chance.choice(self.desks)
        desk.enter("POST", "/v1/chat/completions", (), ("127.0.0.1", 1))
        exchange = desk.admit(f"r{next(self.numbers)}", key, "chat", BODY, now)

        def told(choice):
            self.at(self.now, lambda then: self.go(desk, exchange, choice, now, then))

        choice = desk.start(exchange, told, now)
        if choice is not None:
            self.go(desk, exchange, choice, now, now)

    def go(self, desk, exchange, choice, began, now):
        if not isinstance(choice, Refusal):
            exchange.upstream(choice)
            self.line.append((desk, exchange, began))
            self.work(now)
            return
        desk.settle(exchange, 503, now, now)
        desk.leave()
        if exchange.key is FLOOD:
            self.at(now + AGAIN_S, lambda then: self.come(FLOOD, then))
        else:
            self.refused += 1

    def work(self, now):
        while self.free and self.line:
            self.free -= 1
            desk, exchange, began = self.line.pop(0)
            first = now + PREFILL_S * self.chance.uniform(0.6, 1.4)
            if exchange.key is VICTIM:
                self.firsts.append(first - began)
            self.at(first + REST_S, lambda then, d=desk, e=exchange: self.end(d, e, then))

    def end(self, desk, exchange, now):
        self.free += 1
        exchange.answers(200, "application/json", now)
        exchange.collect(ANSWER, now)
        exchange.answer(now)
        desk.free(exchange, now)
        desk.settle(exchange, 200, now, now)
        desk.leave()
        self.work(now)
        if exchange.key is FLOOD:
            self.at(now + 0.001, lambda then: self.come(FLOOD, then))

    def look(self, desk, now):
        soon = desk.tend(now) if len(self.desks) > 1 else desk.serve(now)
        self.at(now + (0.005 if soon else 0.02), lambda then: self.look(desk, then))

    def play(self):
        for desk in self.desks:
            self.at(self.chance.random() * 0.02, lambda then, d=desk: self.look(d, then))
        for _ in range(FLOODERS):
            self.at(self.chance.random() * 0.1, lambda then: self.come(FLOOD, then))
        for number in range(int((SECONDS - 2) / EVERY_S)):
            come_at = 1 + number * EVERY_S + self.chance.random() * 0.05
            self.at(come_at, lambda then: self.come(VICTIM, then))
        while self.events[0][0] < SECONDS:
            self.now, _, deed = heapq.heappop(self.events)
            deed(self.now)
        return self


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_a_small_project_waits_no_longer_than_before_one_process(processes):
    one, several = Play(1).play(), Play(processes).play()
    assert (one.refused, several.refused) == (0, 0)
    assert len(several.firsts) > 50
    assert mean(several.firsts) <= 1.2 * mean(one.firsts)
