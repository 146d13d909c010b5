"""What is asked of the tables, over one open connection. Knows no particular database."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError

from madang.errors import Conflict, Rejected
from madang.ports import REPLY_KEPT_S, Reply, UsageTotal
from madang.resources.event import AuditRecord, Event
from madang.resources.resource import AnyResource
from madang.resources.rights import Principal
from madang.stores.rows import audit_from, audit_row, event_from, resource_from
from madang.stores.seals import refuse_broken, seal
from madang.stores.tables import audit, events, meta, replies, resources, usage_totals

PRUNE_STEP = 1_000
"""At most this many rows of one table are pruned with one transaction."""

_GUARD = ("kind", "project", "name", "uid")
Row = dict[str, Any]


def newest_revision(connection: Connection) -> int:
    """Return the version of the last commit that wrote a resource; 0 before the first."""
    return connection.scalar(select(func.max(resources.c.resource_version))) or 0


def write(connection: Connection, row: Row, planned: int, version: int, *, gone: bool) -> None:
    """Store one resource if it still has the `planned` version; raises `Conflict`."""
    subject = f"{row['kind']}/{row['name']}"
    fresh = seal(resources, {**row, "resource_version": version, "gone": gone})
    if planned == 0 and not gone:
        try:
            connection.execute(insert(resources), fresh)
        except IntegrityError as error:
            raise Conflict("store.name-taken", subject, project=row["project"]) from error
        return
    guarded = [resources.c[column] == row[column] for column in _GUARD]
    kept = resources.c.gone != true()
    changed = connection.execute(
        update(resources).where(*guarded, resources.c.resource_version == planned, kept),
        fresh,
    )
    if changed.rowcount != 1:
        raise Conflict("store.stale", subject, version=planned)


def add_events(connection: Connection, rows: Sequence[Row]) -> None:
    """Append events, in this order."""
    for row in rows:
        connection.execute(insert(events), seal(events, row))


def inside(who: Principal, place: Column[str]) -> ColumnElement[bool]:
    """Return the condition that a row lies at the caller's place, or below."""
    if not who.where:
        return true()
    return or_(place == who.where, place.startswith(f"{who.where}/", autoescape=True))


def found(connection: Connection, kind: str, uid: str) -> AnyResource | None:
    """Return the living resource with that uid, as it is in this transaction."""
    query = select(resources).where(resources.c.kind == kind, resources.c.uid == uid)
    row = connection.execute(query.where(resources.c.gone != true())).first()
    return resource_from(row) if row else None


def living(connection: Connection, who: Principal) -> list[AnyResource]:
    """Return every resource of the caller's that is not gone, oldest change first."""
    query = select(resources).where(resources.c.gone != true(), inside(who, resources.c.project))
    ordered = query.order_by(resources.c.resource_version, resources.c.id)
    return [resource_from(row) for row in connection.execute(ordered)]


def changes(
    connection: Connection, who: Principal, after: int, limit: int
) -> list[tuple[AnyResource, bool]]:
    """Return what changed after that revision; whole commits only, so that none is torn.

    Raises `Rejected` when tombstones after that revision have been pruned; 0 is always good.
    """
    pruned = read_meta(connection, "pruned")
    if 0 < after < pruned:
        raise Rejected("store.feed-pruned", after=after, pruned=pruned)
    own = inside(who, resources.c.project)
    last = _last_version(connection, own, after, limit)
    query = select(resources).where(
        own, resources.c.resource_version > after, resources.c.resource_version <= last
    )
    ordered = query.order_by(resources.c.resource_version, resources.c.id)
    return [(resource_from(row), row.gone) for row in connection.execute(ordered)]


def _last_version(connection: Connection, own: ColumnElement[bool], after: int, limit: int) -> int:
    """Return the version of the last commit that begins within the limit."""
    version = resources.c.resource_version
    query = select(version).where(own, version > after).order_by(version).limit(limit)
    versions: Sequence[int] = connection.scalars(query).all()
    return versions[-1] if versions else after


def events_after(
    connection: Connection, who: Principal, after: int, limit: int, project: str | None
) -> list[Event]:
    """Return the caller's events numbered above `after`, oldest first."""
    own = inside(who, events.c.project)
    query: Select[Any] = select(events).where(own, events.c.seq > after)
    if project is not None:
        query = query.where(events.c.project == project)
    return [
        event_from(row) for row in connection.execute(query.order_by(events.c.seq).limit(limit))
    ]


