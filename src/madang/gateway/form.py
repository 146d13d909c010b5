"""Heads that come again: whoever asks, or answers, twice says the same head but for one number.

What the parser makes of a head depends on nothing but its bytes. Where all of these come again but
the digits of a length, it is not asked once more: that spares a request some fifteen calls, and one
with all the headers of an SDK thirty.
"""

from __future__ import annotations

import re

END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_DIGITS_MAX = 9
BYTES_MAX = 4096
"""Longer heads are read each time: every connection keeps one."""


class Form:
    """The bytes of a head before and behind the digits of its length."""

    __slots__ = ("_after", "_before", "_digits")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before, self._after, self._digits = before, after, len(before)

    def fits(self, data: bytes) -> tuple[int, int]:
        r"""Return where the body begins, and how long it is; (0, 0): this is another head.

        >>> Form(b"A\r\nContent-Length: ", b"\r\n\r\n").fits(b"A\r\nContent-Length: 12\r\n\r\n{")
        (25, 12)
        """
        if not data.startswith(self._before):
            return 0, 0
        start, after = self._digits, self._after
        end = data.find(after, start, start + _DIGITS_MAX + len(after))
        if end < start:
            return 0, 0
        digits = data[start:end]
        if not digits.isdigit():
            return 0, 0
        return end + len(after), int(digits)


def measured(data: bytes) -> tuple[int, Form | None]:
    """Return how long the message is that begins here, and the form of its head.

    -1: only the parser can tell; it also has to find that this is a message, and has a body.
    """
    end = data.find(END) + len(END)
    head = data[:end]
    found = _LENGTH.search(head)
    if found is None:
        return -1, None
    size = end + int(found[1])
    return size, Form(head[: found.start(1)], head[found.end(1) :]) if end <= BYTES_MAX else None
