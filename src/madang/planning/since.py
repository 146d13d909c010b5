"""What has come and gone since one last looked, by identity: what is planned from never changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Since(Generic[T]):
    """What was there when it was last looked at; nothing of it is opened to find what is new."""

    def __init__(self) -> None:
        self._known: dict[int, T] = {}

    def look(self, now: Iterable[T]) -> tuple[list[T], list[T]]:
        """Return what has gone since, and what has come; what has changed is among both."""
        before, self._known = self._known, {id(each): each for each in now}
        gone = [before[mark] for mark in before.keys() - self._known.keys()]
        return gone, [self._known[mark] for mark in self._known.keys() - before.keys()]


def is_same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Tell whether these are the very same objects."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
