"""More than the replicas can take, through real sockets: who waits, who is refused, who is cut."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest

from madang import bounds
from madang.clocks import SystemClock
from madang.traffic.limits import Limits
from madang.traffic.table import Endpoint

KEY = "sk-test"
NARROW = Limits(slot_requests_max=1, held_per_slot=2, client_s=600, first_byte_s=600)
"""With the two slots of the tests' engines: two under way, four in line."""


class Gate:
    """Lets an engine answer only once it is open, and counts who was there at once."""

    def __init__(self, engine):
        self._engine, self._answer = engine, engine.behave
        self._open = asyncio.Event()
        self.most = 0
        engine.behave = self._behave

    async def _behave(self, request, body):
        self.most = max(self.most, self._engine.running)
        await self._open.wait()
        return await self._answer(request, body)

    def open(self):
        self._open.set()


@pytest.fixture
async def gated(engines):
    """An engine, and the gate before its answers."""
    engine = await engines.start()
    return engine, Gate(engine)


def waiting(door):
    return json.loads(door.desk.health(0))["waiting"]


def inflight(door):
    return door.desk.pull("gw", 0, SystemClock().monotonic()).inflight


@asynccontextmanager
async def asking(door, count, eventually, **fields):
    """That many requests are in the gateway; what is left of them in the end is cancelled."""
    before = door.desk.open
    tasks = [asyncio.create_task(door.post(**fields)) for _ in range(count)]
    await eventually(lambda: door.desk.open == before + count)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_all_that_fit_the_line_are_answered_and_the_engine_never_gets_too_many(
    serve, gated, eventually
):
    engine, gate = gated
    async with serve(engine.target, limits=NARROW) as door:
        async with asking(door, 6, eventually) as tasks:
            await eventually(lambda: (engine.running, waiting(door)) == (2, 4))
            gate.open()
            assert [(await task).status_code for task in tasks] == [200] * 6
        await eventually(lambda: len(door.records) == 6)
        assert (inflight(door), waiting(door)) == ({}, 0)
    assert gate.most == 2


SAID = {
    "en": "The model 'bot' has as many requests as it can keep waiting.",
    "ko": "'bot' 모델은 기다리게 할 수 있는 요청이 가득 찼습니다.",
}


@pytest.mark.parametrize("lang", SAID)
async def test_a_full_line_says_no_at_once_in_the_callers_language(serve, gated, eventually, lang):
    engine, _ = gated
    async with serve(engine.target, limits=NARROW) as door, asking(door, 6, eventually):
        await eventually(lambda: waiting(door) == 4)
        door.client.headers["Accept-Language"] = lang
        refused = [await door.post(stream=streamed) for streamed in (False, True)]
    for answer in refused:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "model_busy"
        assert answer.json()["error"]["message"].startswith(SAID[lang])
    assert len(engine.requests) == 2


async def test_who_waits_too_long_is_refused_and_no_engine_has_seen_it(serve, gated, eventually):
    engine, _ = gated
    limits = msgspec.structs.replace(NARROW, held_s=0.3)
    async with serve(engine.target, limits=limits) as door, asking(door, 2, eventually):
        await eventually(lambda: engine.running == 2)
        late = await door.post(stream=True)
        assert (waiting(door), len(engine.requests)) == (0, 2)
        assert door.records == []
    assert (late.status_code, late.headers["retry-after"]) == (503, "1")
    assert late.json()["error"]["code"] == "waited_too_long"


@pytest.mark.parametrize("streamed", [False, True])
async def test_who_leaves_while_it_waits_frees_its_place(serve, gated, eventually, streamed):
    engine, gate = gated
    async with serve(engine.target, limits=NARROW) as door, asking(door, 2, eventually) as busy:
        await eventually(lambda: engine.running == 2)
        async with asking(door, 4, eventually, stream=streamed):
            await eventually(lambda: waiting(door) == 4)
        await eventually(lambda: (waiting(door), door.desk.open) == (0, 2))
        gate.open()
        assert [(await task).status_code for task in busy] == [200, 200]
    assert len(engine.requests) == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_engines_stop_for_all_who_leave_and_each_slot_is_freed_once(
    serve, gated, eventually, streamed
):
    engine, gate = gated
    async with serve(engine.target, limits=NARROW) as door:
        for _ in range(3):
            async with asking(door, 6, eventually, stream=streamed):
                await eventually(lambda: engine.running == 2)
            await eventually(lambda: not engine.running and not door.desk.open)
            assert (inflight(door), waiting(door)) == ({}, 0)
        gate.open()
        answers = await asyncio.gather(*(door.post(stream=streamed) for _ in range(6)))
        assert [answer.status_code for answer in answers] == [200] * 6
        await eventually(lambda: sum(usage.status == 200 for usage in door.records) == 6)
    assert gate.most == 2


