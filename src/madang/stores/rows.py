"""Values to rows and back. A row that cannot be read is `Corrupt`, never left out."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic_core import from_json, to_json
from sqlalchemy import Row

from madang.errors import Corrupt
from madang.resources.event import AuditRecord, Event
from madang.resources.kinds import KINDS
from madang.resources.resource import AnyResource
from madang.stores.seals import SEAL, refuse_broken
from madang.stores.tables import events, resources
from madang.traffic.price import day_of, micro_of, price_text
from madang.traffic.table import Usage

_COLUMNS = ("project", "name", "uid", "generation", "created_at", "deleted_at")


def json_text(value: object) -> str:
    """Write JSON that keeps infinities; a model itself would write null, and not read it."""
    return to_json(value, inf_nan_mode="constants").decode()


def resource_row(resource: AnyResource) -> dict[str, Any]:
    """Return the row of a resource, without its version."""
    return {
        "kind": resource.kind,
        **{column: getattr(resource, column) for column in _COLUMNS},
        "spec": json_text(resource.spec.model_dump()),
        "status": json_text(resource.status.model_dump()),
    }


def resource_from(row: Row[Any]) -> AnyResource:
    """Read a resource; raises `Corrupt` when the row does not hold one."""
    body = row._asdict()
    kind = body["kind"]
    subject = f"{kind}/{row.name}"
    refuse_broken(resources, body, subject)
    del body["id"], body["kind"], body["gone"], body[SEAL]
    if kind not in KINDS:
        raise Corrupt("store.unreadable", subject, cause="unknown kind")
    try:
        body["spec"], body["status"] = from_json(row.spec), from_json(row.status)
        return KINDS[kind].model_validate(body)
    except ValueError as error:
        raise Corrupt("store.unreadable", subject, cause=str(error)) from error


def event_row(event: Event) -> dict[str, Any]:
    """Return the row of an event; the database numbers it."""
    row = event.model_dump(exclude={"seq", "values"})
    return {**row, "values": json_text(event.values)}


def event_from(row: Row[Any]) -> Event:
    """Read an event; raises `Corrupt` when the row does not hold one."""
    body = row._asdict()
    refuse_broken(events, body, f"event/{row.seq}")
    del body[SEAL]
    try:
        return Event.model_validate({**body, "values": from_json(body["values"])})
    except ValueError as error:
        raise Corrupt("store.unreadable", f"event/{row.seq}", cause=str(error)) from error


def audit_row(record: AuditRecord) -> dict[str, Any]:
    """Return the row of an audit record."""
    texts = {
        name: None if value is None else json_text(value)
        for name, value in (
            ("values", record.values), ("before", record.before), ("after", record.after)
        )
    }  # fmt: skip
    return {**record.model_dump(exclude={*texts}), **texts}


def audit_from(row: Row[Any]) -> AuditRecord:
    """Read an audit record; raises `Corrupt` when the row does not hold one."""
    body = row._asdict()
    try:
        for name in ("values", "before", "after"):
            body[name] = None if body[name] is None else from_json(body[name])
        return AuditRecord.model_validate(body)
    except ValueError as error:
        raise Corrupt("store.unreadable", f"audit/{row.seq}", cause=str(error)) from error


def usage_row(record: Usage) -> dict[str, Any]:
    """Return the row of a usage record; one of before names no payer: that was the endpoint's."""
    row = msgspec.structs.asdict(record)
    del row["krw"], row["wh"]
    return row | {
        "payer": record.payer or record.project,
        "micro_krw": micro_of(record.krw),
        "micro_wh": micro_of(record.wh),
        "price": price_text(record.price),
        "day": day_of(record),
    }
