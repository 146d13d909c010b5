"""Text that somebody else wrote, made harmless: for terminals, logs and sentences.

A name, a log line or an answer may hold what moves a cursor, turns the direction of writing or is
not to be seen at all. Such characters are shown as their escapes. Secrets are never shown.
"""

from __future__ import annotations

import re
import unicodedata

_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but no tab and no new line
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"  # unseen, turning round, half a character
)
_SECRET = re.compile(r"mdg_[0-9A-Za-z]{8,}|(?i:bearer)\s+[^\s'\"\\,}]+")
HIDDEN = "[hidden]"


def is_plain(text: str) -> bool:
    """Tell whether a text holds nothing that could act on who reads it."""
    return _ODD.search(text) is None


def inert(text: str) -> str:
    r"""Return the text with everything that could act shown as its escape.

    >>> inert("\x1b[2Jred\u202e"), inert("마당 👩‍💻")
    ('\\x1b[2Jred\\u202e', '마당 👩\u200d💻')
    """
    return _ODD.sub(_escaped, text)


def inert_json(text: str) -> str:
    r"""Return JSON of the same meaning, with what could act in JSON's own escapes.

    >>> inert_json('{"title": "\u202e"}')
    '{"title": "\\u202e"}'
    """
    return _ODD.sub(_escaped_json, text)


def described(character: str) -> str:
    """Say which character it is, in plain letters.

    >>> described("а")
    'U+0430 CYRILLIC SMALL LETTER A'
    """
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def redacted(text: str) -> str:
    """Return the text without keys.

    >>> redacted("Authorization: Bearer abc, mdg_0123456789")
    'Authorization: [hidden], [hidden]'
    """
    return _SECRET.sub(HIDDEN, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
