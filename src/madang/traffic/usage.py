"""Tokens of one request: what the engine says, or what was seen passing by."""

from __future__ import annotations

from typing import Annotated

from msgspec import DecodeError, Meta, Raw, Struct, json

Count = Annotated[int, Meta(ge=0, le=2**53)]


class _Details(Struct, gc=False):
    cached_tokens: Count | None = None


class _Said(Struct, gc=False):
    prompt_tokens: Count
    completion_tokens: Count = 0
    prompt_tokens_details: _Details | None = None


class _Answer(Struct, gc=False):
    usage: _Said | None = None
    choices: list[object] | None = None


_DECODER = json.Decoder(_Answer)


class Tokens(Struct, frozen=True, gc=False):
    """How many tokens one request took."""

    prompt: int
    cached: int
    output: int


def tokens_in(data: bytes) -> tuple[Tokens | None, bool]:
    """Read an answer, or one event's data; also tell whether it holds nothing but the usage.

    >>> tokens_in(b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}')
    (Tokens(prompt=3, cached=0, output=2), True)
    """
    try:
        answer = _DECODER.decode(data)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None, False
    said = answer.usage
    if said is None:
        return None, False
    cached = said.prompt_tokens_details and said.prompt_tokens_details.cached_tokens
    tokens = Tokens(said.prompt_tokens, cached or 0, said.completion_tokens)
    return tokens, answer.choices == []


def is_object(data: bytes) -> bool:
    """Tell whether an answer without usage is at least a JSON object."""
    try:
        json.decode(data, type=dict[str, Raw])
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
