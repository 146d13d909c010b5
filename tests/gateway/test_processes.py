"""A gateway of four real processes: one port, and limits that hold once, also after a kill."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections import Counter

import httpx
import msgspec
import pytest

from madang.ending import heard
from madang.settings import gateway_uids
from madang.traffic.table import Allowance

from .conftest import KEY, PROJECT, chat, eventually

COUNT = 4
UIDS = gateway_uids(COUNT)
LIMIT = 40


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Four:
    """Four processes on one port."""

    def __init__(self, start, control, eventually):
        self._start, self._control, self._eventually = start, control, eventually
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.by_uid = {}
        self.client = httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None))

    def begin(self, uid):
        more = ("--uid", uid, "--processes", str(COUNT))
        self.by_uid[uid] = self._start(None, *more, port=self.port)

    async def all(self, table):
        await self._control.start()
        self._control.table = table
        for uid in UIDS:
            await asyncio.to_thread(self.begin, uid)
        await self.serve(table.version, UIDS)

    async def serve(self, version, uids):
        def serving():
            last = {each["gateway"]: each["serving"] for each in self._control.pulls}
            return all(last.get(uid) == version for uid in uids)

        await self._eventually(serving)

    async def ask(self, **fields):
        """Ask over a connection of its own, so that the kernel chooses who serves it."""
        headers = {"Authorization": f"Bearer {KEY}", "Connection": "close"}
        url = f"{self.url}/v1/chat/completions"
        return await self.client.post(url, json=chat(**fields), headers=headers)

    async def asked(self):
        """Return who answers, by some questions."""
        found = Counter()
        for _ in range(24 * COUNT):
            answer = await self.client.get(f"{self.url}/healthz", headers={"Connection": "close"})
            found[answer.json()["process"]] += 1
        return found

    def kill(self, uid):
        self.by_uid[uid].popen.send_signal(signal.SIGKILL)
        self.by_uid[uid].popen.wait()


@pytest.fixture
async def four(start_gateway, control, eventually):
    made = Four(start_gateway, control, eventually)
    async with made.client:
        yield made


def limited(table, allowance):
    return msgspec.structs.replace(table, limits={PROJECT: allowance})


async def test_all_serve_one_port_and_the_others_go_on_when_one_is_killed(
    four, table, engines, eventually
):
    engine = await engines.start()
    await four.all(table(engine.target))
    assert set(await four.asked()) == set(UIDS)
    assert (await four.ask()).status_code == 200
    four.kill("gateway-2")
    answers = await asyncio.gather(*[four.ask() for _ in range(12)])
    assert {each.status_code for each in answers} == {200}
    assert set(await four.asked()) == set(UIDS) - {"gateway-2"}
    await asyncio.to_thread(four.begin, "gateway-2")
    await four.serve(1, UIDS)
    assert set(await four.asked()) == set(UIDS)
    for each in four.by_uid.values():
        each.popen.send_signal(signal.SIGTERM)
    assert [await each.ended() for each in four.by_uid.values()] == [0] * COUNT
    assert "Traceback" not in four.by_uid["gateway"].log


@pytest.mark.parametrize("kill", [False, True], ids=["all-live", "one-killed"])
@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
async def test_rates_are_those_of_one_process(four, table, engines, limit, kill):
    engine = await engines.start()
    each = 10 if limit == "tokens_per_minute" else 1  # what an answer of the engine used
    await four.all(limited(table(engine.target), Allowance(**{limit: LIMIT * each})))
    codes = Counter()
    for turn in range(4):
        if kill and turn == 1:
            four.kill("gateway-3")
        answers = await asyncio.gather(*[four.ask(max_tokens=3) for _ in range(LIMIT // 2)])
        codes.update(answer.status_code for answer in answers)
    assert set(codes) == {200, 429}
    assert LIMIT * 0.9 <= codes[200] <= LIMIT * 1.05


@pytest.mark.parametrize("kill", [False, True], ids=["all-live", "one-killed"])
async def test_requests_at_once_are_those_of_one_process(four, table, engines, eventually, kill):
    engine, go = await engines.start(), asyncio.Event()

    async def wait(request, body):
        await go.wait()
        return await engine.answer(request, body)

    engine.behave = wait
    wide = msgspec.structs.replace(engine.target, slots=64)
    most = 8
    await four.all(limited(table(wide), Allowance(concurrent=most)))
    asking = [asyncio.create_task(four.ask()) for _ in range(4 * most)]
    await eventually(lambda: engine.running == most)
    await eventually(lambda: sum(each.done() for each in asking) == 3 * most)
    if kill:
        four.kill("gateway-4")
        lost = sum(isinstance(e, httpx.TransportError) for e in await _ended(asking, go, engine))
        go.clear()
        asking = [asyncio.create_task(four.ask()) for _ in range(4 * most)]
        await eventually(lambda: engine.running == most)
        assert lost <= most
    go.set()
    codes = Counter(each.status_code for each in await asyncio.gather(*asking))
    assert codes == {200: most, 429: 3 * most}


async def _ended(asking, go, engine):
    """Let all end that can, and wait until nothing of them is left at the engine."""
    go.set()
    ended = await asyncio.gather(*asking, return_exceptions=True)
    await eventually(lambda: not engine.running)
    await asyncio.sleep(0.6)  # that a death is seen by the others
    return ended


async def test_a_replica_is_sent_no_more_than_by_one_process_and_all_are_served(
    four, table, engines, eventually
):
    engine = await engines.start()
    most = 0

    async def work(request, body):
        nonlocal most
        most = max(most, engine.running)
        await asyncio.sleep(0.02)
        return await engine.answer(request, body)

    engine.behave = work
    await four.all(table(engine.target))
    answers = await asyncio.gather(*[four.ask() for _ in range(16)])
    assert {each.status_code for each in answers} == {200}
    assert most <= 2 * engine.target.slots


async def test_it_does_not_share_its_port_with_a_stranger(home, control):
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as stranger:
        port = str(stranger.getsockname()[1])
        argv = [sys.executable, "-m", "madang.gateway", str(home.path), "--port", port]
        argv += ["--processes", "4"]
        done = await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, timeout=50, check=False
        )
    (error,) = heard(done.stderr)
    assert (done.returncode, error.code) == (75, "gateway.port")


@pytest.mark.parametrize("count", ["0", "17", "four"])
async def test_a_number_of_processes_that_cannot_be_is_named(home, count):
    argv = [sys.executable, "-m", "madang.gateway", str(home.path), "--processes", count]
    done = await asyncio.to_thread(
        subprocess.run, argv, capture_output=True, text=True, timeout=50, check=False
    )
    (error,) = heard(done.stderr)
    assert error.code == "setting.processes"


async def test_each_has_a_table_of_its_own_on_disk(four, table, engines, home):
    engine = await engines.start()
    await four.all(table(engine.target, version=3))
    assert [json.loads(path.read_bytes())["version"] for path in home.tables] == [3] * COUNT
