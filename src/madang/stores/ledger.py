"""What a commit leaves in the audit records, and what it may not touch at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from madang.errors import Forbidden
from madang.ports import Write
from madang.resources.event import AuditRecord, Event
from madang.resources.resource import AnyResource
from madang.resources.rights import Principal

Found = Callable[[str, str], AnyResource | None]
"""(kind, uid) -> the living resource as it is in the same transaction."""


def refuse_outside(who: Principal, writes: Iterable[Write]) -> None:
    """Raise `Forbidden` for a write outside the caller's place: the wall behind every other."""
    for each in writes:
        if not who.sees(each.resource.project):
            subject = f"{each.resource.kind}/{each.resource.name}"
            raise Forbidden("role.outside", subject, actor=who.actor)


def records(
    found: Found, who: Principal, writes: Sequence[Write], events: Sequence[Event]
) -> list[AuditRecord]:
    """Return a record of every write, and of every event that belongs to none.

    What was there before is read here, in the transaction: no caller can forget or forge it.
    """
    told = {event.uid: event for event in events}
    written = list(_of_writes(found, who, writes, told))
    uids = {each.resource.uid for each in writes}
    return written + [_record(who, event) for event in events if event.uid not in uids]


def _of_writes(
    found: Found, who: Principal, writes: Sequence[Write], told: dict[str, Event]
) -> Iterator[AuditRecord]:
    at = max((event.at for event in told.values()), default=0.0)
    for each in writes:
        resource = each.resource
        before = found(resource.kind, resource.uid)
        verb = "deleted" if each.gone else "updated" if before else "created"
        event = told.get(resource.uid) or Event(
            at=at, actor=who.actor, code=f"{resource.kind}.{verb}", kind=resource.kind,
            project=resource.project, name=resource.name, uid=resource.uid,
        )  # fmt: skip
        yield _record(who, event).model_copy(
            update={
                "before": before.shown() if before else None,
                "after": None if each.gone else resource.shown(),
            }
        )


def _record(who: Principal, event: Event) -> AuditRecord:
    body = event.model_dump(exclude={"seq", "actor"})
    return AuditRecord(seq=0, actor=who.actor, by=who.uid, before=None, after=None, **body)
