"""The newer way to ask is the same chat to an engine, and its answer is told in the newer way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.messages import knows
from madang.traffic import responses, schema
from madang.traffic.refusal import Refusal
from madang.traffic.requests import Request, read
from madang.traffic.retold import Retold
from madang.traffic.stream import EventStream

PNG = "data:image/png;base64,iVBORw0KGgo="
USAGE = {
    "prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2},
}  # fmt: skip


def asked(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "hi", **fields}).encode()


def sent(**fields: Any) -> dict[str, Any]:
    """Return what the engine is asked."""
    request = read("responses", asked(**fields))
    assert isinstance(request, Request), request
    written: dict[str, Any] = json.loads(request.encode("rep-1"))
    return written


def refused(**fields: Any) -> Refusal:
    said = read("responses", asked(**fields))
    assert isinstance(said, Refusal), said
    assert said.status == 400
    return said


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({}, [{"role": "user", "content": "hi"}]),
        (
            {"instructions": "be brief"},
            [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        ),
        (
            {"input": [{"role": "developer", "content": "a"}, {"role": "system", "content": "b"}]},
            [{"role": "developer", "content": "a"}, {"role": "system", "content": "b"}],
        ),
        (
            {
                "input": [
                    {
                        "type": "message",
                        "role": "user",
                        "content": [
                            {"type": "input_text", "text": "what is this?"},
                            {"type": "input_image", "image_url": PNG, "detail": "low"},
                        ],
                    }
                ]
            },
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is this?"},
                        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                    ],
                }
            ],
        ),
    ],
    ids=["text", "instructions", "roles", "picture"],
)
def test_what_is_said_becomes_turns_of_a_chat(fields: Any, messages: Any) -> None:
    assert sent(**fields) == {"model": "rep-1", "messages": messages}


def test_thoughts_and_calls_belong_to_the_turn_in_which_they_came() -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    messages = sent(
        input=[
            {"role": "user", "content": "two cities"},
            {"type": "reasoning", "summary": [],
             "content": [{"type": "reasoning_text", "text": "hm"}]},
            {**call, "call_id": "a", "id": "fc_1", "status": "completed"},
            {**call, "call_id": "b"},
            {"type": "function_call_output", "call_id": "a", "output": "rain"},
            {"type": "function_call_output", "call_id": "b",
             "output": [{"type": "input_text", "text": "sun"}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "done", "annotations": []}]},
        ]
    )["messages"]  # fmt: skip
    calls = [
        {"type": "function", "id": name, "function": {"name": "f", "arguments": "{}"}}
        for name in "ab"
    ]
    assert messages == [
        {"role": "user", "content": "two cities"},
        {"role": "assistant", "reasoning_content": "hm", "tool_calls": calls},
        {"role": "tool", "content": "rain", "tool_call_id": "a"},
        {"role": "tool", "content": "sun", "tool_call_id": "b"},
        {"role": "assistant", "content": "done"},
    ]


def test_every_parameter_goes_where_a_chat_has_it() -> None:
    shape = {"type": "object"}
    written = sent(
        max_output_tokens=9, temperature=0, top_p=0.5, top_logprobs=2, stream=True,
        tools=[{"type": "function", "name": "f", "parameters": shape, "strict": True}],
        tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "s", "schema": shape}},
        reasoning={"effort": "low", "summary": "auto"},
        store=False, truncation="disabled", background=False, metadata={"a": "b"}, user="me",
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
    )  # fmt: skip
    function = {"name": "f", "parameters": shape, "strict": True}
    assert written == {
        "model": "rep-1", "messages": [{"role": "user", "content": "hi"}],
        "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 9,
        "temperature": 0, "top_p": 0.5, "logprobs": True, "top_logprobs": 2,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False, "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": shape}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "nothing-kept"),
        ({"store": True}, "store", "nothing-kept"),
        ({"background": True}, "background", "nothing-kept"),
        ({"conversation": "c"}, "conversation", "not-available"),
        ({"prompt": {"id": "p"}}, "prompt", "not-available"),
        ({"truncation": "auto"}, "truncation", "not-a-choice"),
        ({"include": ["file_search_call.results"]}, "include[0]", "not-a-choice"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "text-only"),
        ({"max_output_tokens": 0}, "max_output_tokens", "out-of-bounds"),
        ({"temprature": 1}, "temprature", "unknown-field-near"),
        ({"input": []}, "input", "wrong-length"),
        ({"input": [{"type": "message"}]}, "input[0]", "field-missing"),
        ({"input": [{"type": "reasoning", "content": []}]}, "input", "field-missing"),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0]", "field-missing"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type", "text-only"),
        (
            {"input": [{"role": "user", "content": "x", "output": "y"}]},
            "input[0].output",
            "unknown-field",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
            "input[0].content[0].type",
            "not-a-choice",
        ),
        (
            {"input": [{"role": "user", "content": [
                {"type": "input_image", "image_url": "https://example.org/a.png"}]}]},
            "input[0].content[0].image_url",
            "not-an-image",
        ),
        ({"input": "a\0b"}, "input", "nul"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_by_name(fields: Any, param: str, message: str) -> None:
    said = refused(**fields)
    assert (said.param, said.message) == (param, f"gateway.{message}")


def test_what_is_free_in_form_is_bounded_as_in_a_chat() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    tool = {"type": "function", "name": "f", "parameters": deep}
    assert refused(tools=[tool]).param == "tools[0].parameters"
    shape = {"format": {"type": "json_schema", "name": "s", "schema": {"x": 2**70}}}
    assert refused(text=shape).param == "text.format.schema"


def told(stream: bool = False, **fields: Any) -> Retold:
    request = read("responses", asked(stream=stream, **fields))
    assert isinstance(request, Request)
    assert request.told
    return Retold("id", "m", request.told)


def whole(message: dict[str, Any], finish: str = "stop", **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = {"id": "c", "created": 5, "model": "rep", "choices": [choice], "usage": USAGE}
    answer: dict[str, Any] = json.loads(told(**fields).whole(json.dumps(body).encode()))
    return answer


def test_an_answer_says_who_answers_what_and_what_it_used() -> None:
    answer = whole({"role": "assistant", "content": "yes"}, metadata={"a": "b"}, temperature=1)
    assert answer["output"] == [
        {
            "type": "message", "id": "msg_id_0", "status": "completed", "role": "assistant",
            "content": [
                {"type": "output_text", "text": "yes", "annotations": [], "logprobs": []}
            ],
        }
    ]  # fmt: skip
    assert answer["usage"] == {
        "input_tokens": 7, "output_tokens": 3, "total_tokens": 10,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    assert (answer["id"], answer["model"], answer["created_at"]) == ("resp_id", "m", 5)
    assert (answer["store"], answer["metadata"], answer["temperature"]) == (False, {"a": "b"}, 1)
    assert answer["text"] == {"format": {"type": "text"}}


def test_thoughts_and_calls_are_entries_of_their_own() -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": None, "reasoning_content": "hm", "tool_calls": [call]}
    thought, called = whole(message, "tool_calls")["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert (called["name"], called["call_id"], called["arguments"]) == ("f", "call-1", "{}")


def test_an_answer_that_was_cut_says_why() -> None:
    answer = whole({"content": "and"}, "length")
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


def piece(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c", "created": 5, "model": "rep", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


CALL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "f", "arguments": ""}}
PIECES = [
    piece(role="assistant", content=None),
    piece(reasoning_content="h"),
    piece(reasoning_content="m"),
    piece(content="y"),
    piece(content="es"),
    piece(tool_calls=[CALL]),
    piece(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
    piece(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
    piece("tool_calls"),
    b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n",
    b"data: [DONE]\n\n",
]


def events(said: bytes) -> list[dict[str, Any]]:
    """Read events, each of which has a name and the same name inside."""
    found = []
    for block in said.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        found.append(body)
    return found


def streamed(pieces: list[bytes], **fields: Any) -> list[dict[str, Any]]:
    retold, stream = told(stream=True, **fields), EventStream(wants_usage=True, event_bytes_max=999)
    return events(b"".join(retold.feed(stream.feed(each)) for each in pieces))


def test_a_stream_opens_fills_and_closes_each_entry_in_turn() -> None:
    found = streamed(PIECES)
    entry = ["output_item.added", "output_item.done"]
    text = ["content_part.added", "output_text.delta", "output_text.delta", "output_text.done"]
    thought = [each.replace("output", "reasoning") for each in text]
    called = [f"function_call_arguments.{each}" for each in ("delta", "delta", "done")]
    assert [each["type"].removeprefix("response.") for each in found] == [
        "created", "in_progress",
        entry[0], *thought, "content_part.done", entry[1],
        entry[0], *text, "content_part.done", entry[1],
        entry[0], *called, entry[1],
        "completed",
    ]  # fmt: skip
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    places = [each["output_index"] for each in found if "output_index" in each]
    assert places == sorted(places)


def test_a_stream_ends_with_what_the_answer_in_one_piece_would_be() -> None:
    last = streamed(PIECES)[-1]["response"]
    call = {"id": "call-1", "function": {"name": "f", "arguments": '{"a":1}'}}
    message = {"content": "yes", "reasoning_content": "hm", "tool_calls": [call]}
    assert last == whole(message, "tool_calls")


def test_a_stream_that_was_cut_ends_as_incomplete() -> None:
    found = streamed([piece(content="a"), piece("length"), PIECES[-1]])
    assert found[-1]["type"] == "response.incomplete"
    assert found[-2]["item"]["status"] == "incomplete"


TEXTS = st.lists(st.text(max_size=9).filter(lambda text: "\x00" not in text), max_size=8)


@given(TEXTS, st.integers(1, 40))
def test_however_a_stream_is_cut_its_events_are_the_same(texts: list[str], size: int) -> None:
    made = b"".join([*(piece(content=text) for text in texts), piece("stop"), PIECES[-1]])
    cut = [made[at : at + size] for at in range(0, len(made), size)]
    found = streamed(cut)
    assert found == streamed([made])
    said = "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")
    assert said == "".join(texts)


@pytest.mark.parametrize("body", [b"nonsense", b"[]", b'{"choices": 1}', b'{"choices": [{"a"'])
def test_an_answer_that_is_none_of_a_chat_is_noticed(body: bytes) -> None:
    with pytest.raises(ValueError, match="no answer of a chat"):
        told().whole(body)
    with pytest.raises(ValueError, match="no answer of a chat"):
        told().feed(b"data: " + body + b"\n\n")


FIELDS = st.sampled_from([*responses.Asked.__struct_fields__, *responses.Item.__struct_fields__])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(FIELDS, VALUES, max_size=4))
def test_whatever_is_asked_is_a_bounded_chat_or_refused_with_a_reason(more: Any) -> None:
    said = read("responses", asked(**more))
    if isinstance(said, Refusal):
        assert said.status == 400
        assert knows(said.message)
        return
    written = said.encode("m")
    again = read("chat", written)
    assert isinstance(again, Request)
    assert again.encode("m") == written
    assert len(again.body.messages) <= schema.MESSAGES_MAX  # type: ignore[union-attr]
