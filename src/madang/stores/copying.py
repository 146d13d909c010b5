"""All rows from one database into the empty tables of another, in one transaction of each.

A copy is a state file of SQLite, whatever database it was made from: it can be opened as it is,
and any store can take it in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    MetaData,
    Table,
    column,
    create_engine,
    delete,
    func,
    insert,
    inspect,
    select,
    table,
    text,
)
from sqlalchemy.pool import NullPool

from madang.stores.migrations import make, upgrade
from madang.stores.sqlite import new_file
from madang.stores.tables import alembic_version, events, meta, metadata, resources

STEP = 1_000
"""This many rows are in memory at once."""

REPLACES = "replaces"
"""The number of the state in a database whose place a restored one takes."""


def save(source: Connection, path: Path, version: str) -> None:
    """Write a checked state file of that version with every row that the source sees."""
    with new_file(path) as part, opened(part) as target, target.begin():
        upgrade(target, None, to=version)
        copy(source, target)


@contextmanager
def opened(path: Path) -> Iterator[Connection]:
    """Connect to a state file that nobody else has open."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def replace(source: Connection, target: Connection) -> None:
    """Put every row of the source in the place of all that a PostgreSQL database of ours holds.

    In the target's open transaction; tables are made where there are none, and stay otherwise,
    with the rights and views that others have on them.
    """
    if inspect(target).has_table(alembic_version.name):
        names = (each.name for each in metadata.sorted_tables if each.name != alembic_version.name)
        target.execute(text(f"TRUNCATE {', '.join(names)} RESTART IDENTITY"))
    else:
        make(target)
    copy(source, target)
    number_on(target)
    target.execute(delete(meta).where(meta.c.name == REPLACES))


def copy(source: Connection, target: Connection) -> None:
    """Copy every row of every table that the target has; both stay in their transactions."""
    there = MetaData()
    there.reflect(target)
    for each in there.sorted_tables:
        if each.name != alembic_version.name:
            _copy_table(source, target, each)


def _copy_table(source: Connection, target: Connection, there: Table) -> None:
    own = table(there.name, *(column(each.name, each.type) for each in there.columns))
    with source.execute(select(own).execution_options(yield_per=STEP)) as rows:
        for part in rows.mappings().partitions(STEP):
            target.execute(insert(there), [dict(row) for row in part])


def number_on(target: Connection) -> None:
    """Let the numbers that PostgreSQL gives go on after those that were copied."""
    for each in (resources.c.id, events.c.seq):
        newest = target.scalar(select(func.max(each)))
        if newest is not None:
            sequence = text("SELECT setval(pg_get_serial_sequence(:of, :name), :newest)")
            values = {"of": each.table.name, "name": each.name, "newest": newest}
            target.execute(sequence, values)
