"""The official client, unchanged: what it understands of our answers and of our refusals."""

from __future__ import annotations

import openai
import pytest


@pytest.fixture
async def client_of():
    """Make official clients, and close them all."""
    made = []

    def make(door, key="sk-test"):
        made.append(openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key=key, max_retries=0))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def test_chat(serve, engines, client_of):
    engine = await engines.start()
    async with serve(engine.target) as door:
        client = client_of(door)
        turns = [{"role": "user", "content": "hello"}]
        first = await client.chat.completions.create(model="bot", messages=turns)
        turns += [first.choices[0].message, {"role": "user", "content": "and now?"}]
        await client.chat.completions.create(model="bot", messages=turns)
    assert first.choices[0].message.content == "one two three"
    assert first.model == "bot"
    assert first.usage is not None
    assert first.usage.total_tokens == 10
    assert [turn["role"] for turn in engine.requests[1]["messages"]] == [
        "user",
        "assistant",
        "user",
    ]


async def test_chat_with_nearly_every_parameter(serve, engines, client_of):
    engine = await engines.start()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    async with serve(engine.target) as door:
        await client_of(door).chat.completions.create(
            model="bot",
            messages=[
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "me"},
            ],
            tools=[tool],
            tool_choice="auto",
            parallel_tool_calls=True,
            response_format={"type": "json_object"},
            temperature=0,
            top_p=1,
            n=1,
            stop=["\n"],
            seed=7,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            logit_bias={"1": 3},
            logprobs=True,
            top_logprobs=2,
            max_completion_tokens=9,
            reasoning_effort="low",
            user="me",
            metadata={"a": "b"},
            store=False,
            service_tier="auto",
            safety_identifier="s",
            prompt_cache_key="k",
            verbosity="low",
            modalities=["text"],
        )
    sent = engine.requests[0]
    assert sent["tools"] == [tool]
    assert sent["max_tokens"] == 9
    assert not {"user", "metadata", "store", "service_tier", "modalities"} & sent.keys()


async def test_stream(serve, engines, client_of):
    engine = await engines.start()
    async with serve(engine.target) as door:
        turns = [{"role": "user", "content": "hello"}]
        stream = await client_of(door).chat.completions.create(
            model="bot", messages=turns, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == (
        "one two three"
    )
    assert chunks[-1].usage is not None


async def test_an_error_in_mid_stream_is_raised(serve, engines, client_of):
    engine = await engines.start()

    async def die(request, body):
        response = await engine.open(request)
        await response.write(engine.event("one ") + b"data: half")
        request.transport.close()
        return response

    engine.behave = die
    async with serve(engine.target) as door:
        turns = [{"role": "user", "content": "hello"}]
        stream = await client_of(door).chat.completions.create(
            model="bot", messages=turns, stream=True
        )
        first = await anext(stream)
        with pytest.raises(openai.APIError, match="stopped in mid-answer"):
            await anext(stream)
    assert first.choices[0].delta.content == "one "


async def test_completions_embeddings_and_models(serve, engines, client_of):
    engine = await engines.start()
    async with serve(engine.target) as door:
        client = client_of(door)
        completion = await client.completions.create(model="bot", prompt="once")
        vectors = await client.embeddings.create(model="bot", input=["a", "b"])
        names = [model.id async for model in client.models.list()]
        model = await client.models.retrieve("bot")
    assert completion.choices[0].text == "one two three"
    assert [each.embedding for each in vectors.data] == [[0.5, 0.25], [0.5, 0.25]]
    assert names == ["bot"]
    assert model.owned_by == "seoul/minwon"


@pytest.mark.parametrize(
    ("key", "fields", "error"),
    [
        ("wrong", {}, openai.AuthenticationError),
        ("sk-test", {"model": "other"}, openai.NotFoundError),
        ("sk-test", {"max_tokens": 0}, openai.BadRequestError),
        ("sk-test", {"extra_body": {"top_k": 5}}, openai.BadRequestError),
        ("sk-test", {}, openai.InternalServerError),
    ],
)
async def test_each_refusal_is_an_error_of_its_class(serve, client_of, key, fields, error):
    turns = [{"role": "user", "content": "hello"}]
    async with serve() as door:
        client = client_of(door, key)
        with pytest.raises(error) as caught:
            await client.chat.completions.create(**{"model": "bot", "messages": turns} | fields)
    assert caught.value.code
    assert caught.value.request_id
