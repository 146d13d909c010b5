"""A "no" to an application: a value. Its sentence is a code, which `gateway` says in a language.

The official client picks its error class by status; `code` is stable and may be matched on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import DecodeError, Struct, json

from madang.traffic.table import Value, Waiting

WORDS_CHARACTERS_MAX = 500
"""An engine's own words are cut to this length."""

RETRY_AFTER_S = 1
"""What a client is told to wait when nothing better is known."""

Headers = list[tuple[bytes, bytes]]

TOO_LONG = "context_length_exceeded"
"""The OpenAI API's code for a request that is longer than the model's context: programs look for
it, shorten the conversation and ask again."""

_TOO_LONG = (TOO_LONG, "exceed_context_size_error")
"""What llama.cpp and others say of it, as a code or a type."""
_CONTEXT = re.compile(r"(maximum|model's|available) context (length|size)", re.IGNORECASE)
"""What vLLM and SGLang say of it, who have no code for it."""

_ENGINE_FAULTS = {401, 403, 404, 405, 407}
"""Answers of an engine that blame us, not the application."""


class Limited(Struct, frozen=True):
    """The limit that a request would break."""

    limit: str
    """As people set it: `requests_per_minute`, …"""
    of: str
    """Whose it is: `key/app`, `project/acme/lab`, `organization/acme`."""
    most: float
    left: float
    asked: float
    """What the request could use."""
    resets_s: int
    """In so many seconds there is enough again."""


class Refusal(Struct, frozen=True):
    """Why a request is not served, or not to its end."""

    status: int
    code: str
    """For programs."""
    message: str
    """For people: a code of `messages`."""
    values: Mapping[str, Value] = {}
    """What its sentence is filled with, beside `param`."""
    param: str | None = None
    """The part of the request it is about, as the application wrote it: `messages[0].content`."""
    waiting: Waiting | None = None
    """What keeps a model from answering."""
    retry_after_s: int | None = None
    allow: str = ""
    """The methods that this path knows."""
    close: bool = False
    """True: the connection can't be trusted with another request."""
    limited: Limited | None = None
    """The limit that stands in the way."""
    more: bytes = b""
    """Further headers as they are written, each with a line end before it."""

    @property
    def headers(self) -> Headers:
        """The headers this answer needs beside its type and length, and `more`."""
        found: Headers = []
        if self.retry_after_s is not None:
            found.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.allow:
            found.append((b"allow", self.allow.encode()))
        if self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        return found


def invalid(
    message: str, param: str | None = None, code: str = "invalid_request", **values: Value
) -> Refusal:
    """The request itself is wrong; sending it again won't help."""
    return Refusal(400, code, message, values, param)


def unavailable(
    code: str, message: str, retry_after_s: int = RETRY_AFTER_S, **values: Value
) -> Refusal:
    """Nothing is wrong with the request; the same may work a little later."""
    return Refusal(503, code, message, values, retry_after_s=retry_after_s)


_LIMITS = {
    "requests_per_minute": "gateway.limit-requests-per-minute",
    "tokens_per_minute": "gateway.limit-tokens-per-minute",
    "concurrent": "gateway.limit-concurrent",
    "tokens_per_day": "gateway.limit-tokens-per-day",
    "krw_per_month": "gateway.limit-krw-per-month",
}
_ALONE, _NOTHING = "gateway.limit-too-small", "gateway.limit-nothing"
_BUDGETS = {"tokens_per_day", "krw_per_month"}


def limited(limit: Limited, headers: bytes) -> Refusal:
    """A limit is reached; or the request alone is more than it: then later is no better."""
    values: dict[str, Value] = {
        "of": limit.of, "most": limit.most, "left": limit.left, "asked": limit.asked,
        "seconds": limit.resets_s, "kind": "key" if limit.of.startswith("key/") else "quota",
    }  # fmt: skip
    if limit.asked > limit.most:
        values["limit"] = limit.limit
        said = _ALONE if limit.most else _NOTHING
        return Refusal(429, "request_over_limit", said, values, limited=limit, more=headers)
    code = "budget_spent" if limit.limit in _BUDGETS else "rate_limit_exceeded"
    return Refusal(
        429, code, _LIMITS[limit.limit], values, retry_after_s=limit.resets_s, limited=limit,
        more=headers,
    )  # fmt: skip


OVERLOADED = unavailable("overloaded", "gateway.overloaded")
"""This gateway is at one of its bounds, or lacks open files or memory."""


def slow_body(body_s: float) -> Refusal:
    """The body did not arrive in time."""
    return Refusal(408, "body_too_slow", "gateway.body-too-slow", {"seconds": body_s}, close=True)


class _Words(Struct):
    message: str = ""
    type: object = None
    code: object = None


class _EngineError(Struct):
    error: _Words | str | None = None
    message: str = ""
    detail: object = None


def from_engine(status: int, body: bytes) -> Refusal:
    """Turn an engine's refusal into ours: its words for the application's mistakes, ours else.

    >>> from_engine(400, b'{"error": {"code": 400, "message": "too long"}}').values["words"]
    'too long'
    """
    if not 400 <= status < 500 or status in _ENGINE_FAULTS:
        return Refusal(502, "engine_failed", "gateway.engine-failed", {"status": status})
    try:
        said = json.decode(body, type=_EngineError)
    except (DecodeError, UnicodeDecodeError):
        said = _EngineError()
    words = said.error.message if isinstance(said.error, _Words) else said.error
    words = words or said.message or (said.detail if isinstance(said.detail, str) else "")
    words = words[:WORDS_CHARACTERS_MAX]
    if _is_too_long(said.error, words):
        said_so = words.rstrip(". ") or TOO_LONG
        return Refusal(400, TOO_LONG, "gateway.context-exceeded", {"words": said_so})
    return Refusal(
        status, "refused_by_engine", "gateway.engine-refused", {"status": status, "words": words}
    )


def _is_too_long(error: _Words | str | None, words: str) -> bool:
    """Tell whether a request was longer than the model's context: named so, or said in words."""
    if isinstance(error, _Words) and (error.code in _TOO_LONG or error.type in _TOO_LONG):
        return True
    return _CONTEXT.search(words) is not None
