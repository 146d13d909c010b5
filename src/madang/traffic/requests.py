"""Reading a request body: closed, bounded, and written again in our own bytes.

An engine never sees an application's bytes: what it gets is what was checked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Literal

from msgspec import DecodeError, Struct, ValidationError, json, structs, to_builtins

from madang.traffic import schema
from madang.traffic.refusal import Refusal, invalid

Kind = Literal["chat", "completions", "embeddings"]

FREE_DEPTH_MAX = 32
"""How deep a tool's or an answer's JSON schema may nest."""
BYTES_PER_TOKEN = 4
"""For estimates only, where an engine gave no usage."""

_BODIES: dict[Kind, type[Struct]] = {
    "chat": schema.Chat,
    "completions": schema.Completion,
    "embeddings": schema.Embedding,
}
_DECODERS = {kind: json.Decoder(body) for kind, body in _BODIES.items()}
_NESTED = {
    name
    for part in vars(schema).values()
    if isinstance(part, type) and issubclass(part, schema.Part) and part not in _BODIES.values()
    for name in part.__struct_fields__
}
_ENCODER = json.Encoder()
_DROPPED = structs.fields(schema.Ignored)
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)
_PATH = re.compile(r" - at `\$\.?(.*)`$", re.DOTALL)


class Request(Struct):
    """One checked request."""

    kind: Kind
    model: str
    """As the application named it."""
    stream: bool
    wants_usage: bool
    """False: the usage that we ask the engine for isn't passed on."""
    prompt_tokens: int
    """An estimate, from the length of the body."""
    body: schema.Body

    def encode(self, model: str) -> bytes:
        """Write the body for an engine that knows its model by this name."""
        self.body.model = model
        return _ENCODER.encode(self.body)


def read(kind: Kind, data: bytes) -> Request | Refusal:
    """Check a body; the refusal names the field at fault."""
    try:
        body: Any = _DECODERS[kind].decode(data)
    except ValidationError as error:
        return _explain(kind, str(error))
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return invalid("The body is not valid JSON in UTF-8.", code="invalid_json")
    refused = _check(body, data)
    if refused:
        return refused
    for field in _DROPPED:
        setattr(body, field.name, None)
    stream, wants_usage = _prepare(body)
    return Request(kind, body.model, stream, wants_usage, len(data) // BYTES_PER_TOKEN, body)


def _prepare(body: schema.Body) -> tuple[bool, bool]:
    """Bring the fields that steer the answer into one form; return (stream, usage wanted)."""
    if isinstance(body, schema.Embedding):
        return False, True
    if isinstance(body, schema.Chat) and body.max_completion_tokens:
        body.max_tokens, body.max_completion_tokens = body.max_completion_tokens, None
    wants_usage = bool(body.stream_options and body.stream_options.include_usage)
    body.stream_options = schema.StreamOptions(include_usage=True) if body.stream else None
    return bool(body.stream), wants_usage


def _check(body: schema.Body, data: bytes) -> Refusal | None:
    """Check what a type can't say."""
    if b"\\u0000" in data and (path := _find_nul(to_builtins(body), "")):
        return invalid(f"'{path}' holds a NUL character.", path)
    if isinstance(body, schema.Embedding):
        return _check_inputs(body.input, "input")
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or ()
    if any(len(stop.encode()) > schema.STOP_BYTES_MAX for stop in stops):
        return invalid(f"'stop' takes at most {schema.STOP_BYTES_MAX} bytes each.", "stop")
    if isinstance(body, schema.Completion):
        return _check_inputs(body.prompt, "prompt")
    return next((refused for path, free in _free(body) if (refused := _bound(free, path))), None)


def _check_inputs(given: str | list[Any], param: str) -> Refusal | None:
    if isinstance(given, str):
        return None
    kinds = {type(item) for item in given}
    if len(kinds) > 1:
        return invalid(f"'{param}' mixes text and token ids.", param)
    if kinds != {int} and len(given) > schema.INPUTS_MAX:
        return invalid(f"'{param}' takes at most {schema.INPUTS_MAX} entries.", param)
    if kinds == {int} and not all(0 <= token <= schema.TOKENS_MAX for token in given):
        return invalid(f"'{param}' holds a number that is no token id.", param)
    return None


def _free(body: schema.Chat) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a chat whose shape is the application's own."""
    for index, tool in enumerate(body.tools or ()):
        yield f"tools[{index}].function.parameters", tool.function.parameters
    if isinstance(body.response_format, schema.SchemaFormat):
        yield "response_format.json_schema.schema", body.response_format.json_schema.schema


def _bound(value: Any, path: str, depth: int = FREE_DEPTH_MAX) -> Refusal | None:
    """Refuse a free-form part that nests too deep or holds a number nobody can read back."""
    if isinstance(value, int) and abs(value) > schema.INT_MAX:
        return invalid(f"'{path}' holds a number out of range.", path)
    if not isinstance(value, dict | list):
        return None
    if not depth:
        return invalid(f"'{path}' nests deeper than {FREE_DEPTH_MAX} levels.", path)
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
    if unknown := _UNKNOWN.search(words):
        return _unknown(kind, path, unknown[1])
    if words.startswith("Expected `null`"):
        return invalid(f"'{path}' is not available here.", path, "unsupported_parameter")
    if words.startswith("Invalid value") and path.endswith(".type"):
        said = words.removeprefix("Invalid value ")
        return invalid(f"{said} is not available here: text and functions only.", path, "text_only")
    words = words.replace("`", "'")
    return invalid(f"'{path}': {words}." if path else f"{words}.", path or None)


def _unknown(kind: Kind, path: str, name: str) -> Refusal:
    """Name the field that was probably meant."""
    param = f"{path}.{name}".lstrip(".")[:256]
    known = _NESTED if path else _BODIES[kind].__struct_fields__
    near = get_close_matches(name[:64], known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return invalid(f"Unknown field '{param}'.{hint}", param, "unknown_field")
