"""Answers that are no streams: passed on, retried once, or turned into a refusal."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest
from aiohttp import web

from madang.traffic.limits import Limits
from madang.traffic.table import Target


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return taken.getsockname()[1]


def dead(uid="rep-0"):
    """A replica that is gone."""
    return Target(uid, 1, f"http://127.0.0.1:{free_port()}", "t")


async def test_an_answer_arrives_whole_and_is_accounted_for(serve, engines):
    engine = await engines.start()
    async with serve(engine.target) as door:
        response = await door.post(user="me", max_completion_tokens=5)
        usage = await door.record()
    body = response.json()
    assert body["choices"][0]["message"]["content"] == "one two three"
    assert body["model"] == "bot"
    assert engine.requests == [
        {"model": "rep-a", "max_tokens": 5, "messages": [{"role": "user", "content": "안녕"}]}
    ]
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) == (7, 2, 3)
    assert usage.first_token_s is not None
    assert usage.first_token_s <= usage.duration_s
    assert (usage.key, usage.project, usage.endpoint) == ("app", "seoul/minwon", "bot")


async def test_a_dead_replica_is_passed_over_for_a_living_one(serve, engines):
    engine = await engines.start("rep-b")
    async with serve(dead(), engine.target) as door:
        answers = [await door.post() for _ in range(6)]
    assert {each.status_code for each in answers} == {200}
    assert len(engine.requests) == 6
    assert {each.replica for each in door.records} == {"rep-b"}


async def test_with_every_replica_dead_the_answer_is_503_after_two_attempts(serve):
    async with serve(dead("rep-0"), dead("rep-1"), dead("rep-2")) as door:
        response = await door.post()
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "no_answer"
    assert "retry-after" in response.headers


async def test_a_connection_that_closes_without_an_answer_is_tried_once_more(serve, engines):
    engine = await engines.start()
    answer = engine.answer

    async def slam_once(request, body):
        if len(engine.requests) == 1:
            request.transport.close()
        return await answer(request, body)

    engine.behave = slam_once
    async with serve(engine.target) as door:
        response = await door.post()
    assert response.status_code == 200
    assert len(engine.requests) == 2


async def test_a_request_that_kills_engines_is_not_tried_a_third_time(serve, engines):
    fleet = [await engines.start(uid) for uid in ("rep-a", "rep-b", "rep-c")]

    async def slam(request, body):
        request.transport.close()
        return web.Response()

    for engine in fleet:
        engine.behave = slam
    async with serve(*(engine.target for engine in fleet)) as door:
        response = await door.post()
        assert response.status_code == 503
        assert sum(len(engine.requests) for engine in fleet) == 2
        for engine in fleet:
            engine.behave = engine.answer
        answers = [await door.post() for _ in range(4)]
    assert {each.status_code for each in answers} == {200}


async def test_a_replica_that_is_still_loading_is_passed_over(serve, engines):
    loading, ready = await engines.start("rep-a"), await engines.start("rep-b")

    async def wait(request, body):
        return web.json_response({"error": {"message": "Loading model"}}, status=503)

    loading.behave = wait
    async with serve(loading.target, ready.target) as door:
        answers = [await door.post() for _ in range(4)]
    assert {each.status_code for each in answers} == {200}
    assert len(loading.requests) <= 1


@pytest.mark.parametrize(
    ("status", "body", "seen", "code"),
    [
        (400, {"error": {"code": 400, "message": "too long"}}, 400, "refused_by_engine"),
        (400, {"object": "error", "message": "too long"}, 400, "refused_by_engine"),
        (500, {"error": {"message": "stack trace"}}, 502, "engine_failed"),
        (401, {"error": {"message": "bad token"}}, 502, "engine_failed"),
        (302, {}, 502, "engine_failed"),
    ],
)
async def test_an_engines_refusal_is_told_in_the_openai_shape(
    serve, engines, status, body, seen, code
):
    engine = await engines.start()

    async def refuse(request, _):
        return web.json_response(body, status=status)

    engine.behave = refuse
    async with serve(engine.target) as door:
        for stream in (False, True):
            response = await door.post(stream=stream)
            assert response.status_code == seen
            error = response.json()["error"]
            assert error["code"] == code
            assert error["message"].endswith("too long") == (status == 400)
            assert "stack trace" not in error["message"]
    assert {(each.status, each.prompt_tokens) for each in door.records} == {(seen, 0)}


async def test_an_answer_that_is_no_json_is_502(serve, engines):
    engine = await engines.start()

    async def babble(request, body):
        return web.Response(text="<html>", content_type="application/json")

    engine.behave = babble
    async with serve(engine.target) as door:
        assert (await door.post()).status_code == 502


async def test_an_answer_without_usage_is_counted_and_marked(serve, engines):
    engine = await engines.start()

    async def forget(request, body):
        return web.json_response({"choices": []})

    engine.behave = forget
    async with serve(engine.target) as door:
        assert (await door.post()).status_code == 200
        usage = await door.record()
    assert usage.estimated
    assert usage.prompt_tokens > 0


async def test_an_engine_that_never_begins_is_504_and_left_alone(serve, engines):
    engine = await engines.start()

    async def hang(request, body):
        await asyncio.Event().wait()

    engine.behave = hang
    async with serve(engine.target, limits=Limits(first_byte_s=0.1)) as door:
        late = await door.post()
        next_one = await door.post()
    assert late.status_code == 504
    assert next_one.status_code == 503
    assert next_one.json()["error"]["code"] == "no_replica"
    assert engine.cancelled == 1


async def test_an_engine_that_dies_in_mid_answer_is_502(serve, engines):
    engine = await engines.start()

    async def die(request, body):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"choices":')
        request.transport.close()
        return response

    engine.behave = die
    async with serve(engine.target) as door:
        response = await door.post()
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "engine_lost"


async def test_an_answer_over_the_bound_is_502(serve, engines):
    engine = await engines.start()
    engine.words = ["x" * 5000]
    async with serve(engine.target, limits=Limits(answer_bytes_max=1000)) as door:
        response = await door.post()
    assert response.json()["error"]["code"] == "answer_too_large"


async def test_a_large_body_arrives_unharmed(serve, engines):
    engine = await engines.start()
    text = "가" * 500_000
    async with serve(engine.target) as door:
        response = await door.post(messages=[{"role": "user", "content": text}])
    assert response.status_code == 200
    assert engine.requests[0]["messages"][0]["content"] == text


async def test_more_requests_than_hands_are_503(serve, engines, eventually):
    engine = await engines.start()

    async def hang(request, body):
        await asyncio.Event().wait()

    engine.behave = hang
    async with serve(engine.target, limits=Limits(requests_max=1)) as door:
        first = asyncio.create_task(door.post())
        await eventually(lambda: engine.running)
        response = await door.post()
        first.cancel()
        await eventually(lambda: not door.desk.open)
    assert response.json()["error"]["code"] == "overloaded"


async def test_requests_under_way_are_told_to_control(serve, engines, eventually):
    engine = await engines.start()
    async with serve(engine.target) as door:
        go = asyncio.Event()
        answer = engine.answer

        async def wait(request, body):
            await go.wait()
            return await answer(request, body)

        engine.behave = wait
        asking = asyncio.create_task(door.post())
        await eventually(lambda: engine.running)
        assert door.desk.pull("gw", 1.0, 0).inflight == {"rep-a": 1}
        go.set()
        await asking
        await door.record()
        assert door.desk.pull("gw", 1.0, 0).inflight == {}
