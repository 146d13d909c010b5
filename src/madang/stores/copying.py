"""All rows from one database into the empty tables of another, in one transaction of each.

A copy is a state file of SQLite, whatever database it was made from: it can be opened as it is,
and any store can take it in.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    MetaData,
    Table,
    column,
    create_engine,
    func,
    insert,
    select,
    table,
    text,
)
from sqlalchemy.pool import NullPool

from madang.stores.migrations import upgrade
from madang.stores.sqlite import new_file
from madang.stores.tables import alembic_version, events, resources

STEP = 1_000
"""This many rows are in memory at once."""


def save(source: Connection, path: Path, version: str) -> None:
    """Write a checked state file of that version with every row that the source sees."""
    with new_file(path) as part:
        engine = create_engine(URL.create("sqlite", database=str(part)), poolclass=NullPool)
        with engine.begin() as target:
            upgrade(target, None, to=version)
            copy(source, target)


def copy(source: Connection, target: Connection) -> None:
    """Copy every row of every table that the target has; both stay in their transactions."""
    there = MetaData()
    there.reflect(target)
    for each in there.sorted_tables:
        if each.name != alembic_version.name:
            _copy_table(source, target, each)


def _copy_table(source: Connection, target: Connection, there: Table) -> None:
    own = table(there.name, *(column(each.name, each.type) for each in there.columns))
    rows = source.execution_options(yield_per=STEP).execute(select(own)).mappings()
    for part in rows.partitions(STEP):
        target.execute(insert(there), [dict(row) for row in part])


def number_on(target: Connection) -> None:
    """Let the numbers that PostgreSQL gives go on after those that were copied."""
    for each in (resources.c.id, events.c.seq):
        newest = target.scalar(select(func.max(each)))
        if newest is not None:
            sequence = text("SELECT setval(pg_get_serial_sequence(:of, :name), :newest)")
            values = {"of": each.table.name, "name": each.name, "newest": newest}
            target.execute(sequence, values)
