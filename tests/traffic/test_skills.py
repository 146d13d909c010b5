"""What an engine can't do is refused by the name of the field that asks for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from madang.traffic.admission import Directory
from madang.traffic.refusal import Refusal
from madang.traffic.requests import Request, read
from madang.traffic.table import SKILLS, Endpoint, RouteTable

PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TEXT = {"type": "text", "text": "what is this?"}
TOOL = {"type": "function", "function": {"name": "f"}}
CHAT: list[tuple[dict[str, Any], str, str]] = [
    ({"n": 2}, "choices", "n"),
    ({"logprobs": True}, "logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 3}, "logprobs", "logprobs"),
    ({"tools": [TOOL]}, "tools", "tools"),
    ({"response_format": {"type": "json_object"}}, "json", "response_format"),
    ({"reasoning_effort": "low"}, "reasoning", "reasoning_effort"),
    ({"messages": [{"role": "user", "content": [TEXT, PNG]}]}, "vision", "messages[0].content[1]"),
]
COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"n": 2}, "choices", "n"),
    ({"logprobs": 1}, "logprobs", "logprobs"),
    ({"echo": True}, "echo", "echo"),
    ({"prompt": ["a", "b"]}, "prompts", "prompt"),
    ({"prompt": [[1], [2]]}, "prompts", "prompt"),
]
CASES = [("chat", *case) for case in CHAT] + [("completions", *case) for case in COMPLETIONS]
HARMLESS: list[tuple[Any, dict[str, Any]]] = [
    ("chat", {"n": 1, "logprobs": False, "tools": [], "reasoning_effort": "none"}),
    ("chat", {"tools": [TOOL], "tool_choice": "none", "response_format": {"type": "text"}}),
    ("chat", {"messages": [{"role": "user", "content": [TEXT]}]}),
    ("completions", {"prompt": [1, 2, 3], "echo": False}),
    ("completions", {"prompt": ["a"]}),
    ("embeddings", {"input": ["a", "b"]}),
]


def judged(kind: Any, fields: dict[str, Any], lacks: frozenset[str]) -> Refusal | None:
    basis = {
        "chat": {"messages": [{"role": "user", "content": "x"}]},
        "completions": {"prompt": "x"},
        "embeddings": {"input": "x"},
    }[kind]
    request = read(kind, json.dumps({"model": "bot", **basis, **fields}).encode())
    assert isinstance(request, Request), request
    endpoint = Endpoint("lab", "bot", "bot", (), 4096, lacks=lacks)
    return Directory(RouteTable(1)).fit(endpoint, request)


@pytest.mark.parametrize(("kind", "fields", "skill", "param"), CASES)
def test_a_skill_that_is_lacking_is_refused_by_its_name(
    kind: Any, fields: dict[str, Any], skill: str, param: str
) -> None:
    said = judged(kind, fields, frozenset({skill}))
    assert said
    assert (said.status, said.code, said.param) == (400, "unsupported_by_model", param)
    assert said.values == {"model": "bot", "feature": skill}
    assert judged(kind, fields, SKILLS - {skill}) is None


@pytest.mark.parametrize(("kind", "fields"), HARMLESS)
def test_what_asks_for_nothing_goes_to_any_engine(kind: Any, fields: dict[str, Any]) -> None:
    assert judged(kind, fields, SKILLS) is None
