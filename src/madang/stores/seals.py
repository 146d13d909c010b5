"""A check sum in every row: a byte that has changed where it lay is found, not believed.

A database checks how its pages hang together, not what is in their cells. Not sealed: a resource's
version, which is raised for all at once, and of which an index has a second copy; totals, which
must be the sums over what they are made of; and audit records, which have their chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any
from zlib import crc32

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Select,
    Table,
    case,
    func,
    inspect,
    select,
)

from madang.errors import Corrupt
from madang.stores.tables import meta, metadata, resources, usage, usage_days, usage_totals

SEAL = "crc"
FLOOR = "usage_floor"
"""Records of usage of days before this one may be gone; their sums stay."""
CHECKED_BYTES_MAX = 64 << 20
"""A state this large or smaller is read whole whenever its health is asked for; a larger one when
it is backed up, so that nobody waits."""
STEP = 1_000
"""This many rows are in memory at once."""
_OPEN = frozenset({SEAL, "resource_version"})


@cache
def _sealed(of: Table) -> tuple[tuple[str, bool], ...]:
    """Return the columns below the seal, and which of them are floats; not a number given late."""
    given = (c for c in of.columns if not (c.primary_key and c.autoincrement is not False
                                           and c.type.python_type is int))  # fmt: skip
    return tuple((c.name, isinstance(c.type, Float)) for c in given if c.name not in _OPEN)


def crc(of: Table, row: Mapping[str, Any]) -> int:
    """Return the CRC-32 of a row's values, each as its column keeps it."""
    texts = []
    for name, is_float in _sealed(of):
        value = row[name]
        if value is None or type(value) is str:
            texts.append(value or "")
        else:
            texts.append(repr(float(value) if is_float else int(value)))
    return crc32("\x1f".join(texts).encode())


def seal(of: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with its seal."""
    return {**row, SEAL: crc(of, row)}


def refuse_broken(of: Table, row: Mapping[str, Any], subject: str) -> None:
    """Raise `Corrupt` for a row that is not what was written."""
    try:
        is_whole = row[SEAL] == crc(of, row)
    except (TypeError, ValueError):  # a text has become something else
        is_whole = False
    if not is_whole:
        raise Corrupt("store.unreadable", subject, cause="its check sum is wrong")


def verify(connection: Connection) -> None:
    """Read every row that there is, those that nobody asks for too; raises `Corrupt`.

    Tables of an older version that bear no seals yet are passed over.
    """
    known = inspect(connection)
    there = {name: {c["name"] for c in known.get_columns(name)} for name in known.get_table_names()}
    for each in metadata.sorted_tables:
        if SEAL in there.get(each.name, ()):
            with connection.execute(select(each).execution_options(yield_per=STEP)) as rows:
                for row in rows:
                    body = row._asdict()
                    refuse_broken(each, body, _subject(each, body))
    if usage_days.name in there:
        _refuse_wrong_sums(connection)


def _subject(of: Table, row: Mapping[str, Any]) -> str:
    if of is resources:
        return f"{row['kind']}/{row['name']}"
    (key,) = of.primary_key.columns
    return f"{of.name}/{row[key.name]}"


def _refuse_wrong_sums(connection: Connection) -> None:
    """Totals must be the sums of days, and those of the days that records are kept of, of these."""
    floor = connection.scalar(select(meta.c.value).where(meta.c.name == FLOOR)) or 0
    tokens = ("prompt_tokens", "cached_tokens", "output_tokens")
    totals, days = usage_totals.c, usage_days.c
    kept = select(*(totals[name] for name in (*_PLACE, "requests", *tokens)))
    _refuse_unlike(connection, kept, _sums(usage_days, (days.requests, *(days[n] for n in tokens))))
    priced = (*tokens, "micro_krw")
    late = _sums(usage_days, (days.requests, *(days[n] for n in priced))).where(days.day >= floor)
    own = usage.c
    ones = (case((own.id.is_not(None), 1)), *(own[name] for name in priced))
    _refuse_unlike(connection, late, _sums(usage, ones).where(own.day >= floor))


_PLACE = ("project", "endpoint")


def _sums(of: Table, counts: tuple[ColumnElement[int], ...]) -> Select[Any]:
    by = [of.c[name] for name in _PLACE]
    return select(*by, *(func.sum(each) for each in counts)).group_by(*by)


def _refuse_unlike(connection: Connection, kept: Select[Any], made_of: Select[Any]) -> None:
    found = {tuple(row) for row in connection.execute(made_of)}
    for row in {tuple(row) for row in connection.execute(kept)} ^ found:
        raise Corrupt("store.unreadable", f"usage/{row[1]}", cause="its total is not its sum")
