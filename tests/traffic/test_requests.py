"""What an application may send, what is dropped, and what is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.messages import knows
from madang.traffic import schema
from madang.traffic.refusal import Refusal
from madang.traffic.requests import FREE_DEPTH_MAX, SHOWN_MAX, Request, read

TURN = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(**fields):
    return json.dumps({"model": "m", "messages": [TURN], **fields}).encode()


def accepted(kind, body):
    """Return what the engine would be sent."""
    request = read(kind, body)
    assert isinstance(request, Request), request
    return json.loads(request.encode("rep-1"))


def refused(kind, body):
    refusal = read(kind, body)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.status == 400
    return refusal


def nest(depth):
    value = 1
    for _ in range(depth):
        value = {"a": value}
    return value


KEPT = [
    {"temperature": 0},
    {"temperature": 2},
    {"top_p": 0.5},
    {"n": schema.CHOICES_MAX},
    {"max_tokens": 1},
    {"stop": "x" * schema.STOP_BYTES_MAX},
    {"stop": ["a"] * schema.STOPS_MAX},
    {"seed": -(2**62)},
    {"logit_bias": {"50256": -100}},
    {"logprobs": True, "top_logprobs": schema.LOGPROBS_MAX},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"tool_choice": "none", "parallel_tool_calls": False},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "text"}},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": nest(FREE_DEPTH_MAX), "strict": True},
        }
    },
    {"reasoning_effort": "minimal"},
    {"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}]}, TURN]},
    {
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "assistant", "content": None},
            {"role": "tool", "tool_call_id": "1", "content": "ok"},
        ]
    },
]


@pytest.mark.parametrize("fields", KEPT)
def test_what_means_something_reaches_the_engine_unchanged(fields):
    sent = accepted("chat", chat(**fields))
    assert sent == {"messages": [TURN], **fields, "model": "rep-1"}


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me"},
        {"metadata": {"a": "b"}},
        {"store": True},
        {"service_tier": "flex"},
        {"safety_identifier": "x"},
        {"prompt_cache_key": "x"},
        {"prompt_cache_retention": "24h"},
        {"prediction": {"type": "content", "content": "x"}},
        {"verbosity": "high"},
        {"modalities": ["text"]},
        {"stream_options": {"include_usage": True}},
        {"temperature": None},
        {"audio": None},
        {"functions": None},
    ],
)
def test_what_means_nothing_here_is_dropped(fields):
    assert accepted("chat", chat(**fields)) == {"model": "rep-1", "messages": [TURN]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "가" * 86}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"functions": []}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
        ({"stop": "\0"}, "stop"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        (
            {"messages": [{"role": "assistant", "content": "x", "audio": {"id": "1"}}]},
            "messages[0].audio",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": nest(33)}}]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"\0": 1}}}]},
            "tools[0].function.parameters",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "s", "schema": {"a": [2**70]}},
                }
            },
            "response_format.json_schema.schema",
        ),
    ],
)
def test_what_would_mislead_or_is_out_of_range_is_refused_by_name(fields, param):
    assert refused("chat", chat(**fields)).param == param


@pytest.mark.parametrize("part", ["input_audio", "file", "video_url"])
def test_only_texts_and_pictures_can_be_read_here(part):
    content = [{"type": "text", "text": "what is this?"}, {"type": part, part: {}}]
    refusal = refused("chat", chat(messages=[{"role": "user", "content": content}]))
    assert refusal.code == "text_only"
    assert refusal.param == "messages[0].content[1].type"
    assert refusal.values == {"value": f"'{part}'"}


@pytest.mark.parametrize(
    ("fields", "param", "near"),
    [
        ({"temprature": 1}, "temprature", "temperature"),
        ({"max_token": 1}, "max_token", "max_tokens"),
        ({"topp": 1}, "topp", "top_p"),
        ({"messages": [{**TURN, "nam": "x"}]}, "messages[0].nam", "name"),
        ({"stream_options": {"include_use": True}}, "stream_options.include_use", "include_usage"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_one(fields, param, near):
    refusal = refused("chat", chat(**fields))
    assert (refusal.code, refusal.param) == ("unknown_field", param)
    assert refusal.values == {"near": near}


def test_an_unknown_field_that_is_like_nothing_gets_no_bad_advice():
    for name in ("zzzzqqqq", "foo"):
        assert refused("chat", chat(**{name: 1})).message == "gateway.unknown-field"


@pytest.mark.parametrize(
    ("fields", "message", "values"),
    [
        ({"max_tokens": "9"}, "wrong-type", {"wanted": "int | null", "given": "str"}),
        ({"messages": "hi"}, "wrong-type", {"wanted": "array", "given": "str"}),
        ({"n": 9}, "out-of-bounds", {"bound": "<= 8"}),
        ({"temperature": -1}, "out-of-bounds", {"bound": ">= 0.0"}),
        ({"messages": []}, "wrong-length", {"bound": ">= 1"}),
        ({"user": "x" * 513}, "wrong-length", {"bound": "<= 512"}),
        ({"tools": [TOOL] * 129}, "wrong-length", {"bound": "<= 128"}),
        ({"verbosity": "loud"}, "not-a-choice", {"value": "'loud'"}),
        ({"messages": [{"role": "user"}]}, "field-missing", {"field": "messages[0].content"}),
        ({"messages": [{"content": "x"}]}, "field-missing", {"field": "messages[0].role"}),
        ({"audio": {}}, "not-available", {}),
    ],
)
def test_the_decoders_words_become_a_sentence_of_ours(fields, message, values):
    refusal = refused("chat", chat(**fields))
    assert (refusal.message, refusal.values) == (f"gateway.{message}", values)


@pytest.mark.parametrize(
    ("body", "message"), [(b"[]", "not-an-object"), (b"{}", "field-missing"), (b"", "not-json")]
)
def test_a_body_that_is_wrong_as_a_whole_is_refused_as_such(body, message):
    refusal = refused("chat", body)
    assert (refusal.message, refusal.param) == (f"gateway.{message}", None)


@pytest.mark.parametrize(
    "words",
    [
        "Object missing required field `x`",
        "Object contains unknown field `x`",
        "x - at `$.model`",
        "Expected `int` >= 1",
        "Expected `null`",
    ],
)
def test_nobody_can_put_the_decoders_words_into_its_mouth(words):
    refusal = refused("chat", chat(verbosity=words))
    assert (refusal.message, refusal.param) == ("gateway.not-a-choice", "verbosity")
    assert refusal.values == {"value": f"'{words}'"}


def test_what_was_sent_is_said_back_in_part_only():
    assert len(refused("chat", chat(verbosity="x" * 10_000)).values["value"]) == SHOWN_MAX
    assert len(refused("chat", chat(**{"x" * 10_000: 1})).param) == SHOWN_MAX


@pytest.mark.parametrize("number", [b"1e999", b"9" * 400, b"-" + b"9" * 30])
def test_a_number_beyond_all_bounds_is_no_number(number):
    body = chat(seed=12345).replace(b"12345", number)
    assert refused("chat", body).param == "seed"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"model": "m", "messages": NaN}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800", "messages": []}',
        chat() + b"{}",
        b'{"model": "m", "messages": ' + b"[" * 100_000,
        b'{"model": "m", "tools": ' + b'[{"function": ' * 100_000,
    ],
)
def test_what_is_no_json_is_refused_calmly(body):
    refused("chat", body)


def test_deep_nesting_is_refused_not_followed():
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"metadata":' + deep + b"}"
    refused("chat", body)
    tool = b'{"type":"function","function":{"name":"f","parameters":' + deep + b"}}"
    refused("chat", body.partition(b',"metadata"')[0] + b',"tools":[' + tool + b"]}")


def test_a_name_said_twice_reaches_the_engine_once():
    body = b'{"model": "a", "model": "b", "messages": [{"role": "user", "content": "x"}]}'
    request = read("chat", body)
    assert isinstance(request, Request)
    assert request.model == "b"
    assert request.encode("rep").count(b'"model"') == 1


@pytest.mark.parametrize(
    ("options", "wanted"), [(None, False), ({}, False), ({"include_usage": True}, True)]
)
def test_usage_is_always_asked_for_and_remembered_if_wanted(options, wanted):
    request = read("chat", chat(stream=True, stream_options=options))
    assert isinstance(request, Request)
    assert (request.stream, request.wants_usage) == (True, wanted)
    assert json.loads(request.encode("r"))["stream_options"] == {"include_usage": True}


def test_both_names_of_the_token_limit_are_taken_while_they_say_the_same():
    assert accepted("chat", chat(max_completion_tokens=7))["max_tokens"] == 7
    assert accepted("chat", chat(max_tokens=7, max_completion_tokens=7))["max_tokens"] == 7
    refusal = refused("chat", chat(max_tokens=5, max_completion_tokens=7))
    assert (refusal.message, refusal.param) == ("gateway.not-both", "max_tokens")


def tool(name: str) -> dict[str, object]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": "required"}, "gateway.field-alone"),
        ({"tool_choice": "required", "tools": []}, "gateway.field-alone"),
        ({"tool_choice": tool("f")}, "gateway.no-such-tool"),
        ({"tool_choice": tool("f"), "tools": [tool("g")]}, "gateway.no-such-tool"),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_a_tool_that_is_not_there_can_not_be_asked_for(kind, fields, message):
    if kind == "responses":
        flat = {"type": "function", "name": "f"}
        fields = {**fields, **({"tool_choice": flat} if fields["tool_choice"] == tool("f") else {})}
        if fields.get("tools"):
            fields["tools"] = [{"type": "function", "name": "g", "parameters": {}, "strict": None}]
        body = json.dumps({"model": "m", "input": "x", **fields}).encode()
    else:
        body = chat(**fields)
    refusal = refused(kind, body)
    assert (refusal.message, refusal.param) == (message, "tool_choice")


@pytest.mark.parametrize("choice", ["required", tool("f")])
def test_a_tool_that_is_there_may_be_asked_for(choice):
    assert accepted("chat", chat(tool_choice=choice, tools=[tool("f")]))["tool_choice"] == choice


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_choice_of_tools_that_asks_for_none_needs_none(choice):
    accepted("chat", chat(tool_choice=choice))


@pytest.mark.parametrize("logprobs", [None, False])
def test_likely_tokens_are_told_only_with_their_odds(logprobs):
    refusal = refused("chat", chat(top_logprobs=3, logprobs=logprobs))
    assert (refusal.message, refusal.param) == ("gateway.field-alone", "top_logprobs")
    accepted("chat", chat(top_logprobs=0, logprobs=logprobs))
    accepted("chat", chat(top_logprobs=3, logprobs=True))


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2, 3], [[1, 2], [3]], [0] * 5000])
@pytest.mark.parametrize(("kind", "field"), [("completions", "prompt"), ("embeddings", "input")])
def test_texts_and_token_ids_are_taken_in_every_form(kind, field, prompt):
    body = json.dumps({"model": "m", field: prompt}).encode()
    assert accepted(kind, body) == {"model": "rep-1", field: prompt}


@pytest.mark.parametrize("prompt", [[], [1, "a"], ["a", [1]], [-1], [2**40], [[]], {}, None, 1])
@pytest.mark.parametrize(("kind", "field"), [("completions", "prompt"), ("embeddings", "input")])
def test_mixed_or_impossible_texts_are_refused(kind, field, prompt):
    refused(kind, json.dumps({"model": "m", field: prompt}).encode())


def test_more_texts_than_the_bound_are_refused():
    texts = ["a"] * (schema.INPUTS_MAX + 1)
    assert refused("embeddings", json.dumps({"model": "m", "input": texts}).encode()).param


@pytest.mark.parametrize("fields", [{"dimensions": 3}, {"encoding_format": "hex"}])
def test_an_embedding_of_another_shape_is_refused(fields):
    refused("embeddings", json.dumps({"model": "m", "input": "a", **fields}).encode())


@pytest.mark.parametrize("fields", [{"suffix": "x"}, {"best_of": 2}, {"logprobs": 21}])
def test_a_completion_that_no_engine_here_gives_is_refused(fields):
    refused("completions", json.dumps({"model": "m", "prompt": "a", **fields}).encode())


@given(st.binary(max_size=200), st.sampled_from(["chat", "completions", "embeddings"]))
def test_no_bytes_make_the_reader_fail(data, kind):
    assert isinstance(read(kind, data), Refusal)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
FIELDS = st.dictionaries(
    st.sampled_from(schema.Chat.__struct_fields__) | st.text(max_size=8), JSON, max_size=4
)


@given(FIELDS)
def test_whatever_is_accepted_is_accepted_again_as_we_wrote_it(fields):
    request = read("chat", chat(**fields))
    if isinstance(request, Refusal):
        assert knows(request.message)
        assert request.message != "gateway.value", request
        return
    written = request.encode("m")
    again = read("chat", written)
    assert isinstance(again, Request)
    assert again.encode("m") == written
    assert b"\\u0000" not in written.replace(b"\\\\", b"")
