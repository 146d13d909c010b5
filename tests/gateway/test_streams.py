"""Streams through a real socket: what arrives, what is cut, who stops when."""

from __future__ import annotations

import asyncio
import json

import msgspec

from madang.traffic.limits import Limits

from .conftest import DEADLINE_S, eventually


async def lines_of(response):
    return [line async for line in response.aiter_lines() if line]


async def test_a_stream_arrives_whole_and_under_the_name_that_was_asked_for(serve, engines):
    engine = await engines.start()
    async with serve(engine.target) as door, door.stream() as response:
        lines = await lines_of(response)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-madang-table"] == "1"
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(each["choices"][0]["delta"]["content"] for each in chunks) == "one two three"
    assert {each["model"] for each in chunks} == {"bot"}
    assert engine.requests[0]["model"] == "rep-a"
    assert engine.headers[0]["Authorization"] == "Bearer token-rep-a"
    usage = await door.record()
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) == (7, 2, 3)
    assert (usage.status, usage.estimated, usage.replica) == (200, False, "rep-a")
    assert usage.id == response.headers["x-request-id"]


async def test_the_usage_chunk_is_passed_on_only_to_who_asked_for_it(serve, engines):
    engine = await engines.start()
    async with serve(engine.target) as door:
        async with door.stream() as response:
            silent = await response.aread()
        async with door.stream(stream_options={"include_usage": True}) as response:
            asked = await response.aread()
    assert b'"usage"' not in silent
    assert b'"usage":{"prompt_tokens":7' in asked
    assert all(each["stream_options"] == {"include_usage": True} for each in engine.requests)


async def test_the_engine_stops_as_soon_as_the_reader_of_a_stream_leaves(
    serve, engines, eventually
):
    engine = await engines.start()

    async def endless(request, body):
        response = await engine.open(request)
        while True:
            await response.write(engine.event("word "))
            await asyncio.sleep(0.005)

    engine.behave = endless
    async with serve(engine.target) as door:
        async with door.stream() as response:
            async for _ in response.aiter_lines():
                break
        await eventually(lambda: engine.cancelled == 1)
        usage = await door.record()
    assert usage.status == 499
    assert usage.estimated
    assert usage.output_tokens >= 1


async def test_the_engine_stops_as_soon_as_nobody_waits_for_its_answer(serve, engines, eventually):
    engine = await engines.start()

    async def hang(request, body):
        await asyncio.Event().wait()

    engine.behave = hang
    async with serve(engine.target) as door:
        asking = asyncio.create_task(door.post())
        await eventually(lambda: engine.running)
        asking.cancel()
        await eventually(lambda: engine.cancelled == 1 and not engine.running)
        usage = await door.record()
    assert (usage.status, usage.output_tokens, usage.estimated) == (499, 0, True)
    assert usage.prompt_tokens > 0, "the engine was at work on it"


async def test_an_engine_that_dies_in_mid_stream_ends_it_with_an_error_never_silently(
    serve, engines
):
    engine = await engines.start()

    async def die(request, body):
        response = await engine.open(request)
        await response.write(engine.event("one ") + engine.event("two ") + b'data: {"choic')
        request.transport.close()
        return response

    engine.behave = die
    async with serve(engine.target) as door:
        async with door.stream() as response:
            lines = await lines_of(response)
        usage = await door.record()
    assert len(lines) == 3
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_lost"
    assert (usage.status, usage.output_tokens, usage.estimated) == (502, 2, True)


async def test_an_error_in_mid_stream_is_said_in_the_language_of_the_reader(serve, engines):
    engine = await engines.start()

    async def die(request, body):
        response = await engine.open(request)
        await response.write(engine.event("one "))
        request.transport.close()
        return response

    engine.behave = die
    async with serve(engine.target) as door:
        door.client.headers["Accept-Language"] = "ko-KR"
        async with door.stream() as response:
            lines = await lines_of(response)
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert error["message"] == "모델의 엔진이 답하는 도중에 멈추었습니다."
    assert (error["code"], error["type"]) == ("engine_lost", "server_error")


async def test_an_engine_that_ends_without_saying_so_is_not_believed(serve, engines):
    engine = await engines.start()

    async def forget(request, body):
        response = await engine.open(request)
        await response.write(engine.event("one "))
        return response

    engine.behave = forget
    async with serve(engine.target) as door, door.stream() as response:
        lines = await lines_of(response)
    assert "error" in json.loads(lines[-1].removeprefix("data: "))


async def test_an_engine_that_dies_before_its_first_event_is_a_plain_502(serve, engines):
    engine = await engines.start()

    async def die(request, body):
        response = await engine.open(request)
        request.transport.close()
        return response

    engine.behave = die
    async with serve(engine.target) as door:
        response = await door.post(stream=True)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "engine_lost"


async def test_a_reader_that_does_not_read_stops_the_engine_from_writing(
    serve, engines, eventually
):
    engine = await engines.start()
    written = 0

    async def flood(request, body):
        nonlocal written
        response = await engine.open(request)
        while written < 200 << 20:
            await response.write(engine.event("x" * 65536))
            written += 65536
        return response

    engine.behave = flood
    limits = Limits(client_s=1.0)
    async with serve(engine.target, limits=limits) as door:
        async with door.stream():
            await eventually(lambda: engine.cancelled == 1)
        usage = await door.record()
    assert written < 64 << 20
    assert usage.status == 499


