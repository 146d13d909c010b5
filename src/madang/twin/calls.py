"""Traces of requests to a model: who asked when, with how long a prompt, for how long an answer.

JSON lines in the form of the Mooncake traces (`timestamp` in ms, `input_length`, `output_length`,
and `hash_ids`: one number for each block of 512 tokens, which stands for the prompt up to there),
or CSV in that of the Azure traces (`TIMESTAMP`, a date and time or seconds, `ContextTokens`,
`GeneratedTokens`: nothing of what prompts share). Other fields are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from math import isfinite

from madang.answers import Json
from madang.errors import Rejected
from madang.twin.jobs import instant_s
from madang.twin.trace import MORE, read_rows

BLOCK_TOKENS = 512
TOKENS_MAX = 1 << 20
CALLS_MAX = 1_000_000
SPAN_MAX_MS = 1e15
ID_MAX = 1 << 63
TENANTS = 20
"""Traces name no tenants: those whose second block is alike, by its number, are taken for one; the

first is often a text that all share.
"""
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
FIELDS = ("timestamp", "input_length", "output_length")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a trace."""

    came_s: float
    """Seconds after the first."""
    prompt: int
    """Tokens."""
    output: int
    """Tokens."""
    chain: tuple[int, ...] = ()
    """A number for each whole block of the prompt; equal ones stand for equal beginnings."""
    tenant: str = "t0"


def read_calls(lines: Iterable[str], file: str) -> list[Asked]:
    """Read a trace: who came first in front."""
    rest = iter(lines)
    head = next(rest, "")
    whole = chain([head], rest)
    if not head:
        raise Rejected("twin.no-calls", subject=file)
    is_json = head.lstrip("\ufeff \t").startswith(("{", "["))
    found: list[Asked] = []
    named = {each.strip().strip('"') for each in head.removeprefix("\ufeff").split(",")}
    if not is_json and (missing := [each for each in COLUMNS if each not in named]):
        raise Rejected("twin.call-columns", subject=file, columns=", ".join(missing))
    for line, asked in _of_json(whole, file) if is_json else _of_csv(whole, file):
        if len(found) == CALLS_MAX:
            raise Rejected("twin.too-many-calls", file=file, line=line, limit=CALLS_MAX)
        found.append(asked)
    if not found:
        raise Rejected("twin.no-calls", subject=file)
    first_s = min(each.came_s for each in found)
    moved = (replace(each, came_s=each.came_s - first_s) for each in found)
    return sorted(moved, key=lambda each: each.came_s)


def _of_json(lines: Iterable[str], file: str) -> Iterator[tuple[int, Asked]]:
    for number, line in enumerate(lines, 1):
        if not line.strip("\ufeff \t\r\n"):
            continue
        try:
            said: object = json.loads(line.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise Rejected("twin.bad-json-line", file=file, line=number)
        yield number, _from_json(said, number, file)


def _from_json(said: Json, line: int, file: str) -> Asked:
    for field in FIELDS:
        if field not in said:
            raise Rejected("twin.call-field", file=file, line=line, column=field)
    written = [*(said[field] for field in FIELDS), said.get("hash_ids", [])]
    at_ms, prompt, output, ids = written
    is_time = _is_number(at_ms) and 0 <= at_ms <= SPAN_MAX_MS
    listed = isinstance(ids, list) and all(_is_count(each, 0, ID_MAX) for each in ids)
    good = (is_time, _is_count(prompt, 1), _is_count(output, 0),
            listed and len(ids) * BLOCK_TOKENS < TOKENS_MAX + BLOCK_TOKENS)  # fmt: skip
    for field, value, is_good in zip((*FIELDS, "hash_ids"), written, good, strict=True):
        if not is_good:
            raise _bad(file, line, field, json.dumps(value))
    whole = tuple(ids[: prompt // BLOCK_TOKENS])
    tenant = f"t{ids[1] % TENANTS}" if len(ids) > 1 else "t0"
    return Asked(at_ms / 1000, prompt, max(1, output), whole, tenant)


def _of_csv(lines: Iterable[str], file: str) -> Iterator[tuple[int, Asked]]:
    for line, row in read_rows(lines, file, COLUMNS):
        if MORE in row:
            raise Rejected("twin.long-row", file=file, line=line, columns=len(row) - 1)
        written = [row[column].strip() for column in COLUMNS]
        at_s, prompt, output = instant_s(written[0]), _count(written[1]), _count(written[2])
        good = (at_s is not None, _is_count(prompt, 1), _is_count(output, 0))
        for column, value, is_good in zip(COLUMNS, written, good, strict=True):
            if not is_good:
                raise _bad(file, line, column, value)
        assert at_s is not None
        yield line, Asked(at_s, prompt, max(1, output))


def _bad(file: str, line: int, column: str, value: str) -> Rejected:
    return Rejected("twin.bad-call", file=file, line=line, column=column, value=value[:40])


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, float) and isfinite(value))


def _is_count(value: object, least: int, most: int = TOKENS_MAX) -> bool:
    return isinstance(value, int) and type(value) is int and least <= value <= most
