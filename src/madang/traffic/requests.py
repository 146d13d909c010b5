"""Reading a request body: closed, bounded, and written again in our own bytes.

An engine never sees an application's bytes: what it gets is what was checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from math import inf
from operator import attrgetter
from typing import Any, Literal

from msgspec import DecodeError, Struct, ValidationError, json, to_builtins

from madang.traffic import responses, schema
from madang.traffic.plain import defused
from madang.traffic.refusal import Refusal, invalid
from madang.traffic.responses import Asked, JsonSchemaFormat, Told, as_chat, told

Kind = Literal["chat", "completions", "embeddings", "responses"]

FREE_DEPTH_MAX = 32
"""How deep a tool's or an answer's JSON schema may nest."""
SHOWN_MAX = 256
"""So many characters of what was sent are said back."""
BYTES_PER_TOKEN = 4
"""For estimates only, where an engine gave no usage."""

BATCH_TIERS = frozenset({"flex", "batch"})
"""Values of `service_tier` that say: slower is fine."""

_BODIES: dict[Kind, type[Struct]] = {
    "chat": schema.Chat,
    "completions": schema.Completion,
    "embeddings": schema.Embedding,
    "responses": Asked,
}
_DECODERS = {kind: json.Decoder(body) for kind, body in _BODIES.items()}
_NESTED = {
    name
    for part in (*vars(schema).values(), *vars(responses).values())
    if isinstance(part, type) and issubclass(part, schema.Part) and part not in _BODIES.values()
    for name in part.__struct_fields__
}
_ENCODER = json.Encoder()
_WRITTEN = (schema.Chat, schema.Completion)
_DROPPED = schema.Ignored.__struct_fields__
_ignored = attrgetter(*_DROPPED)
_UNSAID = (None,) * len(_DROPPED)
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_VALUE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)

DECODER_SAYS = {
    "gateway.not-an-image": re.compile(r"Expected `str` matching regex .*"),
    "gateway.wrong-type": re.compile(r"Expected `(?P<wanted>.*)`, got `(?P<given>.*)`"),
    "gateway.wrong-length": re.compile(r"Expected `\w+` of length (?P<bound>.*)"),
    "gateway.out-of-bounds": re.compile(r"Expected `\w+` (?P<bound>[<>]=? .*)"),
    "gateway.number-too-large": re.compile(r".* out of range"),
    "gateway.value": re.compile(r"(?P<cause>.*)", re.DOTALL),
}
"""Which sentence tells what the decoder says of a value, and its values; the first that fits."""


class Request(Struct):
    """One checked request."""

    kind: Kind
    model: str
    """As the application named it."""
    stream: bool
    wants_usage: bool
    """False: the usage that we ask the engine for isn't passed on."""
    body_bytes: int
    """Its length as it came."""
    body: schema.Body
    """What the engine is asked; for `responses`, the same as a chat."""
    is_batch: bool = False
    """It may wait for all that isn't."""
    told: Told | None = None
    """Only for `responses`: what the answer says again."""

    @property
    def prompt_tokens(self) -> int:
        """An estimate, from the length of the body."""
        return self.body_bytes // BYTES_PER_TOKEN

    @property
    def output_tokens_max(self) -> float:
        """So many tokens may be written at most, as far as it says; inf: it doesn't."""
        body = self.body
        if isinstance(body, _WRITTEN):
            return inf if body.max_tokens is None else body.max_tokens * (body.n or 1)
        return 0.0

    def encode(self, model: str, more: bytes = b"") -> bytes:
        """Write the body for an engine that knows its model by this name, with more fields."""
        self.body.model = model
        written = _ENCODER.encode(self.body)
        if isinstance(self.body, schema.Chat):
            written = defused(written)
        return b"%b%b}" % (written[:-1], more) if more else written


def read(kind: Kind, data: bytes) -> Request | Refusal:
    """Check a body; the refusal names the field at fault."""
    try:
        body: Any = _DECODERS[kind].decode(data)
    except ValidationError as error:
        return _explain(kind, str(error))
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return invalid("gateway.not-json", code="invalid_json")
    refused = _check(body, data)
    if refused:
        return refused
    is_batch = body.service_tier in BATCH_TIERS
    again = None
    if kind == "responses":
        again, body = told(body), as_chat(body)
        if isinstance(body, Refusal):
            return body
    if isinstance(body, schema.Chat) and (refused := _check_together(body)):
        return refused
    if _ignored(body) != _UNSAID:
        for name in _DROPPED:
            setattr(body, name, None)
    stream, wants_usage = _prepare(body)
    wants_usage |= again is not None
    return Request(kind, body.model, stream, wants_usage, len(data), body, is_batch, again)


def _prepare(body: schema.Body) -> tuple[bool, bool]:
    """Bring the fields that steer the answer into one form; return (stream, usage wanted)."""
    if isinstance(body, schema.Chat):
        if body.max_completion_tokens:
            body.max_tokens, body.max_completion_tokens = body.max_completion_tokens, None
    elif isinstance(body, schema.Embedding):
        return False, True
    wants_usage = bool(body.stream_options and body.stream_options.include_usage)
    body.stream_options = schema.StreamOptions(include_usage=True) if body.stream else None
    return bool(body.stream), wants_usage


def _check(body: schema.Body | Asked, data: bytes) -> Refusal | None:
    """Check what a type can't say."""
    may_hold_nul = data.find(b"\\") >= 0 and data.find(b"\\u0000") >= 0
    if may_hold_nul and (path := _find_nul(to_builtins(body), "")):
        return invalid("gateway.nul", path)
    if isinstance(body, schema.Chat):
        refused = _check_stop(body.stop) if body.stop is not None else None
        return refused or (_check_free(body) if body.tools or body.response_format else None)
    if isinstance(body, schema.Completion):
        return _check_stop(body.stop) or _check_inputs(body.prompt, "prompt")
    if isinstance(body, schema.Embedding):
        return _check_inputs(body.input, "input")
    return _check_free(body)


