"""A check sum in every row: a byte that has changed where it lay is found, not believed.

A database checks how its pages hang together, not what is in their cells. Not sealed: a resource's
version, which is raised for all at once, and of which an index has a second copy; totals, which
must be the sums over what they are made of; and audit records, which have their chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
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


def crc(of: Table, row: Mapping[str, Any], lacks: Set[str] = frozenset()) -> int:
    """Return the CRC-32 of a row's values, each as its column keeps it.

    `lacks`: columns that an older version of the table does not have; new ones come last.
    """
    texts = []
    for name, is_float in _sealed(of):
        if name in lacks:
            continue
        value = row[name]
        if value is None or type(value) is str:
            texts.append(value or "")
        else:
            texts.append(
                repr(float(value) + 0.0 if is_float else int(value))
            )  # no -0.0: SQLite has none
    return crc32("\x1f".join(texts).encode())


def seal(of: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with its seal."""
    return {**row, SEAL: crc(of, row)}


def refuse_broken(
    of: Table, row: Mapping[str, Any], subject: str, lacks: Set[str] = frozenset()
) -> None:
    """Raise `Corrupt` for a row that is not what was written."""
    try:
        is_whole = row[SEAL] == crc(of, row, lacks)
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
        has = there.get(each.name, set())
        if SEAL in has:
            lacks = frozenset(column.name for column in each.columns) - has
            query = select(*(column for column in each.columns if column.name in has))
            with connection.execute(query.execution_options(yield_per=STEP)) as rows:
                for row in rows:
                    body = row._asdict()
                    refuse_broken(each, body, _subject(each, body), lacks)
    if usage_days.name in there:
        _refuse_wrong_sums(connection, there[usage.name])
    elif SEAL in there.get(usage.name, ()):
        _refuse_unlike(
            connection, _totals(), _sums(usage, (_one(), *(usage.c[n] for n in _TOKENS)))
        )


def _subject(of: Table, row: Mapping[str, Any]) -> str:
    if of is resources:
        return f"{row['kind']}/{row['name']}"
    (key,) = of.primary_key.columns
    return f"{of.name}/{row[key.name]}"


_PLACE = ("project", "endpoint")
_TOKENS = ("prompt_tokens", "cached_tokens", "output_tokens")


def _refuse_wrong_sums(connection: Connection, has: Set[str]) -> None:
    """Totals must be the sums of days, and those of the days that records are kept of, of these."""
    floor = connection.scalar(select(meta.c.value).where(meta.c.name == FLOOR)) or 0
    days, own = usage_days.c, usage.c
    whole = _sums(usage_days, (days.requests, *(days[name] for name in _TOKENS)))
    _refuse_unlike(connection, _totals(), whole)
    priced = (*_TOKENS, "micro_krw", *(("micro_wh",) if "micro_wh" in has else ()))
    late = _sums(usage_days, (days.requests, *(days[n] for n in priced))).where(days.day >= floor)
    made_of = _sums(usage, (_one(), *(own[name] for name in priced))).where(own.day >= floor)
    _refuse_unlike(connection, late, made_of)


def _totals() -> Select[Any]:
    return select(*(usage_totals.c[name] for name in (*_PLACE, "requests", *_TOKENS)))


def _one() -> ColumnElement[int]:
    return case((usage.c.id.is_not(None), 1))


def _sums(of: Table, counts: tuple[ColumnElement[int], ...]) -> Select[Any]:
    by = [of.c[name] for name in _PLACE]
    return select(*by, *(func.sum(each) for each in counts)).group_by(*by)


def _refuse_unlike(connection: Connection, kept: Select[Any], made_of: Select[Any]) -> None:
    found = {tuple(row) for row in connection.execute(made_of)}
    for row in {tuple(row) for row in connection.execute(kept)} ^ found:
        raise Corrupt("store.unreadable", f"usage/{row[1]}", cause="its total is not its sum")
