"""The smoke gate: what every build must do before anybody's request reaches it.

Each check returns what it saw, or raises `Failed` with what it expected and what it got.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from madang.verify.identity import model_names
from madang.verify.subject import Failed, Subject

CHAT = "/v1/chat/completions"
CANCEL_S = 2.0
"""How soon after the client has gone the engine must have stopped working for it."""
CANCEL_TOKENS = 4096
"""More than any engine makes in CANCEL_S."""
QUESTION = [{"role": "user", "content": "Name three colours and say where you see them."}]
CALM: Mapping[str, Any] = {"messages": QUESTION, "temperature": 0, "seed": 7}
COLOURS = ("red", "green", "blue")
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": list(COLOURS)}},
    "required": ["colour"],
    "additionalProperties": False,
}

SCHEMA_TOKENS = 160
"""What a schema leaves free is white space: a small model may take all of it that it is given."""


def identity(subject: Subject) -> str:
    """It serves its model under its own uid, and answers nobody without its key."""
    _, body = subject.get("/v1/models")
    names = model_names(body)
    if subject.uid not in names:
        raise Failed(f"expected to find {subject.uid}, found {names}")
    status, _ = subject.get("/v1/models", token="not-its-key")  # noqa: S106  a wrong one on purpose
    if status not in {401, 403}:
        raise Failed(f"expected 401 without its key, got {status}")
    return f"serves {subject.uid}"


def answers(subject: Subject) -> str:
    """It answers a question with text."""
    answer = subject.post(CHAT, **CALM, max_tokens=8)
    text = _text(answer)
    if not text.strip():
        raise Failed("expected text, got none")
    return repr(text[:80])


def streams(subject: Subject) -> str:
    """It streams token by token, not all at once at the end."""
    pieces, used = [], 0
    options = {"include_usage": True}
    with subject.stream(CHAT, **CALM, max_tokens=6, stream_options=options) as events:
        for event in events:
            used = (event.get("usage") or {}).get("completion_tokens", used)
            pieces += [c["delta"]["content"] for c in event.get("choices", ()) if _has_text(c)]
    if len(pieces) < 2 or len(pieces) < used // 2:
        raise Failed(f"expected one piece per token, got {len(pieces)} for {used} tokens")
    return f"{len(pieces)} pieces for {used} tokens"


def max_tokens(subject: Subject) -> str:
    """It stops at `max_tokens`, and says that this is why."""
    answer = subject.post(CHAT, **CALM, max_tokens=3)
    used, finish = _usage(answer)["completion_tokens"], _choice(answer).get("finish_reason")
    if used > 3:
        raise Failed(f"expected at most 3 tokens, got {used}")
    if used == 3 and finish != "length":
        raise Failed(f"expected finish_reason length, got {finish}")
    return f"{used} tokens, {finish}"


def stop(subject: Subject) -> str:
    """It ends before a stop sequence that it is known to reach."""
    whole = _text(subject.post(CHAT, **CALM, max_tokens=8))
    words = whole.split()
    if len(words) < 2:
        raise Failed(f"expected a few words to stop at, got {whole!r}")
    word = words[1]
    cut = subject.post(CHAT, **CALM, max_tokens=8, stop=[word])
    if word in _text(cut):
        raise Failed(f"expected to end before {word!r}, got {_text(cut)!r}")
    return f"ends before {word!r}"


def json_schema(subject: Subject) -> str:
    """It keeps to a JSON schema."""
    wanted = {"name": "colour", "strict": True, "schema": SCHEMA}
    shape = {"type": "json_schema", "json_schema": wanted}
    text = _text(subject.post(CHAT, **CALM, max_tokens=SCHEMA_TOKENS, response_format=shape))
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Failed(f"expected JSON, got {text[:120]!r}") from error
    if not isinstance(value, dict) or value.keys() != {"colour"} or value["colour"] not in COLOURS:
        raise Failed(f"expected a value of the schema, got {text[:120]!r}")
    return text[:80]


def usage(subject: Subject) -> str:
    """Its token counts add up, streamed or not."""
    told = _usage(subject.post(CHAT, **CALM, max_tokens=4))
    options = {"include_usage": True}
    streamed: dict[str, Any] = {}
    with subject.stream(CHAT, **CALM, max_tokens=4, stream_options=options) as events:
        for event in events:
            streamed = event.get("usage") or streamed
    for counts in (told, _usage({"usage": streamed})):
        prompt, output = counts["prompt_tokens"], counts["completion_tokens"]
        if prompt < 1 or not 1 <= output <= 4 or counts["total_tokens"] != prompt + output:
            raise Failed(f"expected counts that add up, got {counts}")
    return f"{told['prompt_tokens']} + {told['completion_tokens']} = {told['total_tokens']}"


def cancels(subject: Subject) -> str:
    """It stops working for a client that has gone."""
    with subject.stream(CHAT, **CALM, max_tokens=CANCEL_TOKENS) as events:
        next(events, None)
    left_at = time.monotonic()
    while True:
        status, body = subject.get("/metrics")
        running = subject.metrics(body.decode(errors="replace")).get("running")
        waited_s = time.monotonic() - left_at
        if status != 200 or running is None:
            raise Failed(f"expected metrics that say how much is running, got HTTP {status}")
        if running == 0:
            return f"idle after {waited_s:.2f} s"
        if waited_s > CANCEL_S:
            raise Failed(f"expected to be idle within {CANCEL_S:g} s, still {running:g} running")
        time.sleep(0.02)


CHECKS: Mapping[str, Callable[[Subject], str]] = {
    "identity": identity,
    "answers": answers,
    "streams": streams,
    "max_tokens": max_tokens,
    "stop": stop,
    "json_schema": json_schema,
    "usage": usage,
    "cancels": cancels,
}


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Failed("expected one choice, got none")
    return choices[0]


def _text(answer: Mapping[str, Any]) -> str:
    content = (_choice(answer).get("message") or {}).get("content")
    if not isinstance(content, str):
        raise Failed(f"expected a message with content, got {content!r}")
    return content


def _has_text(choice: Mapping[str, Any]) -> bool:
    return bool((choice.get("delta") or {}).get("content"))


def _usage(answer: Mapping[str, Any]) -> Mapping[str, int]:
    counts = answer.get("usage") or {}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    if not all(isinstance(counts.get(name), int) for name in names):
        raise Failed(f"expected usage with {', '.join(names)}, got {counts}")
    return dict(counts)