async def test_a_reader_that_reads_late_gets_all_of_its_stream(serve, engines):
    engine = await engines.start()

    async def flood(request, body):
        response = await engine.open(request)
        for _ in range(400):
            await response.write(engine.event("x" * 65536))
        await response.write(b"data: [DONE]\n\n")
        return response

    engine.behave = flood
    async with serve(engine.target) as door, door.stream() as response:
        await eventually(lambda: any(each.paused for each in door.connections))
        said = await response.aread()
        usage = await door.record()
    assert said.count(b"data: ") == 401
    assert said.endswith(b"data: [DONE]\n\n")
    assert (usage.status, usage.output_tokens) == (200, 400)


async def test_silence_in_mid_stream_ends_it_with_an_error(serve, engines):
    engine = await engines.start()

    async def stall(request, body):
        response = await engine.open(request)
        await response.write(engine.event("one "))
        await asyncio.Event().wait()

    engine.behave = stall
    async with serve(engine.target, limits=Limits(gap_s=0.2)) as door, door.stream() as response:
        lines = await lines_of(response)
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_silent"


async def test_an_engine_that_says_all_but_never_hangs_up_is_no_error(serve, engines):
    engine = await engines.start()

    async def linger(request, body):
        response = await engine.stream(request, body)
        await asyncio.Event().wait()
        return response

    engine.behave = linger
    async with serve(engine.target, limits=Limits(linger_s=0.1)) as door:
        async with door.stream() as response:
            lines = await lines_of(response)
        usage = await door.record()
        await eventually(lambda: engine.cancelled == 1)  # its connection is ended for it
    assert lines[-1] == "data: [DONE]"
    assert (usage.status, usage.output_tokens) == (200, 3)


async def test_an_event_that_never_ends_is_refused_at_its_bound(serve, engines):
    engine = await engines.start()

    async def bloat(request, body):
        response = await engine.open(request)
        await response.write(b"data: " + b"x" * 10_000)
        await asyncio.Event().wait()

    engine.behave = bloat
    async with serve(engine.target, limits=Limits(event_bytes_max=5000)) as door:
        response = await door.post(stream=True)
    assert response.json()["error"]["code"] == "answer_too_large"


async def test_a_stopping_gateway_tells_the_readers_it_cuts_off(serve, engines):
    engine = await engines.start()

    async def endless(request, body):
        response = await engine.open(request)
        while True:
            await response.write(engine.event("word "))
            await asyncio.sleep(0.005)

    engine.behave = endless
    async with serve(engine.target) as door, door.stream() as response:
        lines = response.aiter_lines()
        await anext(lines)
        stopping = asyncio.create_task(door.app.cut(timeout_s=DEADLINE_S))
        rest = [line async for line in lines if line]
        usage = await door.record()
        await door.client.aclose()
        await stopping
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "gateway_stopping"
    assert usage.status == 503


async def test_a_stream_ends_with_an_error_once_its_key_is_revoked(serve, engines, table):
    engine = await engines.start()

    async def endless(request, body):
        response = await engine.open(request)
        while True:
            await response.write(engine.event("word "))
            await asyncio.sleep(0.005)

    engine.behave = endless
    async with serve(engine.target) as door, door.stream() as response:
        lines = response.aiter_lines()
        assert "word " in await anext(lines)
        door.desk.take(msgspec.structs.replace(table(engine.target, version=2), keys={}))
        last = [line async for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "key_revoked"
    usage = await door.record()
    assert usage.status == 401
    assert usage.output_tokens >= 1, "what was delivered is billed"


async def test_a_whole_answer_is_not_given_to_a_key_that_has_expired_meanwhile(
    serve, engines, table
):
    engine = await engines.start()
    asked = asyncio.Event()

    async def hang(request, body):
        asked.set()
        await asyncio.Event().wait()

    engine.behave = hang
    async with serve(engine.target) as door:
        asking = asyncio.create_task(door.post())
        await asked.wait()
        known = table(engine.target, version=2)
        past = {d: msgspec.structs.replace(k, expires_at=1.0) for d, k in known.keys.items()}
        door.desk.take(msgspec.structs.replace(known, keys=past))
        answer = await asking
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "key_revoked"


async def test_a_body_that_ends_after_its_key_was_revoked_reaches_no_engine(serve, engines, table):
    engine = await engines.start()
    asked = []

    async def note(request, body):
        asked.append(body)
        return engine.say(body)

    engine.behave = note
    begun, go_on = asyncio.Event(), asyncio.Event()
    whole = json.dumps({"model": "bot", "messages": [{"role": "user", "content": "hi"}]}).encode()

    async def slowly():
        yield whole[:10]
        begun.set()
        await go_on.wait()
        yield whole[10:]

    async with serve(engine.target) as door:
        asking = asyncio.create_task(door.client.post("/v1/chat/completions", content=slowly()))
        await begun.wait()
        await eventually(lambda: door.app.busy)  # it knows the key, and waits for the rest
        door.desk.take(msgspec.structs.replace(table(engine.target, version=2), keys={}))
        go_on.set()
        answer = await asking
    assert answer.status_code == 401
    assert asked == []
