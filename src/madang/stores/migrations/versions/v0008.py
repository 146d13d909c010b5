"""A record of usage says what its tokens cost by the million, and what they drew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

STEP = 1_000
_TOKENS = ("prompt_tokens", "cached_tokens", "output_tokens")
_BEFORE = {
    "usage": (
        "id", "at", "key", "project", "endpoint", "replica", *_TOKENS, "status", "duration_s",
        "first_token_s", "estimated", "key_uid", "payer", "model", "micro_krw", "day", "taken",
    ),
    "usage_days": (
        "id", "day", "payer", "key", "key_uid", "project", "endpoint", "model", "requests",
        "estimated", *_TOKENS, "micro_krw",
    ),
}  # fmt: skip
_FLOATS = frozenset({"at", "duration_s", "first_token_s"})


def upgrade() -> None:
    """Add the columns, and seal every row anew that bears a right seal: no other one gets one."""
    op.add_column("usage", sa.Column("price", sa.Text, nullable=False, server_default=""))
    for table in _BEFORE:
        op.add_column(
            table, sa.Column("micro_wh", sa.BigInteger, nullable=False, server_default="0")
        )
    for name, before in _BEFORE.items():
        _seal(name, before, ("", 0) if name == "usage" else (0,))


def _seal(name: str, before: tuple[str, ...], added: tuple[object, ...]) -> None:
    """Go through all rows of a table in the order of their ids, some at a time."""
    connection = op.get_bind()
    table = sa.table(name, *map(sa.column, (*before, "crc")))
    query = sa.select(table).order_by(table.c.id).limit(STEP)
    write = (
        sa.update(table)
        .where(table.c.id == sa.bindparam("of"))
        .values(crc=sa.bindparam("sum"))
    )  # fmt: skip
    rows = connection.execute(query).mappings().all()
    while rows:
        texts = ((row, _texts(row, before)) for row in rows)
        sealed = [
            {"of": row["id"], "sum": _crc((*said, *map(str, added)))}
            for row, said in texts if row["crc"] == _crc(said)
        ]  # fmt: skip
        if sealed:
            connection.execute(write, sealed)
        rows = connection.execute(query.where(table.c.id > rows[-1]["id"])).mappings().all()


def _texts(row: Mapping[Any, Any], names: Iterable[str]) -> tuple[str, ...]:
    texts = []
    for name in names:
        value = row[name]
        if value is None or isinstance(value, str):
            texts.append(value or "")
        else:
            texts.append(repr(float(value) + 0.0 if name in _FLOATS else int(value)))
    return tuple(texts)


def _crc(texts: Iterable[str]) -> int:
    return crc32("\x1f".join(texts).encode())
