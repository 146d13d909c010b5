"""Bytes on an engine's connection: odd answers, and connections that end at the wrong moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from madang.traffic.limits import Limits
from madang.traffic.table import Target

from .conftest import eventually

JSON = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
GOOD = HEAD + b"Content-Length: %d\r\n\r\n" % len(JSON) + JSON


class Script:
    """An engine that says, request by request, exactly what it is told to."""

    def __init__(self, *said: bytes) -> None:
        self.said = list(said)
        self.asked = 0
        self.connections = self.ended = 0
        self.after = b""
        """Said once each answer is out."""
        self.writers: list[asyncio.StreamWriter] = []
        self.ends = False
        """Whether it hangs up behind each answer."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                await reader.readexactly(length)
                self.asked += 1
                said = self.said.pop(0) if self.said else GOOD
                if not said:
                    break
                writer.write(said + self.after)
                await writer.drain()
                if self.ends:
                    break
        writer.close()
        self.ended += 1


@asynccontextmanager
async def scripted(*said: bytes) -> AsyncIterator[tuple[Script, Target]]:
    script = Script(*said)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield script, Target("rep-a", 1, f"http://127.0.0.1:{port}", "t", 4)
        for writer in script.writers:
            writer.close()
        await eventually(lambda: script.ended == script.connections)


ODD = {
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + GOOD,
    "two of them": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + GOOD,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(JSON), JSON),
}


@pytest.mark.parametrize("what", ODD)
async def test_an_odd_answer_is_an_answer(serve: Callable, what: str) -> None:
    async with scripted(ODD[what]) as (script, target), serve(target) as door:
        answers = [await door.post() for _ in range(2)]
    assert [(a.status_code, a.content) for a in answers] == [(200, JSON)] * 2
    assert script.connections == 1, "and the connection is used again"


async def test_an_answer_without_a_length_ends_with_its_connection(serve: Callable) -> None:
    async with scripted(HEAD + b"\r\n" + JSON) as (script, target), serve(target) as door:
        script.ends = True
        answer = await door.post()
    assert (answer.status_code, answer.content) == (200, JSON)


async def test_an_answer_shorter_than_its_length_is_none(serve: Callable) -> None:
    async with scripted(GOOD[:-5]) as (script, target), serve(target) as door:
        script.ends = True
        answer = await door.post()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_lost")


@pytest.mark.parametrize("known", [False, True], ids=["a new head", "a known head"])
async def test_bytes_that_nobody_has_asked_for_end_the_connection(
    serve: Callable, known: bool
) -> None:
    """Or the next request, perhaps another tenant's, would get them as its answer."""
    async with scripted() as (script, target), serve(target) as door:
        if known:
            assert (await door.post()).content == JSON
        script.after = HEAD + b'Content-Length: 6\r\n\r\n"evil"'
        for _ in range(3):
            assert (await door.post()).content == JSON
        assert script.connections == 3


async def test_a_connection_that_ends_as_we_write_costs_nobody_an_answer(serve: Callable) -> None:
    async with scripted(GOOD, b"", GOOD, b"", GOOD) as (script, target), serve(target) as door:
        answers = [await door.post() for _ in range(3)]
        silent = door.desk.health(0)
    assert [a.status_code for a in answers] == [200] * 3
    assert script.asked == 5
    assert silent


async def test_a_second_try_goes_over_a_connection_that_was_not_used_before(
    serve: Callable, engines
) -> None:
    """All idle ones may end as we write: an engine that begins anew has closed them together."""
    engine = await engines.start()
    both, used, answer = asyncio.Event(), set(), engine.answer

    async def together(request, body):
        used.add(request.transport.get_extra_info("peername"))
        if len(used) == 2:
            both.set()
        await both.wait()
        return await answer(request, body)

    async def slam_if_used(request, body):
        if request.transport.get_extra_info("peername") in used:
            request.transport.close()
        return await answer(request, body)

    async with serve(engine.target) as door:
        engine.behave = together
        await asyncio.gather(door.post(), door.post())
        engine.behave = slam_if_used
        assert (await door.post()).status_code == 200
    assert len(engine.requests) == 4


async def test_an_idle_connection_is_closed_before_engines_do(
    serve: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("madang.gateway.engines.KEEP_ALIVE_S", 0.1)
    async with scripted() as (script, target), serve(target) as door:
        assert (await door.post()).status_code == 200
        await eventually(lambda: script.ended == 1)


async def test_an_address_that_neither_takes_nor_refuses_a_connection_is_out_in_time(
    serve: Callable, engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    hole, good = await engines.start("rep-a"), await engines.start("rep-b")
    loop = asyncio.get_running_loop()
    connected = loop.create_connection

    async def dialled(*given, **named):
        if hole.port in given:
            await asyncio.Event().wait()
        return await connected(*given, **named)

    monkeypatch.setattr(loop, "create_connection", dialled)
    async with serve(hole.target, good.target, limits=Limits(connect_s=0.1)) as door:
        answers = [await door.post() for _ in range(4)]
    assert [a.status_code for a in answers] == [200] * 4
    assert len(good.requests) == 4
