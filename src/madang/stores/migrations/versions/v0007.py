"""Usage says who pays and what it cost, is summed up by day, and may go when it is old."""

from __future__ import annotations

import json
from collections.abc import Iterable
from zlib import crc32

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

STEP = 1_000
_TOKENS = ("prompt_tokens", "cached_tokens", "output_tokens")
_BEFORE = (
    "id", "at", "key", "project", "endpoint", "replica", *_TOKENS, "status", "duration_s",
    "first_token_s", "estimated",
)  # fmt: skip
_ADDED = ("key_uid", "payer", "model", "micro_krw", "day", "taken")
_NUMBERS = (("micro_krw", sa.BigInteger), ("day", sa.Integer), ("taken", sa.Integer))
_FLOATS = frozenset({"at", "duration_s", "first_token_s"})
_LINE = ("day", "payer", "key", "key_uid", "project", "endpoint", "model")
_COUNTS = ("requests", "estimated", *_TOKENS, "micro_krw")
_USAGE = sa.table("usage", *map(sa.column, (*_BEFORE, *_ADDED, "crc")))
_DAYS = sa.table("usage_days", *map(sa.column, ("id", *_LINE, *_COUNTS, "crc")))


def upgrade() -> None:
    """Make the tables, and work out for every record that there is what they say of it."""
    for name in ("key_uid", "payer", "model"):
        op.add_column("usage", sa.Column(name, sa.Text, nullable=False, server_default=""))
    for name, kind in _NUMBERS:
        op.add_column("usage", sa.Column(name, kind, nullable=False, server_default="0"))
    op.create_index("usage_by_day", "usage", ["day"])
    op.create_table(
        "usage_days",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("day", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _LINE[1:]),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _COUNTS),
        sa.Column("crc", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("usage_days_of_payer", "usage_days", ["payer", "day"])
    op.create_index("usage_days_by_day", "usage_days", ["day"])
    op.create_table(
        "usage_marks",
        sa.Column("segment", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("serial", sa.BigInteger, nullable=False),
        sa.Column("crc", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("usage_marks_serial", "usage_marks", ["serial"])
    _sum_up()


def _sum_up() -> None:
    """Go through all records in the order of their ids, some at a time."""
    connection = op.get_bind()
    sums: dict[tuple[object, ...], list[int]] = {}
    query = sa.select(_USAGE).order_by(_USAGE.c.id).limit(STEP)
    write = sa.update(_USAGE).where(_USAGE.c.id == sa.bindparam("of")).values(
        payer=sa.bindparam("pays"), day=sa.bindparam("on"), crc=sa.bindparam("sum")
    )  # fmt: skip
    rows = connection.execute(query).mappings().all()
    while rows:
        fresh = [{**row, "payer": row["project"], "day": _day(row["at"])} for row in rows]
        sealed = (*_BEFORE, *_ADDED)
        connection.execute(write, [
            {"of": row["id"], "pays": row["payer"], "on": row["day"],
             "sum": _crc((name, row[name]) for name in sealed)}
            for row in fresh
        ])  # fmt: skip
        for row in fresh:
            line = sums.setdefault(tuple(row[name] for name in _LINE), [0] * len(_COUNTS))
            counts = (1, int(row["estimated"]), *(row[name] for name in _TOKENS), 0)
            line[:] = (old + new for old, new in zip(line, counts, strict=True))
        rows = connection.execute(query.where(_USAGE.c.id > rows[-1]["id"])).mappings().all()
    for key, summed in sums.items():
        ident = json.dumps(key, ensure_ascii=False, separators=(",", ":"))
        body = dict(zip(("id", *_LINE, *_COUNTS), (ident, *key, *summed), strict=True))
        connection.execute(sa.insert(_DAYS).values(**body, crc=_crc(body.items())))


def _day(at: float) -> int:
    return int((min(max(0.0, at), 253_402_214_400.0) + 9 * 3600) // 86_400)


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
