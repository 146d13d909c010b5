"""Every sentence people read, by its code, in English and Korean. Knows nobody who says one.

A code has a `text` and may have a `hint`, which names the next command. A value that a sentence
wants and does not get shows as its name in braces: a test finds it, nobody's call fails of it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from madang.errors import Value
from madang.plain import inert

LANGUAGES = ("en", "ko")


class Sentence(NamedTuple):
    """What is said, and what to do next (may be empty)."""

    text: str
    hint: str = ""


class _Gaps(dict[str, str]):
    """Values of a sentence; a missing one stays visible."""

    def __missing__(self, name: str) -> str:
        return f"{{{name}}}"


def language(environ: Mapping[str, str]) -> str:
    """Choose the language: MADANG_LANG, else the locale; Korean or English.

    >>> language({"LANG": "ko_KR.UTF-8"}), language({"LANG": "ko_KR.UTF-8", "MADANG_LANG": "en"})
    ('ko', 'en')
    """
    names = ("MADANG_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next((environ[name] for name in names if environ.get(name)), "")
    return "ko" if chosen.lower().startswith("ko") else "en"


def knows(code: str) -> bool:
    """Tell whether there is a sentence for this code."""
    return code in _sentences("en")


def load() -> None:
    """Read every sentence now, so that nobody waits for a file when one is said."""
    for lang in LANGUAGES:
        _sentences(lang)


def say(code: str, values: Mapping[str, Value | None], lang: str) -> Sentence:
    """Fill the sentence of a code; a code without one is said as it is.

    A cause that has a code of its own, `because`, is said in the words of that.

    >>> say("control.unreachable", {"subject": "http://127.0.0.1:7070"}, "en").hint
    'Start it with: madang up'
    """
    sentences = _sentences(lang if lang in LANGUAGES else "en")
    found = sentences.get(code)
    if found is None:
        return Sentence(code)
    filled = _Gaps({name: _written(value) for name, value in values.items()})
    because = sentences.get(filled.get("because", ""))
    if because:
        filled["cause"] = because.text.format_map(filled)
    said = (part.format_map(filled).rstrip(" ") for part in found)  # its last value may be empty
    return Sentence(*said)


def _written(value: Value | None) -> str:
    """Write a number as people do, and everything else on one line, without what could act.

    What says no more than thousandths may be meant to be typed, and is written as it is.
    """
    if isinstance(value, float) and round(value, 3) == value and abs(value) < 10**12:
        return f"{value:.15g}"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else inert(" ".join(str(value).split()))


@cache
def _sentences(lang: str) -> Mapping[str, Sentence]:
    tables = tomllib.loads((files(__name__) / f"{lang}.toml").read_text(encoding="utf-8"))
    return {code: Sentence(**table) for code, table in tables.items()}