def add_audit(connection: Connection, records: Sequence[AuditRecord]) -> None:
    """Append records to the chain; they are numbered and sealed here, in this order."""
    newest = connection.execute(
        select(audit.c.seq, audit.c.digest).order_by(audit.c.seq.desc()).limit(1)
    ).first()
    seq, digest = (newest.seq, newest.digest) if newest else (0, "")
    for record in records:
        seq += 1
        sealed = record.model_copy(update={"seq": seq}).sealed(digest)
        connection.execute(insert(audit), audit_row(sealed))
        digest = sealed.digest


def audit_after(
    connection: Connection, who: Principal, after: int, limit: int
) -> list[AuditRecord]:
    """Return the caller's audit records numbered above `after`, oldest first."""
    query = select(audit).where(inside(who, audit.c.project), audit.c.seq > after)
    rows = connection.execute(query.order_by(audit.c.seq).limit(limit))
    return [audit_from(row) for row in rows]


def keep_reply(connection: Connection, row: Row) -> None:
    """Keep what a request was answered, and let go of what is too old, a step at a time."""
    old = replies.c.at < row["at"] - REPLY_KEPT_S
    some = select(replies.c.id).where(old).order_by(replies.c.at).limit(PRUNE_STEP)
    connection.execute(delete(replies).where(replies.c.id.in_(some)))
    connection.execute(delete(replies).where(old, replies.c.id == row["id"]))
    try:
        connection.execute(insert(replies), seal(replies, row))
    except IntegrityError as error:
        raise Conflict("request.under-way") from error


def kept_reply(connection: Connection, reply_id: str) -> Reply | None:
    """Return what a request was answered."""
    row = connection.execute(select(replies).where(replies.c.id == reply_id)).first()
    if row is None:
        return None
    refuse_broken(replies, row._asdict(), f"reply/{reply_id}")
    return Reply(*row[:-1])


def totals(connection: Connection, who: Principal) -> list[UsageTotal]:
    """Return what each of the caller's endpoints has been used for."""
    own = inside(who, usage_totals.c.project)
    query = select(usage_totals).where(own)
    query = query.order_by(usage_totals.c.project, usage_totals.c.endpoint)
    return [UsageTotal(*row) for row in connection.execute(query)]


def read_meta(connection: Connection, name: str) -> int:
    """Return a number kept beside the tables; 0 where it was never written."""
    row = connection.execute(select(meta).where(meta.c.name == name)).first()
    if row is None:
        return 0
    refuse_broken(meta, row._asdict(), f"meta/{name}")
    return int(row.value)


def newest_term(connection: Connection) -> int:
    """Return the newest term, and let none begin before this transaction has ended."""
    query = select(meta.c.value).where(meta.c.name == "term").with_for_update(read=True)
    return connection.scalar(query) or 0


def write_meta(connection: Connection, name: str, value: int) -> None:
    """Keep a number beside the tables."""
    row = seal(meta, {"name": name, "value": value})
    if connection.execute(update(meta).where(meta.c.name == name), row).rowcount == 0:
        connection.execute(insert(meta), row)


def store_id(connection: Connection) -> str:
    """Return what tells this state from every other, made the first time it is asked for."""
    number = read_meta(connection, "store")
    if not number:
        number = secrets.randbits(62) | 1
        write_meta(connection, "store", number)
    return f"{number:016x}"


def prune_tombstones(connection: Connection, kept: int) -> None:
    """Let go of the oldest tombstones above that number, a step at a time."""
    gone = resources.c.gone == true()
    count = connection.scalar(select(func.count()).select_from(resources).where(gone)) or 0
    if count <= kept:
        return
    columns = select(resources.c.id, resources.c.resource_version)
    oldest = columns.where(gone).order_by(resources.c.resource_version, resources.c.id)
    doomed = connection.execute(oldest.limit(min(count - kept, PRUNE_STEP))).all()
    connection.execute(delete(resources).where(resources.c.id.in_([row.id for row in doomed])))
    write_meta(connection, "pruned", doomed[-1].resource_version)


def prune_events(connection: Connection, kept: int) -> None:
    """Let go of the oldest events above that number, a step at a time."""
    newest = connection.scalar(select(func.max(events.c.seq))) or 0
    oldest = select(events.c.seq).where(events.c.seq <= newest - kept)
    doomed = oldest.order_by(events.c.seq).limit(PRUNE_STEP)
    connection.execute(delete(events).where(events.c.seq.in_(doomed)))
