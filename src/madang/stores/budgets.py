"""What is spent of budgets and lent to gateways: read, reckoned by `traffic`, and written back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import structs
from sqlalchemy import Connection, delete, insert, select, tuple_, update

from madang.resources.rights import Principal
from madang.stores.seals import refuse_broken, seal
from madang.stores.tables import spent
from madang.traffic.leases import Asked, Books, Lent, Line, Spent, Want, charge, charges, lend
from madang.traffic.table import Usage

STEP = 200
"""Budgets looked up at once; below every database's limit of parameters."""
_COLUMNS = tuple(Spent.__struct_fields__)
_LINE = (spent.c.owner, spent.c.what, spent.c.period)


def keep_spent(connection: Connection, records: Sequence[Usage]) -> None:
    """Count records that are new. Of a budget's periods the last two are kept."""
    lines = {line for record in records for line, _ in charges(record)}
    books = _read(connection, lines)
    known, before = set(books), _copied(books)
    charge(books, records)
    for owner, what, period in books.keys() - known:
        old = (spent.c.owner == owner, spent.c.what == what, spent.c.period < period - 1)
        connection.execute(delete(spent).where(*old))
    _write(connection, before, books)


def lend_of(connection: Connection, asked: Asked, wants: Sequence[tuple[Want, int]]) -> list[Lent]:
    """Lend of budgets, each with its limit."""
    books = _read(connection, {want.line for want, _ in wants})
    before = _copied(books)
    lents = [lend(books, asked, want, limit) for want, limit in wants]
    _write(connection, before, books)
    return lents


def spent_by(connection: Connection, who: Principal, day: int, month: int) -> list[Spent]:
    """Return the rows of a day and a month; of keys all, of places those that the caller sees."""
    query = select(spent).where(spent.c.period.in_((day, month))).order_by(spent.c.id)
    rows = (_row(each) for each in connection.execute(query).mappings())
    return [row for row in rows if is_seen(who, row.owner)]


def is_seen(who: Principal, owner: str) -> bool:
    """Tell whether a budget's owner exists for this caller; keys are told by who lists them."""
    kind, _, name = owner.partition("/")
    return kind == "key" or who.sees(name)


def _read(connection: Connection, lines: Iterable[Line]) -> Books:
    books: Books = {}
    ordered = sorted(lines)
    for start in range(0, len(ordered), STEP):
        asked = tuple_(*_LINE).in_(ordered[start : start + STEP])
        for found in connection.execute(select(spent).where(asked)).mappings():
            row = _row(found)
            books.setdefault(row.line, {})[row.holder] = row
    return books


def _row(found: Mapping[Any, Any]) -> Spent:
    body = dict(found)
    refuse_broken(spent, body, f"spent/{body['id']}")
    return Spent(**{name: body[name] for name in _COLUMNS})


def _copied(books: Books) -> dict[str, Spent]:
    return {_id(row): structs.replace(row) for rows in books.values() for row in rows.values()}


def _id(row: Spent) -> str:
    return f"{row.owner} {row.what} {row.period} {row.holder}"


def _write(connection: Connection, before: Mapping[str, Spent], books: Books) -> None:
    after = {_id(row): row for rows in books.values() for row in rows.values()}
    for gone in before.keys() - after.keys():
        connection.execute(delete(spent).where(spent.c.id == gone))
    fresh = []
    for name, row in after.items():
        if row == before.get(name):
            continue
        body = seal(spent, {"id": name, **structs.asdict(row)})
        if name in before:
            connection.execute(update(spent).where(spent.c.id == name).values(body))
        else:
            fresh.append(body)
    if fresh:
        connection.execute(insert(spent), fresh)
