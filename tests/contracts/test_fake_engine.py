"""The fake engine does what its script says, above all when that is wrong."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from madang.engines.fake import Fake
from madang.engines.fake_schema import least_value
from madang.ports import Assignment


@pytest.fixture
def fake(run_engine, tmp_path):
    """Start one that follows this script."""

    def start(slots: int = 4, **script):
        path = tmp_path / "model.json"
        path.write_text(json.dumps({"token_ms": 0, **script}))
        given = ("rep-1", 1, "tiny", path, 8192, slots, 1 << 30, 1.0, ("cpu0",), ("",), "token")
        return run_engine(Fake().launch(Assignment(*given)))

    return start


def metrics(engine) -> dict[str, float]:
    return Fake().metrics(engine.get("/metrics").text)


def test_it_says_its_words_again_and_again(fake):
    engine = fake(words="하나 둘")
    assert engine.chat()["choices"][0]["message"]["content"] == "하나 둘 "
    assert engine.chat(max_tokens=3)["choices"][0]["message"]["content"] == "하나 둘 하나 "


def test_another_identity(fake):
    engine = fake(fail={"identity": "somebody"})
    assert engine.get("/v1/models").json()["data"][0]["id"] == "somebody"
    assert engine.chat(max_tokens=1)["model"] == "somebody"


def test_a_crash_after_so_many_requests(fake):
    engine = fake(fail={"crash_after_requests": 2})
    engine.chat(max_tokens=1)
    engine.chat(max_tokens=1)
    with pytest.raises(httpx.TransportError):
        engine.chat(max_tokens=1)
    assert engine.last_words() == (70, "")


def test_a_crash_in_the_middle_of_a_stream(fake):
    engine = fake(fail={"crash_after_tokens": 5})
    with pytest.raises(httpx.TransportError):
        engine.stream(max_tokens=50)
    assert engine.last_words()[0] == 70


def test_max_tokens_not_heeded(fake):
    said = fake(fail={"ignores_max_tokens": True}).chat(max_tokens=5)
    assert said["usage"]["completion_tokens"] == 20


def test_stop_not_heeded(fake):
    engine = fake(words="one two three", fail={"ignores_stop": True})
    assert engine.chat(stop=["two"])["choices"][0]["message"]["content"] == "one two three "


def test_no_stream_although_one_was_asked_for(fake):
    answer = fake(fail={"no_stream": True}).post(
        "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    assert answer.headers["content-type"] == "application/json"


def test_a_usage_that_cannot_be_right(fake):
    usage = fake(fail={"bad_usage": True}).chat(max_tokens=2)["usage"]
    assert usage["completion_tokens"] > 2
    assert usage["prompt_tokens"] == 0


def test_json_that_is_none(fake):
    said = fake(fail={"bad_json": True}).chat(response_format={"type": "json_object"})
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(said["choices"][0]["message"]["content"])


def test_a_hang_until_the_client_gives_up(fake, eventually):
    engine = fake(fail={"hang": True})
    with pytest.raises(httpx.ReadTimeout):
        engine.client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "hi"}]},
            timeout=0.2,
        )
    assert engine.get("/health").status_code == 200
    eventually(lambda: metrics(engine)["running"] == 0)


def test_work_that_goes_on_after_the_client_has_left(fake, eventually):
    engine = fake(token_ms=1, fail={"keeps_working_after_cancel": True})
    order = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 300}
    with engine.client.stream("POST", "/v1/chat/completions", json=order) as answer:
        next(answer.iter_lines())
    eventually(lambda: metrics(engine)["running"] == 0)
    assert metrics(engine)["output_tokens"] == 300


def test_more_requests_than_slots_wait(fake, eventually):
    engine = fake(slots=1, token_ms=5)
    threads = [threading.Thread(target=engine.chat, kwargs={"max_tokens": 100}) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: (metrics(engine)["running"], metrics(engine)["waiting"]) == (1, 1))
    for thread in threads:
        thread.join()


def test_the_same_beginning_of_a_prompt_is_found_in_the_cache(fake):
    engine = fake()
    engine.post("/v1/completions", prompt="a b c d e", max_tokens=1)
    usage = engine.post("/v1/completions", prompt="a b c x y", max_tokens=1).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 3


def test_a_prompt_beyond_the_context_is_refused(fake):
    assert fake().post("/v1/completions", prompt="a " * 3000).status_code == 400


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "minimum": 4, "multipleOf": 3}, 6),
        ({"type": "number", "minimum": 0.5}, 0.5),
        ({"type": ["null", "string"]}, None),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": {"x": 1}}, {"x": 1}),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, ""),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, 0),
        ({"properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}, {"a": ""}),
        (True, None),
    ],
)
def test_the_least_value_of_a_schema(schema, value):
    assert least_value(schema) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    ],
)
def test_a_schema_without_a_bottom_is_refused(schema, fake):
    with pytest.raises(ValueError, match=r"deep|without an end"):
        least_value(schema)
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    messages = [{"role": "user", "content": "hi"}]
    answer = fake().post("/v1/chat/completions", messages=messages, response_format=form)
    assert answer.status_code == 400
