"""What classes of values are like that differ from most, for the files that may be compiled.

There a base says it, because mypyc passes no words of a class statement to msgspec.
"""

from __future__ import annotations

from msgspec import Struct


class Light(Struct, gc=False):
    """In no cycle: Python's collector need not look at it."""


class Fixed(Struct, frozen=True):
    """As it was made, for ever."""


class LightFixed(Struct, frozen=True, gc=False):
    """Both."""
