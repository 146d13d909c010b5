"""Quantities as people write them: `80GB`, `10m`. Sizes are decimal, as on the card's box."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator

from madang.errors import Unfit

_SIZES = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_TIMES = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZE_BYTES_MAX = 10**18


def size_bytes(written: str | int | float) -> int:
    """Read a size in bytes.

    >>> size_bytes("80GB"), size_bytes("1.5 GiB"), size_bytes(512)
    (80000000000, 1610612736, 512)
    """
    match = re.fullmatch(
        r"(?a)(\d{1,19}(?:\.\d{1,6})?)\s*([A-Za-z]{1,3})?", _text(written), re.ASCII
    )
    unit = (match.group(2) or "B").upper() if match else ""
    if not match or isinstance(written, bool) or unit not in _SIZES:
        raise Unfit("value.size", written=_text(written))
    exact = isinstance(written, int)  # a float would change what was stored above 2^53
    size = int(written) if exact else int(Decimal(match.group(1)) * _SIZES[unit])
    if size > SIZE_BYTES_MAX:
        raise Unfit("value.size-large", written=str(written), limit=SIZE_BYTES_MAX)
    return size


def _text(written: object) -> str:
    """Return what was written, as far as it may be a quantity: a huge number has no text at all."""
    is_huge = isinstance(written, int) and written.bit_length() > 128
    return "…" if is_huge or not isinstance(written, str | int | float) else str(written).strip()


def duration_s(written: str | float) -> float:
    """Read a duration in seconds.

    >>> duration_s("10m"), duration_s("800ms"), duration_s(5)
    (600.0, 0.8, 5.0)
    """
    match = re.fullmatch(r"(?a)(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d)?", _text(written), re.ASCII)
    if not match or isinstance(written, bool):
        raise Unfit("value.duration", written=_text(written))
    return float(match.group(1)) * _TIMES[match.group(2) or "s"]


def written_duration(seconds: float) -> str:
    """Write a duration as people do: whole seconds, in the largest units that leave none out.

    >>> written_duration(604_800), written_duration(5400), written_duration(59.6)
    ('7d', '1h30m', '1m')
    """
    left, parts = float(round(seconds)), []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _TIMES[unit])
        parts += [f"{count:g}{unit}"] if count else []
    return "".join(parts[:2]) or "0s"


def written_size(size: int) -> str:
    """Write a size as people do: whole MB exactly, so that it is read as the same; else roughly.

    >>> written_size(98362432), written_size(80_000_000_000), written_size(31_999_000_000)
    ('98.4MB', '80GB', '31.999GB')
    """
    is_whole = size % _SIZES["MB"] == 0
    for unit in ("TB", "GB", "MB", "KB"):
        one = _SIZES[unit]
        if size >= one and not (is_whole and size * 1000 % one):
            return f"{round(size / one, 3 if is_whole else 1):.12g}{unit}"
    return f"{size}B"


Size = Annotated[int, BeforeValidator(size_bytes)]
"""A field in bytes that people may write as `80GB`."""

Duration = Annotated[float, BeforeValidator(duration_s)]
"""A field in seconds that people may write as `10m`."""
