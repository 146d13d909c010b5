"""Parameters beyond all measure are refused, by name, before any engine sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.traffic import schema
from madang.traffic.refusal import Refusal
from madang.traffic.requests import read

CHAT = {"model": "bot", "messages": [{"role": "user", "content": "안녕"}]}
COMPLETION = {"model": "bot", "prompt": "안녕"}
EXTREMES: list[tuple[str, Any]] = [
    ("n", 16384), ("n", 0), ("n", -1), ("n", True), ("n", 1.5), ("n", "1"),
    ("max_tokens", -1), ("max_tokens", 0), ("max_tokens", 2**63), ("max_tokens", 10**30),
    ("temperature", -1), ("temperature", 2.1), ("temperature", 1e308), ("temperature", "hot"),
    ("top_p", -0.1), ("top_p", 2), ("seed", 2**64), ("presence_penalty", -3),
    ("frequency_penalty", 99), ("stop", ["x"] * 10_000), ("stop", "x" * 10_000), ("stop", [""]),
    ("stop", ["가" * 200]), ("stop", [["x"]]), ("logit_bias", {str(n): 1 for n in range(2000)}),
    ("logit_bias", {"1": 1e9}), ("stream", 1), ("user", "x" * 10_000),
]  # fmt: skip
FORBIDDEN = (
    "chat_template", "chat_template_kwargs", "media_io_kwargs", "mm_processor_kwargs", "grammar",
    "guided_regex", "cache_prompt", "id_slot", "lora", "logits_processors", "priority",
    "extra_body", "trust_remote_code", "cache_salt", "slot_id", "samplers", "json_schema",
    "speculative.n_max",
)  # fmt: skip


def refused(kind: Any, body: dict[str, Any]) -> Refusal:
    said = read(kind, json.dumps(body).encode())
    assert isinstance(said, Refusal), body
    return said


@pytest.mark.parametrize(("field", "value"), EXTREMES, ids=lambda v: str(v)[:20])
def test_an_extreme_is_refused_by_the_name_of_its_parameter(field: str, value: Any) -> None:
    for kind, body in (("chat", CHAT), ("completions", COMPLETION)):
        said = refused(kind, {**body, field: value})
        assert said.status == 400
        assert said.param
        assert said.param.startswith(field)


def test_logprobs_have_their_own_bounds() -> None:
    assert refused("completions", {**COMPLETION, "logprobs": 10**6}).param == "logprobs"
    assert refused("chat", {**CHAT, "top_logprobs": 10**6}).param == "top_logprobs"
    assert refused("chat", {**CHAT, "logprobs": 10**6}).param == "logprobs"


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000])
def test_what_is_no_number_is_no_json(word: bytes) -> None:
    body = b'{"model": "bot", "prompt": "x", "temperature": ' + word + b"}"
    said = read("completions", body)
    assert isinstance(said, Refusal)
    assert said.status == 400


@pytest.mark.parametrize("field", FORBIDDEN)
def test_no_request_reaches_into_the_engine(field: str) -> None:
    for kind, body in (("chat", CHAT), ("completions", COMPLETION)):
        said = refused(kind, {**body, field: {"a": 1}})
        assert (said.status, said.param) == (400, field)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)  # fmt: skip
FIELDS = st.sampled_from([*schema.Chat.__struct_fields__, *FORBIDDEN])


@given(st.dictionaries(FIELDS, VALUES, max_size=4))
def test_whatever_is_asked_is_bounded_or_refused_with_a_reason(more: dict[str, Any]) -> None:
    said = read("chat", json.dumps({**CHAT, **more}).encode())
    if isinstance(said, Refusal):
        assert 400 <= said.status < 500
        return
    written = json.loads(said.encode("m"))
    assert not set(written) & set(FORBIDDEN)
    assert 1 <= (written.get("n") or 1) <= schema.CHOICES_MAX
    assert 1 <= (written.get("max_tokens") or 1) <= schema.TOKENS_MAX


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    said = read("chat", data)
    assert isinstance(said, Refusal)
    assert said.status == 400
