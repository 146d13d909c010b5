"""How a command speaks: sentences in the user's language, plain columns, or JSON.

Answers go to stdout, progress and errors to stderr. Knows no command and no server.
"""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from madang import messages
from madang.errors import MadangError, Value
from madang.plain import inert, inert_json

GAP = "  "
SPANS = (
    ("span.days", 86_400), ("span.hours", 3600), ("span.minutes", 60), ("span.seconds", 1),
)  # fmt: skip


def say(*parts: str, end: str = "\n", to: TextIO | None = None) -> None:
    """Write text for a person, by default on stdout; nothing in it can act on the terminal.

    The one way out of every command: what it tells may come from a stranger.
    """
    print(*map(inert, parts), end=end, file=to or sys.stdout, flush=True)


def say_over(text: str, is_last: bool) -> None:
    """Write a line of progress on stderr, over the one before it."""
    sys.stderr.write("\r\033[K")
    say(text, end="\n" if is_last else "", to=sys.stderr)


def words(code: str, values: Mapping[str, Value | None] | None = None) -> messages.Sentence:
    """Return a sentence in the user's language."""
    return messages.say(code, values or {}, messages.language(os.environ))


def word(code: str, **values: Value | None) -> str:
    """Return a sentence's text in the user's language."""
    return words(code, values).text


def tell(code: str, **values: Value | None) -> None:
    """Say a sentence on stdout."""
    say(word(code, **values))


def note(code: str, **values: Value | None) -> None:
    """Say a sentence on stderr: it is on the way, not the answer."""
    say(word(code, **values), to=sys.stderr)


def next_step(code: str, **values: Value | None) -> None:
    """Name the next command, to a person only."""
    if sys.stdout.isatty():
        say(word(code, **values))


def show_json(value: object, one_line: bool = False) -> None:
    """Print one JSON value; as one line when it is one of a stream."""
    print(_json(value, None if one_line else 2), flush=True)


def _json(value: object, indent: int | None = None) -> str:
    return inert_json(json.dumps(value, ensure_ascii=False, indent=indent))


def phase(name: str) -> str:
    """Return a phase as people read it.

    >>> phase("of a newer server")
    'of a newer server'
    """
    return word(f"phase.{name}") if messages.knows(f"phase.{name}") else name


def reason(found: Mapping[str, Any] | None, subject: str = "") -> str:
    """Return the sentence of a reason, or nothing."""
    return word(found["code"], **{"subject": subject, **found["values"]}) if found else ""


def happening(code: str, subject: str, why: Mapping[str, Any] | None) -> str:
    """Return what happens or happened, and why where that is known."""
    values = {"subject": subject, **(why["values"] if why else {})}
    cause = why["code"] if why and why["code"] != code else ""
    because = [word(cause, **values)] if messages.knows(cause) else []
    return ": ".join([word(code, **values), *because])


def size(number_bytes: int) -> str:
    """Write a size as people do, decimal as on the card's box.

    >>> size(98362432), size(0)
    ('98.4MB', '')
    """
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if number_bytes >= one:
            return f"{round(number_bytes / one, 1):g}{unit}"
    return f"{number_bytes}B" if number_bytes else ""


def power(power_kw: float | None) -> str:
    """Write what something draws as people do; nothing where nobody knows it.

    >>> power(1234.567), power(0.0), power(None)
    ('1234.57kW', '0kW', '')
    """
    return "" if power_kw is None else f"{round(power_kw, 2):.12g}kW"


def token_price(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """Write what a million tokens cost: of input, of what had been kept, written.

    One that is derived from what accelerators cost is marked.

    >>> token_price({"price": {"input": 300.0, "cached": None, "output": 1200.0}}, {})
    '300/300/1,200'
    >>> krw = {"input": 0.25, "cached": 0.0625, "output": 1.0}
    >>> token_price({"price": None}, {"tariff": {"krw": krw}}), token_price({}, {"tariff": None})
    ('≈ 0.25/0.0625/1', '')
    """
    said, tariff = spec.get("price"), status.get("tariff")
    krw = said or (tariff and tariff["krw"])
    if not krw:
        return ""
    cached = krw["input"] if krw["cached"] is None else krw["cached"]
    told = "/".join(f"{each:,.10g}" for each in (krw["input"], cached, krw["output"]))
    return told if said else f"≈ {told}"


def moment(at: float) -> str:
    """Return a time of the user's clock, without the day when it is today."""
    then = time.localtime(at)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns under the headings with these codes; empty columns are left out."""
    written = [[inert(str(cell)) for cell in row] for row in rows]
    kept = [i for i in range(len(headings)) if not written or any(row[i] for row in written)]
    lines = [[word(headings[i]) for i in kept], *([row[i] for i in kept] for row in written)]
    widths = [max(width_of(line[i]) for line in lines) for i in range(len(kept))]
    for line in lines:
        cells = (padded(cell, width) for cell, width in zip(line, widths, strict=True))
        say(GAP.join(cells).rstrip())


def width_of(text: str) -> int:
    """Return how many columns a terminal gives it: Hangul takes two each.

    >>> width_of("마당 up")
    7
    """
    return sum(map(_columns, text))


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def padded(text: str, columns: int) -> str:
    """Return it with blanks behind it, so many columns wide.

    >>> padded("마당", 6)
    '마당  '
    """
    return text + " " * (columns - width_of(text))


def clipped(text: str, columns: int) -> str:
    """Return as much of its beginning as so many columns hold.

    >>> clipped("마당 up", 6), clipped("up", 6)
    ('마당 …', 'up')
    """
    if width_of(text) <= columns:
        return text
    kept, left = "", columns - 1
    for letter in text:
        left -= _columns(letter)
        if left < 0:
            break
        kept += letter
    return kept + "…"


def span(seconds: float) -> str:
    """Write how long something takes, by its two largest units.

    >>> span(7.4), span(65), span(7500), span(90000)
    ('7 s', '1 min 5 s', '2 h 5 min', '1 d 1 h')
    """
    left, parts = round(seconds), list[str]()
    for code, one in SPANS:
        count, left = divmod(left, one)
        if count or (not parts and one == 1):
            parts.append(word(code, count=count))
    return " ".join(parts[:2])


def complain(error: MadangError, as_json: bool) -> None:
    """Say on stderr what went wrong and what to do, as two lines or one JSON object."""
    said = words(error.code, error.values)
    if not messages.knows(error.code):
        said = messages.Sentence(*[*getattr(error, "__notes__", []), str(error), ""][:2])
    if as_json:
        body = {"code": error.code, "subject": error.subject, "values": error.values}
        body |= {"message": said.text, "hint": said.hint}
        print(_json({"error": body}), file=sys.stderr)
        return
    place = "{file}:{line}: ".format_map(error.values) if "file" in error.values else ""
    say("\n".join(filter(None, [place + said.text, said.hint])), to=sys.stderr)
