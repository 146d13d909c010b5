"""What may leave a home in a support bundle: shapes that we know, and nothing a person wrote.

Text is taken by allow-list. Of a log only the lines that Madang itself writes are kept, and these
up to where a value begins, with the plain ones; of a traceback the places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

GAP = "…"
SECRET_BYTES_MIN = 8
"""Something shorter is a word, not a secret."""

_STAMP = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.,]?\d*Z?"
_LINE = re.compile(rf"(?:{_STAMP}|madang[\w.-]*:?|\[\d+ lines lost[^\]]*\])(?: .*)?")
_FRAME = re.compile(r'\s+File "(?P<path>[^"]*)", line (?P<line>\d+), in (?P<name>[\w<>.]+)')
_ENDS = re.compile(r"(?P<kind>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt))\b.*")
_TEXT = re.compile(r"['\"`\[{(].*|=.*")
"""Where a value may begin: the words of ours end there."""
_VALUE = re.compile(r"\b([a-z_]+)=([^,()]*)(?=[,)])")
_PLAIN = re.compile(r"-?\d+(\.\d+)?|[a-z]{1,16}(?:-[a-z]{1,16}){0,3}|(?:service|replica|node)/\S+")
_LONG = re.compile(r"[A-Za-z0-9+/_=.-]{25,}|mdg_\w*|[0-9a-f]{16,}|[Bb]earer\s+\S+")
_WORDS = re.compile(r"[A-Za-z0-9 .,:;/%…_+-]*")
WORDS_MAX = 24


def log_lines(text: str) -> list[str]:
    """Return what may be shown of a log of ours; what is left out is counted."""
    kept: list[str] = []
    hidden = 0
    for line in text.splitlines():
        said = _line(line)
        if said is None:
            hidden += 1
            continue
        if hidden:
            kept.append(f"({hidden} lines left out)")
            hidden = 0
        kept.append(said)
    return [*kept, f"({hidden} lines left out)"] if hidden else kept


def _line(line: str) -> str | None:
    if frame := _FRAME.fullmatch(line):
        where = frame["path"].rpartition("site-packages/")[2].rpartition("/src/")[2]
        return f'  File "{Path(where).as_posix()}", line {frame["line"]}, in {frame["name"]}'
    if line.startswith("Traceback (most recent call last)"):
        return line[:34]
    if ends := _ENDS.fullmatch(line):
        return ends["kind"]
    if _LINE.fullmatch(line):
        return _plain(line)
    return None


def _plain(line: str) -> str:
    """Return a line up to where a value may begin, and after that the values that are plain.

    >>> _plain("2026-01-01 10:00:00,1 madang.control store.busy (waiting=9, cause=Why, 'x'?)")
    '2026-01-01 10:00:00,1 madang.control store.busy (waiting=9, …)'
    """
    head = _TEXT.sub("", line).rstrip()
    said = " ".join(head.split(" ")[:WORDS_MAX])
    said = _LONG.sub(GAP, said) if _WORDS.fullmatch(said) else f"{said[:23]} {GAP}"
    if head == line:
        return said
    values = [f"{k}={v}" for k, v in _VALUE.findall(line) if _PLAIN.fullmatch(v)]
    return f"{said} ({', '.join([*values, GAP])})"


def picked(value: Any, keys: frozenset[str]) -> Any:
    """Return of nested JSON what stands under these keys, and of that only plain values.

    >>> picked({"phase": "ready", "title": "my secret", "pid": 7}, frozenset({"phase", "pid"}))
    {'phase': 'ready', 'pid': 7}
    """
    if isinstance(value, Mapping):
        return {key: picked(each, keys) for key, each in value.items() if key in keys}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [picked(each, keys) for each in value]
    if isinstance(value, str):
        return GAP if _LONG.search(value) else value
    return value


def without(text: str, secrets: Iterable[str]) -> str:
    """Return a text without these secrets, whatever went before: the last wall."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= SECRET_BYTES_MIN:
            text = text.replace(secret, GAP)
    return text