@pytest.mark.parametrize("news", ["endpoint", "key", "replica"])
async def test_a_new_table_reaches_those_who_wait(serve, gated, engines, table, eventually, news):
    engine, _ = gated
    other = await engines.start("rep-b")
    async with (
        serve(engine.target, limits=NARROW) as door,
        asking(door, 2, eventually),
    ):
        await eventually(lambda: engine.running == 2)
        async with asking(door, 1, eventually) as [waits]:
            await eventually(lambda: waiting(door) == 1)
            known = table(engine.target, other.target, version=2)
            if news == "endpoint":
                cat = Endpoint("seoul/minwon", "cat", "cat", (other.target,), 4096)
                known = msgspec.structs.replace(known, endpoints=(cat,))
            if news == "key":
                known = msgspec.structs.replace(known, keys={})
            door.desk.take(known)
            answer = await waits
    wanted = {"endpoint": "model_not_found", "key": "key_revoked", "replica": None}[news]
    assert answer.json().get("error", {}).get("code") == wanted
    assert len(other.requests) == (news == "replica")


async def test_a_hung_and_a_babbling_replica_leave_all_work_to_the_good_one(
    serve, engines, eventually
):
    hung, babbling, good = [await engines.start(f"rep-{n}") for n in ("hung", "babbling", "good")]
    Gate(hung)

    async def babble(request, body):
        response = await babbling.open(request)
        await response.write(b"<html>\n\n")
        return response

    babbling.behave = babble
    limits = Limits(suspect_s=0.2, slot_requests_max=1)
    targets = (hung.target, babbling.target, good.target)
    async with serve(*targets, limits=limits) as door:
        stuck = []
        while not hung.requests:
            stuck.append(asyncio.create_task(door.post()))
            await asyncio.sleep(0.02)
        uid = hung.target.uid
        await eventually(lambda: door.desk.pull("g", 0, SystemClock().monotonic())
                         .silent.get(uid, 0.0) > 0.2)  # fmt: skip
        seen = len(hung.requests)
        answers = await asyncio.gather(*(door.post() for _ in range(15)))
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
    assert [answer.status_code for answer in answers] == [200] * 15
    assert len(hung.requests) == seen


async def flood(engine, request):
    """Say more than any buffer holds, then that this was all."""
    response = await engine.open(request)
    for _ in range(400):
        await response.write(engine.event("x" * 65536))
    await response.write(b"data: [DONE]\n\n")
    return response


async def test_a_reader_that_drips_is_cut_and_billed_for_what_it_was_sent(
    serve, engines, eventually
):
    engine = await engines.start()
    engine.behave = lambda request, body: flood(engine, request)
    async with serve(engine.target, limits=Limits(client_s=0.5)) as door:
        reader, writer = await connected(door, size=4096)
        writer.write(posted(door, stream=True))
        while not door.records:
            await reader.read(16)
            await asyncio.sleep(0.01)
        usage = await door.record()
        assert b"[DONE]" not in await reader.read(-1), "the connection has ended"
        writer.close()
    assert usage.status == 499
    assert usage.estimated
    assert 1 <= usage.output_tokens < 400


