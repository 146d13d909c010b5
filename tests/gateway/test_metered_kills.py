"""Gateways that are killed while they stream: nothing on disk is lost, nothing counted twice."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest

from madang.gateway.journal import segments_in
from madang.gateway.segment import entry_of
from madang.traffic.account import Closed, Opened, Passed

LIVES = 4
STREAMS = 6


def on_disk(folder):
    """What has been written: the tokens of each request as they last passed, and who is closed."""
    passed, closed = {}, {}
    for path in segments_in(folder):
        for line in path.read_bytes().splitlines():
            entry = entry_of(line)
            if isinstance(entry, Opened):
                passed.setdefault(entry.usage.id, 0)
            elif isinstance(entry, Passed):
                passed.update(entry.tokens)
            elif isinstance(entry, Closed):
                closed[entry.usage.id] = entry.usage.output_tokens
    return passed, closed


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_kills_under_streams_lose_nothing_that_was_written_and_double_nothing(
    start_gateway, control, table, engines, eventually, seed
):
    chance = random.Random(seed)
    engine = await engines.start()

    async def trickle(request, body):
        response = await engine.open(request)
        for _ in range(body["max_tokens"]):
            await response.write(engine.event("w "))
            await asyncio.sleep(0.02)
        await response.write(b"data: [DONE]\n\n")
        return response

    engine.behave = trickle
    cut, whole = {}, {}
    for _ in range(LIVES):
        gateway = start_gateway(table(engine.target))
        lengths = [1000, *(chance.choice([1, 5, 1000]) for _ in range(STREAMS - 1))]
        asking = [asyncio.create_task(_ask(gateway, length)) for length in lengths]
        folder = gateway.home.gateway
        await eventually(lambda folder=folder: any(on_disk(folder)[0].values()))
        await asyncio.sleep(chance.uniform(0.0, 0.6))
        gateway.popen.kill()
        await gateway.ended()
        passed, closed = on_disk(gateway.home.gateway)
        whole |= closed
        cut |= {name: count for name, count in passed.items() if name not in closed}
        await asyncio.gather(*asking, return_exceptions=True)
    await control.start()
    last = start_gateway()
    await eventually(lambda: len(control.taken) >= len(whole.keys() | cut.keys()))
    told = {each["id"]: each for each in control.taken}
    assert len(told) == len(control.taken), "nothing is counted twice"
    assert told.keys() == whole.keys() | cut.keys(), "nothing that was written is lost"
    assert {name: told[name]["output_tokens"] for name in whole} == whole
    for name, count in cut.items():
        assert (told[name]["output_tokens"], told[name]["estimated"]) == (count, True)
    assert any(cut.values()), "some were cut in the middle"
    last.popen.terminate()
    assert await last.ended() == 0
    assert segments_in(last.home.gateway) == []


async def _ask(gateway, length):
    async with httpx.AsyncClient(headers=gateway.headers, timeout=30) as client:
        turns = [{"role": "user", "content": "hi"}]
        body = {"model": "bot", "messages": turns, "stream": True, "max_tokens": length}
        async with client.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as answer:
            return [line async for line in answer.aiter_lines()]
