"""Days and months of Korea, whose clocks are nine hours ahead of UTC in summer and winter alike.

Days are turned into dates as in H. Hinnant, "chrono-Compatible Low-Level Date Algorithms":
years that begin in March, in eras of 400.
"""

from __future__ import annotations

from typing import NamedTuple

DAY_S = 86_400
KOREA_S = 9 * 3600
ERA_DAYS = 146_097
TO_MARCH_0 = 719_468
"""Days from 1 March of the year 0 to 1 January 1970."""


class Month(NamedTuple):
    """One month."""

    number: int
    """As 202611."""
    begins: float
    """Unix seconds."""
    ends: float

    @property
    def day_after(self) -> str:
        """Return the day on which the next one begins, as people write it."""
        year, month = next_month(*divmod(self.number, 100))
        return f"{year:04}-{month:02}-01"


def month_of(at: float) -> Month:
    """Return the month of a moment.

    >>> month = month_of(1_764_514_800.0)  # 2025-12-01 00:00 in Seoul
    >>> month.number, month.begins, month.day_after
    (202512, 1764514800.0, '2026-01-01')
    >>> month_of(1_764_514_799.9).number
    202511
    """
    year, month = _civil(int((at + KOREA_S) // DAY_S))
    return Month(year * 100 + month, first_of(year, month), first_of(*next_month(year, month)))


def next_month(year: int, month: int) -> tuple[int, int]:
    """Return the year and the month that follow."""
    return (year, month + 1) if month < 12 else (year + 1, 1)


def first_of(year: int, month: int) -> float:
    """Return when a month begins, in Unix seconds."""
    shifted = year - (month <= 2)
    of_era = shifted % 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5
    days = shifted // 400 * ERA_DAYS + of_era * 365 + of_era // 4 - of_era // 100 + of_year
    return float((days - TO_MARCH_0) * DAY_S - KOREA_S)


def _civil(days: int) -> tuple[int, int]:
    """Return the year and the month of a day, counted from 1970."""
    era, of_era = divmod(days + TO_MARCH_0, ERA_DAYS)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = ((5 * of_year + 2) // 153 + 2) % 12 + 1
    return year + era * 400 + (month <= 2), month


def day_number(at: float) -> int:
    """Return the day of a moment, counted from 1 January 1970, in Seoul.

    >>> day_number(1_764_514_800.0) - day_number(1_764_514_799.9)
    1
    """
    return int((at + KOREA_S) // DAY_S)


def written_day(number: int) -> str:
    """Write a day, counted from 1970, as people do.

    >>> written_day(day_number(1_764_514_800.0))
    '2025-12-01'
    """
    year, month = _civil(number)
    day = number - day_number(first_of(year, month)) + 1
    return f"{year:04}-{month:02}-{day:02}"


def day_ends(number: int) -> float:
    """Return when a day ends in Seoul, in Unix seconds.

    >>> day_ends(day_number(1_764_514_799.9))
    1764514800.0
    """
    return float((number + 1) * DAY_S - KOREA_S)
