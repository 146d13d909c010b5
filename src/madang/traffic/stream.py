"""A stream on its way through: whole events only, with the usage read as it passes.

Bytes in, bytes out. An event ends with a blank line; half an event is held back, because an
error glued to half an event can't be read by any client. Here, and wherever else each byte of an
answer passes, `find` is called and not `in`, which takes three times as long.
"""

from __future__ import annotations

import re

from madang.traffic.usage import Tokens, tokens_in

_HAS_USAGE = re.compile(rb'"usage":\s*\{')
_DONE = re.compile(rb"^data: ?\[DONE\]\r?\n\r?\n", re.MULTILINE)
_FIELD = re.compile(rb"\s*(?:data|event|id|retry)?:")
_BLANKS = (b"\n\n", b"\r\n\r\n")
_BLANK = re.compile(rb"\r?\n\r?\n")


def _is_plain(data: bytes) -> bool:
    """Tell whether it is one event of one line of JSON without usage, as nearly all are."""
    size = len(data)
    return (
        data.find(b"\n") == size - len(b"\n\n")
        and data.startswith(b"data: {")
        and data.find(b'"usage"') < 0
        and data.endswith(b"\n")
    )


class EventStream:
    """The events of one answer."""

    tokens: Tokens | None = None
    pieces: int = 0
    """`data:` lines passed on, without the last: about one token each."""
    done: bool = False
    """The engine has said that this was all; what comes after it is dropped."""
    _held: bytes = b""

    def __init__(self, wants_usage: bool = False, event_bytes_max: int = 0) -> None:
        self.wants_usage = wants_usage
        self.event_bytes_max = event_bytes_max

    def feed(self, data: bytes) -> bytes:
        """Take what the engine sent; return what may go on to the client.

        Raises OverflowError for an event over the bound, ValueError for what begins as no event.
        """
        if self.done:
            return b""
        if self.pieces and not self._held and _is_plain(data):
            self.pieces += 1
            return data
        whole = data if not self._held and data.endswith(b"\n\n") else self._split(data)
        if whole and not self.pieces and not _FIELD.match(whole):
            raise ValueError
        if whole.find(b'"usage"') >= 0 and _HAS_USAGE.search(whole):
            whole = self._read_usage(whole)
        if whole.find(b"[DONE]") >= 0 and (done := _DONE.search(whole)):
            self.done = True
            self.pieces -= 1
            whole = whole[: done.end()]
        self.pieces += whole.startswith(b"data:") + whole.count(b"\ndata:")
        return whole

    def _split(self, data: bytes) -> bytes:
        """Return the whole events so far and hold back the rest."""
        data = self._held + data
        if data.endswith(b"\n\n"):
            self._held = b""
            return data
        end = max(data.rfind(blank) + len(blank) if blank in data else 0 for blank in _BLANKS)
        self._held = data[end:]
        if len(self._held) > self.event_bytes_max:
            raise OverflowError
        return data[:end]

    def _read_usage(self, whole: bytes) -> bytes:
        """Note the usage; cut the event that holds nothing else, unless it was asked for."""
        kept, start = [], 0
        for blank in _BLANK.finditer(whole):
            event, start = whole[start : blank.end()], blank.end()
            tokens, alone = tokens_in(event.partition(b"data:")[2])
            self.tokens = tokens or self.tokens
            if self.wants_usage or not (tokens and alone):
                kept.append(event)
        return b"".join(kept)
