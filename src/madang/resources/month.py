"""Days as people write them; months are those of Korea (`months`)."""

from __future__ import annotations

import re

from madang.errors import Unfit
from madang.months import DAY_S, Month, first_of, month_of, next_month

__all__ = ["DAY_S", "Month", "day_of", "month_of"]

DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def day_at(at: float) -> str:
    """Return the day of a moment in Seoul, as people write it.

    >>> day_at(1_764_514_800.0), day_at(1_764_514_799.9), day_at(1_772_290_800.0)
    ('2025-12-01', '2025-11-30', '2026-03-01')
    """
    month = month_of(at)
    year, number = divmod(month.number, 100)
    return f"{year:04}-{number:02}-{int((at - month.begins) // DAY_S) + 1:02}"


def day_of(written: str) -> float:
    """Return when a day begins in Seoul, in Unix seconds; raises `Unfit` for one that is none.

    >>> day_of("2025-12-01")
    1764514800.0
    """
    if not DAY.fullmatch(written):
        raise Unfit("value.day", written=written)
    year, month, day = map(int, written.split("-"))
    if not 1 <= month <= 12 or year < 1970:
        raise Unfit("value.day", written=written)
    begins = first_of(year, month)
    at = begins + (day - 1) * DAY_S
    if not begins <= at < first_of(*next_month(year, month)):
        raise Unfit("value.day", written=written)
    return at
