"""What was used, over one open connection: records, their sums, and how far gateways were heard.

Sums are written in the transaction of what they are made of, and stay when that goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, Table, delete, func, insert, select, update

from madang.months import DAY_S, KOREA_S, day_number, month_of
from madang.resources.bill import By, Span, Used
from madang.resources.rights import Principal
from madang.stores.queries import PRUNE_STEP, inside, read_meta, write_meta
from madang.stores.seals import FLOOR, refuse_broken, seal
from madang.stores.tables import usage, usage_days, usage_marks, usage_totals

USAGE_STEP = 500
"""This many usage ids are looked up at once; below every database's limit of parameters."""
MARKS_MAX = 10_000
"""So many files of gateways are remembered: each is gone minutes after it was last heard of."""
KNOWN_DAYS = 1
"""A record is known by its id for more days than that after it came."""
DAYS_KEPT = 800
"""Days that lie back further than that are put together by month."""
COUNTS = (
    "requests", "estimated", "prompt_tokens", "cached_tokens", "output_tokens", "micro_krw",
    "micro_wh",
)  # fmt: skip
_BY = {"day": ("day",), "model": ("model",), "key": ("key", "key_uid")}
_TOTALS = ("requests", "prompt_tokens", "cached_tokens", "output_tokens")
_LINE = ("day", "payer", "key", "key_uid", "project", "endpoint", "model")
MONTHS = "usage_months"
"""Days before this one are put together by month already."""
Row = Mapping[str, Any]


def keep(
    connection: Connection, rows: Sequence[Row], span: Span | None, keep_from: int
) -> frozenset[str]:
    """Keep records whose id is not kept yet, the first of each, and add them to the sums.

    None of a span that begins before what has been taken in of its file: that was heard already.
    Returns the ids of those that are new.
    """
    if span:
        if span.start < mark(connection, span.segment):
            return frozenset()
        _mark(connection, span)
    fresh = _unknown(connection, rows)
    if fresh:
        connection.execute(
            insert(usage), [seal(usage, {**row, "taken": keep_from}) for row in fresh]
        )
    _add(connection, usage_totals, ("project", "endpoint"), fresh)
    _add(connection, usage_days, _LINE, fresh)
    return frozenset(row["id"] for row in fresh)


def _unknown(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    unique = {row["id"]: row for row in reversed(rows)}
    ids = list(unique)
    for start in range(0, len(ids), USAGE_STEP):
        asked = ids[start : start + USAGE_STEP]
        for known in connection.scalars(select(usage.c.id).where(usage.c.id.in_(asked))):
            del unique[known]
    return list(unique.values())


def _add(connection: Connection, to: Table, line: tuple[str, ...], rows: Iterable[Row]) -> None:
    """Add rows to the sums of their lines; each is read, checked and written anew."""
    sums: dict[tuple[Any, ...], Counter[str]] = {}
    for row in rows:
        sums.setdefault(tuple(row[name] for name in line), Counter()).update(_counts(row))
    counts = COUNTS if to is usage_days else _TOTALS
    for key, added in sums.items():
        body = dict(zip(line, key, strict=True))
        own = [to.c[name] == value for name, value in body.items()]
        if to is usage_days:
            body["id"] = to_json(key).decode()
            own = [to.c.id == body["id"]]
        kept = connection.execute(select(to).where(*own)).mappings().first()
        if kept and to is usage_days:
            refuse_broken(to, dict(kept), f"usage/{body['endpoint']}")
        body |= {name: added[name] + (kept[name] if kept else 0) for name in counts}
        row = seal(to, body) if to is usage_days else body
        connection.execute(update(to).where(*own).values(row) if kept else insert(to).values(row))


def _counts(row: Row) -> dict[str, int]:
    """Return what a record, or a line of sums, adds to another."""
    counted = {name: int(row[name]) for name in COUNTS if name in row}
    return {"requests": 1, **counted}


def mark(connection: Connection, segment: str) -> int:
    """Return up to where a gateway's file has been taken in; 0 for one that is not known."""
    row = connection.execute(select(usage_marks).where(usage_marks.c.segment == segment)).first()
    if row is None:
        return 0
    refuse_broken(usage_marks, row._asdict(), f"usage/{segment}")
    return int(row.position)


def _mark(connection: Connection, span: Span) -> None:
    newest = connection.scalar(select(func.max(usage_marks.c.serial))) or 0
    connection.execute(delete(usage_marks).where(usage_marks.c.segment == span.segment))
    connection.execute(delete(usage_marks).where(usage_marks.c.serial <= newest + 1 - MARKS_MAX))
    row = {"segment": span.segment, "position": span.end, "serial": newest + 1}
    connection.execute(insert(usage_marks), seal(usage_marks, row))


def prune(connection: Connection, keep_from: int) -> None:
    """Let go of records of days before `keep_from`, and put days of long ago together by month.

    Some at a time; what they say stays in the sums. Sums of later days can still be worked out.
    """
    if keep_from > read_meta(connection, FLOOR):
        write_meta(connection, FLOOR, keep_from)
    old = (usage.c.day < keep_from, usage.c.taken < keep_from - KNOWN_DAYS)
    some = select(usage.c.id).where(*old).limit(PRUNE_STEP)
    connection.execute(delete(usage).where(usage.c.id.in_(some)))
    _by_month(connection, keep_from - DAYS_KEPT)


def _by_month(connection: Connection, before: int) -> None:
    """Put the oldest day that is not yet in its month there, or a part of it."""
    since = read_meta(connection, MONTHS)
    own = usage_days.c
    day = connection.scalar(select(func.min(own.day)).where(own.day >= since, own.day < before))
    if day is None:
        return
    first = day_number(month_of((day + 0.5) * DAY_S - KOREA_S).begins)
    query = select(usage_days).where(own.day == day).order_by(own.id).limit(PRUNE_STEP)
    rows = [] if day == first else connection.execute(query).mappings().all()
    if len(rows) < PRUNE_STEP:
        write_meta(connection, MONTHS, day + 1)
    connection.execute(delete(usage_days).where(own.id.in_([row["id"] for row in rows])))
    _add(connection, usage_days, _LINE, [{**row, "day": first} for row in rows])


def used(
    connection: Connection, who: Principal, days: range, project: str | None, by: By
) -> list[Used]:
    """Return what the caller's projects used on these days."""
    own = usage_days.c
    line = [own.payer, *(own[name] for name in _BY[by])]
    query = select(
        own.payer.label("project"), *line[1:], *(func.sum(own[name]).label(name) for name in COUNTS)
    )
    query = query.where(inside(who, own.payer), own.day >= days.start, own.day < days.stop)
    if project is not None:
        query = query.where(own.payer == project)
    rows = connection.execute(query.group_by(*line).order_by(*line)).mappings()
    return [_used(dict(row)) for row in rows]


def _used(row: dict[str, Any]) -> Used:
    """PostgreSQL adds whole numbers up to decimal ones."""
    whole = {name: int(row[name]) for name in COUNTS}
    return Used(**{**row, **whole})