def _check_together(body: schema.Chat) -> Refusal | None:
    """Refuse fields of which each is in order and which together say nothing, or two things."""
    if body.tool_choice is not None and (refused := _check_choice(body)):
        return refused
    if body.top_logprobs and not body.logprobs:
        return invalid("gateway.field-alone", "top_logprobs", needed="logprobs")
    newer = body.max_completion_tokens
    if newer and body.max_tokens not in {None, newer}:
        return invalid("gateway.not-both", "max_tokens", other="max_completion_tokens")
    return None


def _check_choice(body: schema.Chat) -> Refusal | None:
    """Refuse to call a tool that isn't there: engines answer all the same, without a call."""
    choice, tools = body.tool_choice, body.tools or ()
    if isinstance(choice, schema.ToolChoice):
        name = choice.function.name
        if name not in {tool.function.name for tool in tools}:
            return invalid("gateway.no-such-tool", "tool_choice", name=name[:SHOWN_MAX])
    elif choice == "required" and not tools:
        return invalid("gateway.field-alone", "tool_choice", needed="tools")
    return None


def _check_stop(given: str | list[str] | None) -> Refusal | None:
    if given is None:
        return None
    stops = [given] if isinstance(given, str) else given
    if any(len(stop.encode()) > schema.STOP_BYTES_MAX for stop in stops):
        return invalid("gateway.stop-too-long", "stop", limit=schema.STOP_BYTES_MAX)
    return None


def _check_free(body: schema.Chat | Asked) -> Refusal | None:
    return next((refused for path, free in _free(body) if (refused := _bound(free, path))), None)


def _check_inputs(given: str | list[Any], param: str) -> Refusal | None:
    if isinstance(given, str):
        return None
    kinds = {type(item) for item in given}
    if len(kinds) > 1:
        return invalid("gateway.mixed-inputs", param)
    if kinds != {int} and len(given) > schema.INPUTS_MAX:
        return invalid("gateway.too-many-inputs", param, limit=schema.INPUTS_MAX)
    if kinds == {int} and not all(0 <= token <= schema.TOKENS_MAX for token in given):
        return invalid("gateway.not-a-token", param)
    return None


def _free(body: schema.Chat | Asked) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a chat whose shape is the application's own."""
    if isinstance(body, Asked):
        for index, function in enumerate(body.tools or ()):
            yield f"tools[{index}].parameters", function.parameters
        if body.text and isinstance(body.text.format, JsonSchemaFormat):
            yield "text.format.schema", body.text.format.schema
        return
    for index, tool in enumerate(body.tools or ()):
        yield f"tools[{index}].function.parameters", tool.function.parameters
    if isinstance(body.response_format, schema.SchemaFormat):
        yield "response_format.json_schema.schema", body.response_format.json_schema.schema


def _bound(value: Any, path: str, depth: int = FREE_DEPTH_MAX) -> Refusal | None:
    """Refuse a free-form part that nests too deep or holds a number nobody can read back."""
    if isinstance(value, int) and abs(value) > schema.INT_MAX:
        return invalid("gateway.number-too-large", path)
    if not isinstance(value, dict | list):
        return None
    if not depth:
        return invalid("gateway.too-deep", path, limit=FREE_DEPTH_MAX)
    items = value.values() if isinstance(value, dict) else value
    return next((found for item in items if (found := _bound(item, path, depth - 1))), None)


def _find_nul(value: Any, path: str) -> str:
    """Return the path of the first string or name with a NUL, or an empty one."""
    if isinstance(value, str):
        return path if "\0" in value else ""
    if isinstance(value, list):
        named = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, dict):
        if any("\0" in key for key in value):
            return path
        named = ((f"{path}.{key}".lstrip("."), item) for key, item in value.items())
    else:
        return ""
    return next((found for where, item in named if (found := _find_nul(item, where))), "")


def _explain(kind: Kind, words: str) -> Refusal:
    """Turn the decoder's words into a refusal that says what to do."""
    found = _PATH.search(words)
    path = found[1] if found else ""
    words = _PATH.sub("", words)
    if unknown := _UNKNOWN.match(words):
        return _unknown(kind, path, unknown[1])
    if missing := _MISSING.match(words):
        field = f"{path}.{missing[1]}".lstrip(".")
        return invalid("gateway.field-missing", path or None, field=field)
    if not path:
        return invalid("gateway.not-an-object")
    if words.startswith("Expected `null`"):
        return invalid("gateway.not-available", path, "unsupported_parameter")
    if value := _VALUE.match(words):
        if path.endswith(".type"):
            return invalid("gateway.text-only", path, "text_only", value=value[1][:SHOWN_MAX])
        return invalid("gateway.not-a-choice", path, value=value[1][:SHOWN_MAX])
    fits = ((code, pattern.fullmatch(words)) for code, pattern in DECODER_SAYS.items())
    return next(invalid(code, path, **said.groupdict()) for code, said in fits if said)


def _unknown(kind: Kind, path: str, name: str) -> Refusal:
    """Name the field that was probably meant."""
    param = f"{path}.{name}".lstrip(".")[:SHOWN_MAX]
    known = _NESTED if path else _BODIES[kind].__struct_fields__
    near = get_close_matches(name[:64], known, n=1, cutoff=0.6)
    if near:
        return invalid("gateway.unknown-field-near", param, "unknown_field", near=near[0])
    return invalid("gateway.unknown-field", param, "unknown_field")
