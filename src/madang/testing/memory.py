"""A store in memory that keeps every promise of the port but the one about disks.

A `Shelf` is what would lie on disk: it outlives the stores that are opened on it. `trouble` is
awaited before and after each thing done, and may wait or raise: so commits fail, or are done and
their answer is lost.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msgspec import structs

from madang.errors import Conflict, Unavailable
from madang.ports import REPLY_KEPT_S, Health, Reply, ToReply, UsageTotal, Write
from madang.resources.bill import By, Span, Used
from madang.resources.event import AuditRecord, Event
from madang.resources.resource import AnyResource
from madang.resources.rights import Principal
from madang.stores.budgets import is_seen
from madang.stores.ledger import records, refuse_outside
from madang.stores.sql import refuse_backup
from madang.traffic.leases import Asked, Books, Lent, Spent, Want, charge, lend
from madang.traffic.price import day_of, micro_of
from madang.traffic.table import Usage

When = Literal["open", "read", "commit", "committed"]
Trouble = Callable[[When], Awaitable[None]]
Key = tuple[str, str]
"""Kind and uid."""
COUNTS = (
    "requests", "estimated", "prompt_tokens", "cached_tokens", "output_tokens", "micro_krw",
    "micro_wh",
)  # fmt: skip
Change = tuple[AnyResource | None, AnyResource, bool]
"""What was there before a write, what is there now, and whether that is gone."""


@dataclass
class Shelf:
    """What outlives a store: all state, and who has it open."""

    id: str = "memory"
    term: int = 0
    revision: int = 0
    rows: dict[Key, tuple[AnyResource, bool]] = field(default_factory=dict)
    """The newest state of each, in the order of their last change, and whether it is gone."""
    names: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """(kind, project, name) -> uid of what lives there."""
    events: list[Event] = field(default_factory=list)
    audit: list[AuditRecord] = field(default_factory=list)
    replies: dict[str, Reply] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    books: Books = field(default_factory=dict)
    """What is spent and lent of budgets."""
    marks: dict[str, int] = field(default_factory=dict)
    holder: object = None
    """The store that has it open."""
    on_commit: Callable[[Principal, Sequence[Change]], None] = lambda _who, _changes: None
    """Told of each commit at the moment it is done."""

    def found(self, kind: str, uid: str) -> AnyResource | None:
        """Return the living resource with that uid."""
        resource, is_gone = self.rows.get((kind, uid), (None, True))
        return None if is_gone else resource


async def _no_trouble(_when: When) -> None:
    """Let everything go well."""


class MemoryStore:
    """A `madang.ports.Store` and `History` on a shelf."""

    def __init__(self, shelf: Shelf, trouble: Trouble = _no_trouble) -> None:
        self._shelf = shelf
        self._trouble = trouble
        self._is_open = False

    async def open(self) -> int:
        """See `Store.open`."""
        await self._trouble("open")
        if self._shelf.holder is not None:
            raise Unavailable("store.held")
        self._shelf.holder, self._is_open = self, True
        self._shelf.term += 1
        return self._shelf.term

    @property
    def id(self) -> str:
        """See `Store.id`."""
        return self._shelf.id

    async def load(self, who: Principal) -> tuple[int, Sequence[AnyResource]]:
        """See `Store.load`."""
        await self._ready("read")
        living = [r for r, is_gone in self._shelf.rows.values() if not is_gone]
        return self._shelf.revision, [r for r in living if who.sees(r.project)]

    async def commit(
        self,
        who: Principal,
        writes: Sequence[Write],
        events: Sequence[Event] = (),
        to_reply: ToReply | None = None,
    ) -> Sequence[AnyResource]:
        """See `Store.commit`."""
        refuse_outside(who, writes)
        await self._ready("commit")
        stored = self._write(who, writes, events, to_reply)
        await self._trouble("committed")
        return stored

    def _write(
        self,
        who: Principal,
        writes: Sequence[Write],
        events: Sequence[Event],
        to_reply: ToReply | None,
    ) -> list[AnyResource]:
        self._refuse_fenced()
        shelf = self._shelf
        audited = records(shelf.found, who, writes, events) if who.audited else []
        rows, names = dict(shelf.rows), dict(shelf.names)
        version, stored, changes = shelf.revision + 1, [], []
        for each in writes:
            before = _guard(each, rows, names)
            after = each.resource.model_copy(update={"resource_version": version})
            key, name = (after.kind, after.uid), (after.kind, after.project, after.name)
            rows.pop(key, None)
            rows[key] = after, each.gone
            names[name] = after.uid
            if each.gone:
                del names[name]
            stored.append(after)
            changes.append((before, after, each.gone))
        if to_reply:
            self._keep_reply(to_reply(stored))
        shelf.rows, shelf.names = rows, names
        shelf.revision += bool(writes)
        for event in events:
            shelf.events.append(event.model_copy(update={"seq": len(shelf.events) + 1}))
        for record in audited:
            numbered = record.model_copy(update={"seq": len(shelf.audit) + 1})
            shelf.audit.append(numbered.sealed(shelf.audit[-1].digest if shelf.audit else ""))
        shelf.on_commit(who, changes)
        return stored

    def _keep_reply(self, reply: Reply) -> None:
        replies = self._shelf.replies
        for old in [r.id for r in replies.values() if r.at < reply.at - REPLY_KEPT_S]:
            del replies[old]
        if reply.id in replies:
            raise Conflict("request.under-way")
        replies[reply.id] = reply

    async def changes(
        self, who: Principal, after: int, limit: int = 1000
    ) -> Sequence[tuple[AnyResource, bool]]:
        """See `Store.changes`. Nothing is ever pruned."""
        await self._ready("read")
        page: list[tuple[AnyResource, bool]] = []
        for resource, is_gone in self._shelf.rows.values():
            version = resource.resource_version
            if version <= after or not who.sees(resource.project):
                continue
            if len(page) >= limit and version != page[-1][0].resource_version:
                break
            page.append((resource, is_gone))
        return page

    async def events(
        self, who: Principal, after: int = 0, limit: int = 1000, project: str | None = None
    ) -> Sequence[Event]:
        """See `History.events`."""
        await self._ready("read")
        told = (e for e in self._shelf.events[after:] if who.sees(e.project))
        return [e for e in told if project in {None, e.project}][:limit]

    async def audit(
        self, who: Principal, after: int = 0, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """See `History.audit`."""
        await self._ready("read")
        return [r for r in self._shelf.audit[after:] if who.sees(r.project)][:limit]

    async def reply(self, who: Principal, reply_id: str) -> Reply | None:  # noqa: ARG002
        """See `History.reply`."""
        await self._ready("read")
        return self._shelf.replies.get(reply_id)

    async def record_usage(
        self, who: Principal, records: Sequence[Usage], span: Span | None = None, keep_from: int = 0
    ) -> Sequence[UsageTotal]:
        """See `History.record_usage`; lets nothing go."""
        await self._ready("commit" if records or span else "read")
        self._refuse_fenced()
        assert keep_from >= 0
        if span is None or span.start >= self._shelf.marks.get(span.segment, 0):
            for record in records:
                if record.id not in self._shelf.usage:
                    self._shelf.usage[record.id] = record
                    charge(self._shelf.books, [record])
            if span:
                self._shelf.marks[span.segment] = span.end
        totals: dict[tuple[str, str], list[int]] = {}
        for kept in self._shelf.usage.values():
            if who.sees(kept.project):
                sums = totals.setdefault((kept.project, kept.endpoint), [0, 0, 0, 0])
                measured = (1, kept.prompt_tokens, kept.cached_tokens, kept.output_tokens)
                sums[:] = [old + new for old, new in zip(sums, measured, strict=True)]
        if records:
            await self._trouble("committed")
        return [UsageTotal(*key, *sums) for key, sums in sorted(totals.items())]

    async def lend(
        self,
        who: Principal,  # noqa: ARG002
        asked: Asked,
        wants: Sequence[tuple[Want, int]],
    ) -> Sequence[Lent]:
        """See `History.lend`."""
        await self._ready("commit")
        self._refuse_fenced()
        lents = [lend(self._shelf.books, asked, want, limit) for want, limit in wants]
        await self._trouble("committed")
        return lents

    async def spent(self, who: Principal, day: int, month: int) -> Sequence[Spent]:
        """See `History.spent`."""
        await self._ready("read")
        rows = (row for rows in self._shelf.books.values() for row in rows.values())
        return [
            structs.replace(row) for row in rows
            if row.period in {day, month} and is_seen(who, row.owner)
        ]  # fmt: skip

    async def usage_mark(self, who: Principal, segment: str) -> int:  # noqa: ARG002
        """See `History.usage_mark`."""
        await self._ready("read")
        return self._shelf.marks.get(segment, 0)

    async def used(
        self, who: Principal, days: range, project: str | None, by: By
    ) -> Sequence[Used]:
        """See `History.used`."""
        await self._ready("read")
        lines: dict[tuple[str, int, str, str, str], list[int]] = {}
        for each in self._shelf.usage.values():
            payer, day = each.payer or each.project, day_of(each)
            if day in days and who.sees(payer) and project in {None, payer}:
                key = (each.key, each.key_uid) if by == "key" else ("", "")
                line = (payer, day * (by == "day"), each.model * (by == "model"), *key)
                counts = (1, each.estimated, each.prompt_tokens, each.cached_tokens,
                          each.output_tokens, micro_of(each.krw), micro_of(each.wh))  # fmt: skip
                sums = lines.setdefault(line, [0] * len(counts))
                sums[:] = map(sum, zip(sums, counts, strict=True))
        names: Any = ("project", "day", "model", "key", "key_uid", *COUNTS)
        told = (dict(zip(names, (*line, *sums), strict=True)) for line, sums in lines.items())
        return sorted((Used(**each) for each in told), key=lambda u: (u.project, _line(u)))

    async def backup(self, who: Principal, path: Path) -> None:
        """See `Store.backup`; as JSON."""
        refuse_backup(who)
        await self._ready("read")
        shelf = self._shelf
        body = {
            "term": shelf.term,
            "revision": shelf.revision,
            "resources": [r.shown() for r, is_gone in shelf.rows.values() if not is_gone],
            "events": [event.model_dump(mode="json") for event in shelf.events],
        }
        await asyncio.to_thread(path.write_text, json.dumps(body))

    async def health(self) -> Health:
        """See `Store.health`."""
        await self._ready("read")
        return Health("memory", "1", "memory")

    async def close(self) -> None:
        """See `Store.close`; again is a no-op."""
        self._is_open = False
        if self._shelf.holder is self:
            self._shelf.holder = None

    def _refuse_fenced(self) -> None:
        if self._shelf.holder is not self:
            raise Unavailable("store.superseded", term=0, newest=self._shelf.term)

    async def _ready(self, when: When) -> None:
        if not self._is_open:
            raise Unavailable("store.closed")
        await self._trouble(when)


def _guard(
    each: Write,
    rows: dict[Key, tuple[AnyResource, bool]],
    names: dict[tuple[str, str, str], str],
) -> AnyResource | None:
    """Return what was there before; raises `Conflict` for a write planned from something else."""
    resource = each.resource
    subject = f"{resource.kind}/{resource.name}"
    before, was_gone = rows.get((resource.kind, resource.uid), (None, True))
    if resource.resource_version == 0 and not each.gone:
        if before or (resource.kind, resource.project, resource.name) in names:
            raise Conflict("store.name-taken", subject, project=resource.project)
        return None
    if (
        before is None
        or was_gone
        or before.ref != resource.ref
        or (before.resource_version != resource.resource_version)
    ):
        raise Conflict("store.stale", subject, version=resource.resource_version)
    return before


def _line(used: Used) -> tuple[int, str, str, str]:
    return used.day, used.model, used.key, used.key_uid
