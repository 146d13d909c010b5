"""A socket before and after the engine: content rules, personal data, marking. Nothing is in it.

An inspector sees each request once it is checked and its model is found, and each answer as the
engine gave it: the events of a stream as they come, or the whole. It passes on what it was given,
or something else in its place, or refuses with a reason. It computes and does nothing else: no
clock, file or network. Several stand in line; each sees what the one before it has passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from madang.traffic.refusal import Refusal
from madang.traffic.requests import Request
from madang.traffic.table import Endpoint, Key


class Reader(Protocol):
    """Reads one answer."""

    def read(self, data: bytes, last: bool) -> bytes | Refusal:
        """Take some whole events of a stream, or a whole answer; return what goes on of it.

        `last` is true with the end of either, and true once. Raises ValueError for what it can't
        read: that ends the answer as one that no engine should give.
        """


class Inspector(Protocol):
    """Looks at requests, and says who is to look at their answers."""

    def ask(self, key: Key, endpoint: Endpoint, request: Request) -> Request | Refusal:
        """Return the request that is to be served, changed or not, or why it isn't."""

    def reader(self, key: Key, endpoint: Endpoint, request: Request) -> Reader | None:
        """Return who reads its answer; None: nobody."""


def asked(
    inspectors: Sequence[Inspector], key: Key, endpoint: Endpoint, request: Request
) -> Request | Refusal:
    """Show a request to all in turn, up to the first that refuses it."""
    for each in inspectors:
        found = each.ask(key, endpoint, request)
        if isinstance(found, Refusal):
            return found
        request = found
    return request


def readers(
    inspectors: Sequence[Inspector], key: Key, endpoint: Endpoint, request: Request
) -> tuple[Reader, ...]:
    """Return all who are to read the answer, in the order of the line."""
    found = (each.reader(key, endpoint, request) for each in inspectors)
    return tuple(each for each in found if each is not None)


def passed(line: Sequence[Reader], data: bytes, last: bool) -> bytes | Refusal:
    """Give a piece of an answer to all in turn, up to the first that refuses it."""
    for each in line:
        found = each.read(data, last)
        if isinstance(found, Refusal):
            return found
        data = found
    return data
