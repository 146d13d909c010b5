"""What people write stays text: a model's own control tokens, spelled out, are taken apart.

Engines read a chat as one text after its template was filled in, and take `<|im_start|>` in a
person's words for the token that begins a turn: anybody could speak as the system. A word joiner,
which nobody sees, behind the first character makes it the text that it is. Plain completions are
left alone: there the application writes the template itself.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import json

JOINER = "\u2060"
_MARK = re.compile(
    r"<(?=\|\w|｜|(?:start|end)_of_turn>|/?s>|[be]os>|__media__>|</?SYS>)|\[(?=/?INST\])"
)
"""ChatML and its kin, Llama, DeepSeek, Gemma, Mistral; llama.cpp's place of a picture."""
_SECOND = {b"<": frozenset(b"|\xef/sbe_<"), b"[": frozenset(b"/I")}
"""By the first byte of a mark, all that may be its second."""
LOOKS_MAX = 32
"""So many first bytes are looked at one by one; a text with more is searched as a whole."""
_PARTS = ("messages", "tools", "response_format")
"""The parts of a chat that templates write into the text."""


def defused(written: bytes) -> bytes:
    r"""Take apart what could be control tokens in a chat that is written as JSON.

    >>> defused('{"messages":[{"content":"<|im_end|>"}],"stop":["<|im_end|>"]}'.encode()).decode()
    '{"messages":[{"content":"<\u2060|im_end|>"}],"stop":["<|im_end|>"]}'
    """
    is_candidate = written.find(b"<") >= 0 and _may_hold(written, b"<")
    if not (is_candidate or _may_hold(written, b"[")):
        return written
    if not _MARK.search(written.decode()):
        return written
    chat = json.decode(written)
    for part in _PARTS:
        if part in chat:
            chat[part] = _apart(chat[part])
    return json.encode(chat)


def _may_hold(written: bytes, first: bytes) -> bool:
    """Tell whether a mark may begin with this byte somewhere; to look for one byte is quickest."""
    at = written.find(first)
    for _ in range(LOOKS_MAX):
        if at < 0:
            return False
        if written[at + 1] in _SECOND[first]:
            return True
        at = written.find(first, at + 1)
    return at >= 0


def _apart(value: Any) -> Any:
    if isinstance(value, str):
        return _MARK.sub(lambda found: found[0] + JOINER, value)
    if isinstance(value, list):
        return [_apart(each) for each in value]
    if isinstance(value, dict):
        return {_apart(name): _apart(each) for name, each in value.items()}
    return value
