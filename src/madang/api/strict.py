"""JSON and queries that every reader reads alike; what could be read in two ways is refused.

Stricter than the standard library: no NaN, no infinity, no lone surrogate, no NUL, no key twice,
no UTF-16, no endless number. The refusal names the field.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any
from urllib.parse import unquote_to_bytes

from madang.errors import Rejected, Unfit

DEPTH_MAX = 64
VALUES_MAX = 200_000
"""No apply of ours has as many values: 1,000 documents of some twenty."""
DIGITS_MAX = 400
"""The longest number that is read at all: every float can be written in so many."""
PATH_LENGTH_MAX = 200
_UNFIT = re.compile(r"[\0\ud800-\udfff]")
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})")


class _Twice(dict[str, Any]):
    """An object that says a key twice."""

    key = ""


def check_json(body: bytes) -> None:
    """Refuse what is no JSON, or JSON that others would read differently; raises `Rejected`."""
    if not body:
        return
    if body.count(b",") + body.count(b"[") + body.count(b"{") > VALUES_MAX:
        raise Rejected("api.json-too-long", limit=VALUES_MAX)
    try:
        value = _DECODER.decode(body.decode())
    except RecursionError as error:
        raise Rejected("api.json-too-deep", key="body", limit=DEPTH_MAX) from error
    except ValueError as error:  # also what isn't UTF-8
        raise _not_json(error) from error
    _walk(value)


def _not_json(error: ValueError) -> Rejected:
    cause = str(error)[:PATH_LENGTH_MAX]
    if not isinstance(error, json.JSONDecodeError):
        return Rejected("api.not-json", cause=cause, because="value.not-utf8")
    return Rejected(
        "api.not-json", cause=cause, because="value.json-invalid",
        line=error.lineno, column=error.colno,
    )  # fmt: skip


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    twice = _Twice(made)
    twice.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return twice


def _number(digits: str) -> float:
    """Read a number far enough to judge it: infinite is what nobody can hold."""
    return float(digits) if len(digits) <= DIGITS_MAX else math.inf


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_number, parse_float=_number, parse_constant=float
)


def _walk(body: Any) -> None:
    """Look at every value, with its path."""
    left = [(body, "body", 1)]
    while left:
        value, path, depth = left.pop()
        if isinstance(value, str):
            _check_text(value, path)
        elif isinstance(value, float) and not math.isfinite(value):
            raise _unfit(path, "value.finite-number")
        elif isinstance(value, dict | list):
            if depth > DEPTH_MAX:
                raise Rejected("api.json-too-deep", key=_short(path), limit=DEPTH_MAX)
            if isinstance(value, _Twice):
                raise Rejected("api.twice", key=_short(f"{path}.{value.key}"))
            named = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in named:
                _check_text(str(key), path)
                left.append((item, f"{path}.{key}", depth + 1))


def _check_text(text: str, path: str) -> None:
    if _UNFIT.search(text):
        raise _unfit(path, "value.half-text")


def _unfit(path: str, code: str) -> Rejected:
    return Rejected("api.value", "", key=_short(path), **Unfit(code).why())


def _short(path: str) -> str:
    """Return a path that may be said back, and its end where it is long."""
    fit = _UNFIT.sub("\ufffd", path)
    return fit if len(fit) <= PATH_LENGTH_MAX else f"…{fit[-PATH_LENGTH_MAX:]}"


def check_query(query: bytes) -> None:
    """Refuse a query that says a parameter twice, or isn't text; raises `Rejected`."""
    text = query.decode("latin-1")
    if _ESCAPES.search(text):
        raise _unfit("query", "value.bare-percent")
    names = set()
    for pair in filter(None, text.split("&")):
        try:
            name, _, value = unquote_to_bytes(pair.replace("+", " ")).decode().partition("=")
        except UnicodeDecodeError as error:
            raise _unfit("query", "value.not-utf8") from error
        _check_text(name, "query")
        _check_text(value, f"query.{name}")
        if name in names:
            raise Rejected("api.twice", key=_short(f"query.{name}"))
        names.add(name)
