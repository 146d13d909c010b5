"""sweep: what a job tries out, one job for each combination of some values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from madang.errors import Unfit

COMBINATIONS_MAX = 1000
NAMES_MAX = 16

Word = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
TEXT_CHARS_MAX = 1024
WHOLE_MAX = 2**63 - 1


def _can_be_tried(value: object) -> object:
    is_text = isinstance(value, str) and len(value) <= TEXT_CHARS_MAX and "\x00" not in value
    is_whole = isinstance(value, int) and abs(value) <= WHOLE_MAX
    if is_text or is_whole or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise Unfit("value.swept", limit=TEXT_CHARS_MAX)


Swept = Annotated[bool | int | float | str, BeforeValidator(_can_be_tried)]
"""A truth value, a finite number or a text."""
Values = Annotated[tuple[Swept, ...], Field(min_length=1, max_length=COMBINATIONS_MAX)]
Sweep = Annotated[dict[Word, Values], Field(max_length=NAMES_MAX)]
"""By name, the values that are tried."""

_NAMED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def combinations(sweep: Mapping[str, tuple[Swept, ...]]) -> int:
    """Return how many there are.

    >>> combinations({"lr": (0.1, 0.2), "seed": (1, 2, 3)})
    6
    """
    return math.prod(map(len, sweep.values())) if sweep else 0


def combination(sweep: Mapping[str, tuple[Swept, ...]], number: int) -> dict[str, Swept]:
    """Return one of them, from 1; the last name, in the order of letters, changes the fastest.

    >>> combination({"lr": (0.1, 0.2), "seed": (1, 2, 3)}, 4)
    {'lr': 0.2, 'seed': 1}
    """
    left, chosen = number - 1, {}
    for name in sorted(sweep, reverse=True):
        left, at = divmod(left, len(sweep[name]))
        chosen[name] = sweep[name][at]
    return dict(sorted(chosen.items()))


def text(value: Swept) -> str:
    """Return a value as programs read it.

    >>> text(True), text(0.001), text("adam")
    ('true', '0.001', 'adam')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def variable(name: str) -> str:
    """Return the variable that holds the value of that name."""
    return f"MADANG_SWEEP_{name.upper()}"


def filled(argument: str, values: Mapping[str, Swept]) -> str:
    """Return an argument with the values in place of their names; other braces stay.

    >>> filled("--lr={lr} {other} {}", {"lr": 0.1})
    '--lr=0.1 {other} {}'
    """
    return _NAMED.sub(lambda m: text(values[m[1]]) if m[1] in values else m[0], argument)
