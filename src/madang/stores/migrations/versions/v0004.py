"""A check sum in every row."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_FLOATS = frozenset({"at", "created_at", "deleted_at", "duration_s", "first_token_s"})
_TABLES = {
    "resources": ("id", "kind project name uid generation created_at deleted_at spec status gone"),
    "events": ("seq", "at actor code kind project name uid values"),
    "usage": (
        "id",
        (
            "id at key project endpoint replica prompt_tokens cached_tokens output_tokens status"
            " duration_s first_token_s estimated"
        ),
    ),
    "replies": ("id", "id asked at answer"),
    "meta": ("name", "name value"),
}
"""Of each table: its key, and the columns below the seal, in their order."""
STEP = 1_000


def upgrade() -> None:
    """Add the column, and seal what is there."""
    for name, (key, columns) in _TABLES.items():
        op.add_column(name, sa.Column("crc", sa.BigInteger, nullable=False, server_default="0"))
        _seal(name, key, columns.split())


def _seal(name: str, key: str, columns: list[str]) -> None:
    """Go through a table in the order of its key, some rows at a time."""
    connection = op.get_bind()
    own = sa.table(name, *map(sa.column, dict.fromkeys((key, *columns, "crc"))))
    query = sa.select(own).order_by(own.c[key]).limit(STEP)
    write = sa.update(own).where(own.c[key] == sa.bindparam("of")).values(crc=sa.bindparam("sum"))
    rows = connection.execute(query).mappings().all()
    while rows:
        sums = [{"of": row[key], "sum": _crc((c, row[c]) for c in columns)} for row in rows]
        connection.execute(write, sums)
        rows = connection.execute(query.where(own.c[key] > rows[-1][key])).mappings().all()


def _crc(values: Iterable[tuple[str, object]]) -> int:
    texts = []
    for name, value in values:
        if value is None or isinstance(value, str):
            texts.append(value or "")
        elif name in _FLOATS:
            texts.append(repr(float(value)))  # type: ignore[arg-type]
        else:
            texts.append(repr(int(value)))  # type: ignore[call-overload]
    return crc32("\x1f".join(texts).encode())
