"""One replica answers garbage, or nothing: the others serve, and it is left alone."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from aiohttp import web

from madang.clocks import SystemClock
from madang.gateway import reply
from madang.gateway.asked import Asked
from madang.gateway.connection import Connection
from madang.gateway.engines import Engines
from madang.gateway.visit import Visit
from madang.traffic.desk import LACK_TOLD_S, Desk
from madang.traffic.limits import Limits
from madang.traffic.table import Target

HEAD = b"HTTP/1.1 200 OK\r\n"
ENDLESS = HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(100_000))
GARBAGE = {
    "not HTTP": b"\x16\x03\x01 this is another protocol\r\n\r\n",
    "endless headers": ENDLESS,
    "an endless header": HEAD + b"X: " + b"y" * 1_000_000,
    "no JSON": HEAD + b"Content-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    "no event": HEAD + b"Content-Type: text/plain\r\nContent-Length: 9\r\n\r\nall good\n",
    "nothing": b"",
}


def none_left(*_: object, **__: object) -> None:
    """Be a call for which there is no memory."""
    raise MemoryError


@asynccontextmanager
async def replica(uid: str, said: bytes) -> AsyncIterator[tuple[Target, list[bytes]]]:
    """A replica that answers every request with the same bytes and goes."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(said)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Target(uid, 1, f"http://127.0.0.1:{port}", "t", 2), asked


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("what", GARBAGE)
async def test_one_replica_that_answers_garbage_harms_no_request(
    serve: Callable, engines, what: str, streamed: bool
) -> None:
    good = await engines.start()
    async with replica("rep-bad", GARBAGE[what]) as (bad, asked), serve(bad, good.target) as door:
        answers = [await door.post(stream=streamed) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert all("three" in answer.text for answer in answers)
    assert len(good.requests) == 6
    assert len(asked) <= 3, "it is left alone once it has shown what it is"


@pytest.mark.parametrize("said", [b"no event at all\n\n", b"<html>\n\n<body>\n\n"])
async def test_garbage_that_calls_itself_a_stream_never_reaches_the_client(
    serve: Callable, engines, said: bytes
) -> None:
    engine = await engines.start()

    async def babble(request: web.Request, body: dict) -> web.StreamResponse:
        response = await engine.open(request)
        await response.write(said)
        return response

    engine.behave = babble
    async with serve(engine.target) as door:
        answer = await door.post(stream=True)
        again = await door.post(stream=True)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "engine_failed"
    assert again.json()["error"]["code"] == "no_replica"
    assert [(u.status, u.output_tokens) for u in door.records] == [(502, 0)]


async def test_a_replica_that_never_answers_takes_one_request_and_no_more(
    serve: Callable, engines
) -> None:
    hung, good = await engines.start("rep-hung"), await engines.start("rep-good")

    async def hang(request: web.Request, body: dict) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    hung.behave = hang
    limits = Limits(suspect_s=0.2)
    async with serve(hung.target, good.target, limits=limits) as door:
        stuck: list[asyncio.Task] = []
        while not hung.requests:
            stuck.append(asyncio.create_task(door.post()))
            await asyncio.sleep(0.05)
        held = len(hung.requests)
        await asyncio.sleep(0.3)
        assert door.desk.pull("gw", 0, SystemClock().monotonic()).silent[hung.uid] > 0.2
        answers = await asyncio.gather(*(door.post() for _ in range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20
        assert len(hung.requests) == held
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_out_of_open_files_the_gateway_says_so_blames_nobody_and_goes_on(
    serve: Callable, engines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await engines.start()

    async def no_file_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with serve(engine.target) as door:
        with monkeypatch.context() as patched:
            loop = asyncio.get_running_loop()
            connected = loop.create_connection

            def dialled(*given: object, **named: object) -> object:
                ours = named.get("port", given[-1]) == engine.port
                return (no_file_left if ours else connected)(*given, **named)

            patched.setattr(loop, "create_connection", dialled)
            short = await door.post()
        told = json.loads(door.desk.health(SystemClock().monotonic()))
        after = await door.post()
    assert (short.status_code, short.json()["error"]["code"]) == (503, "overloaded")
    assert "Too many open files" in told["lacked"]
    assert "control.short: [Errno 24] Too many open files; raise the limit" in caplog.text
    later = SystemClock().monotonic() + LACK_TOLD_S + 1
    assert "lacked" not in json.loads(door.desk.health(later)), "it is over"
    assert after.status_code == 200


WHERE = {
    "a head": (Connection, "on_headers_complete"),
    "a body": (Asked, "add"),
    "a request": (Desk, "admit"),
    "a connection": (Engines, "ask"),
    "an answer": (Visit, "said"),
}


@pytest.mark.plain
@pytest.mark.parametrize("what", WHERE)
async def test_out_of_memory_the_gateway_says_so_wherever_it_is_and_goes_on(
    serve: Callable,
    engines,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    engine = await engines.start()
    async with serve(engine.target) as door:
        with monkeypatch.context() as patched:
            patched.setattr(*WHERE[what], none_left)
            short = await door.post(stream=True)
        told = json.loads(door.desk.health(SystemClock().monotonic()))
        after = await door.post()
    code = "http.no-memory" if what in {"a head", "a body"} else "overloaded"
    assert (short.status_code, short.json()["error"]["code"]) == (503, code)
    assert (told["lacked"], told["requests"]) == ("MemoryError", 0)
    assert after.status_code == 200
    assert "Traceback" not in caplog.text


@pytest.mark.plain
async def test_where_there_is_no_memory_for_a_refusal_either_the_gateway_hangs_up_and_goes_on(
    serve: Callable, engines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await engines.start()

    async with serve(engine.target) as door:
        with monkeypatch.context() as patched:
            patched.setattr(Desk, "admit", none_left)
            patched.setattr(reply, "refused", none_left)
            with pytest.raises(httpx.RemoteProtocolError):
                await door.post()
        after = await door.post()
        assert door.desk.open == 0
    assert after.status_code == 200
    assert "Traceback" not in caplog.text