async def test_a_reader_that_takes_no_answer_does_not_hold_the_replica(serve, engines, eventually):
    engine = await engines.start()
    answer = engine.behave
    engine.words = ["x" * (16 << 20)]
    limits = msgspec.structs.replace(NARROW, answer_bytes_max=64 << 20)
    target = msgspec.structs.replace(engine.target, slots=1)
    async with serve(target, limits=limits) as door:
        _, writer = await connected(door, size=4096)
        writer.write(posted(door))
        await eventually(lambda: engine.requests and not inflight(door))
        assert door.desk.open == 1, "the first has not been read"
        engine.words, engine.behave = ["hello"], answer
        assert (await door.post()).status_code == 200
        writer.transport.abort()
        await eventually(lambda: not door.desk.open)


async def test_a_reader_that_takes_no_whole_answer_is_cut(serve, engines, eventually):
    engine = await engines.start()
    engine.words = ["x" * (16 << 20)]
    async with serve(engine.target, limits=Limits(client_s=0.5)) as door:
        reader, writer = await connected(door, size=4096)
        writer.write(posted(door))
        usage = await door.record()
        await eventually(lambda: not door.connections)
        assert len(await reader.read(-1)) < 16 << 20, "the connection has ended"
        writer.close()
    assert (usage.status, usage.output_tokens) == (499, 3), "the engine's count: all was made"


async def test_what_nobody_reads_is_dropped_by_the_kernel(serve, engines, monkeypatch):
    monkeypatch.setattr(bounds, "UNREAD_S_MAX", 0.5)
    engine = await engines.start()
    engine.words = ["x" * (16 << 20)]
    async with serve(engine.target, limits=Limits(client_s=600)) as door:
        _, writer = await connected(door, size=4096)
        writer.write(posted(door))
        assert (await door.record()).status == 499
        writer.transport.abort()


async def test_a_large_answer_arrives_whole_at_whoever_reads_it(serve, engines):
    engine = await engines.start()
    engine.words = ["가" * (1 << 20)]
    async with serve(engine.target) as door:
        answer = await door.post()
    assert answer.json()["choices"][0]["message"]["content"] == engine.words[0]


async def test_all_bodies_in_hand_have_one_bound(serve, gated, eventually):
    engine, gate = gated
    async with serve(engine.target, limits=Limits(bodies_bytes_max=5000)) as door:
        long = [{"role": "user", "content": "x" * 3000}]
        async with asking(door, 1, eventually, messages=long) as [first]:
            await eventually(lambda: engine.running)
            second = await door.post(messages=long)
            gate.open()
            assert (await first).status_code == 200
        assert (second.status_code, second.json()["error"]["code"]) == (503, "overloaded")
        assert (await door.post(messages=long)).status_code == 200


async def connected(door, size=1 << 16):
    url = httpx.URL(door.url)
    return await asyncio.open_connection(url.host, url.port, limit=size)


def posted(door, **fields):
    """The bytes of a request."""
    turns = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": "bot", "messages": turns, **fields}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", f"Host: {door.url.removeprefix('http://')}",
             f"Authorization: Bearer {KEY}", f"Content-Length: {len(body)}"]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_idle_and_dripping_connections_give_way_to_those_that_ask(
    serve, monkeypatch, eventually
):
    monkeypatch.setattr(bounds, "CONNECTIONS_MAX", 8)
    async with serve() as door:
        crowd = [await connected(door) for _ in range(30)]
        for _, writer in crowd:
            writer.write(b"GET /heal")
        for _ in range(10):
            async with httpx.AsyncClient() as client:
                assert (await client.get(f"{door.url}/healthz")).status_code == 200
        ended = [asyncio.create_task(reader.read()) for reader, _ in crowd]
        await eventually(lambda: sum(task.done() for task in ended) >= 30 - 8)
        for _, writer in crowd:
            writer.close()
        await asyncio.gather(*ended, return_exceptions=True)


async def test_no_connection_in_use_is_closed_for_a_new_one(serve, gated, eventually, monkeypatch):
    engine, gate = gated
    monkeypatch.setattr(bounds, "CONNECTIONS_MAX", 2)
    async with serve(engine.target) as door, asking(door, 2, eventually) as tasks:
        await eventually(lambda: engine.running == 2)
        reader, writer = await connected(door)
        answer = await reader.read()
        writer.close()
        gate.open()
        assert [(await task).status_code for task in tasks] == [200, 200]
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"http.too-many-connections" in answer
