"""The shipped fake engine behind the gateway: another server, another dialect, real threads."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from urllib.request import Request, urlopen

import pytest

from madang.engines.fake import Fake
from madang.ports import Assignment
from madang.traffic.table import Target


@pytest.fixture
def launch(tmp_path):
    """Start a fake engine with a script; return it as a target."""
    running = []

    def start(**script):
        path = tmp_path / "script.json"
        path.write_text(json.dumps(script))
        assignment = Assignment("rep-f", 1, "bot", path, 4096, 2, 0, 1.0, (), (), "tok")
        plan = Fake().launch(assignment)
        reader, writer = os.pipe()
        env = {**plan.env, "MADANG_READY_FD": str(writer)}
        running.append(subprocess.Popen(plan.argv, env=env, pass_fds=[writer]))
        os.close(writer)
        with os.fdopen(reader) as ready:
            return Target("rep-f", 1, json.loads(ready.readline())["url"], "tok", 2)

    yield start
    for each in running:
        each.kill()
        each.wait()


async def running_on(target):
    ask = Request(f"{target.url}/metrics", headers={"Authorization": "Bearer tok"})
    with await asyncio.to_thread(urlopen, ask) as answer:
        return Fake().metrics(answer.read().decode())["running"]


async def until_running(target, count):
    async with asyncio.timeout(20):
        while await running_on(target) != count:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.01)


async def test_it_answers_and_bills_like_any_engine(serve, launch, eventually):
    async with serve(launch(words="one two three")) as door:
        answer = (await door.post(max_tokens=3)).json()
        async with door.stream(max_tokens=3) as response:
            streamed = await response.aread()
        await eventually(lambda: len(door.records) == 2)
    assert answer["choices"][0]["message"]["content"].split() == ["one", "two", "three"]
    assert answer["model"] == "bot"
    assert streamed.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in streamed
    assert {(each.output_tokens, each.estimated) for each in door.records} == {(3, False)}


@pytest.mark.parametrize("stream", [False, True])
async def test_it_stops_working_once_nobody_listens(serve, launch, stream):
    target = launch(token_ms=20)
    async with serve(target) as door:
        asking = asyncio.create_task(door.post(stream=stream, max_tokens=100_000))
        await until_running(target, 1)
        asking.cancel()
        await until_running(target, 0)
        assert (await door.record()).status == 499


async def test_its_crash_in_mid_stream_is_told(serve, launch):
    async with serve(launch(fail={"crash_after_tokens": 2})) as door:
        async with door.stream(max_tokens=50) as response:
            lines = [line async for line in response.aiter_lines() if line]
        usage = await door.record()
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_lost"
    assert usage.estimated
