"""The world in memory: the store's change feed, folded. Everything is read from here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from madang.planning.snapshot import EngineFacts, Seen, Snapshot
from madang.ports import Clock, Store, UsageTotal, Write
from madang.resources.event import Event
from madang.resources.resource import AnyResource, Ref
from madang.traffic.table import Usage

T = TypeVar("T", bound=AnyResource)


class World:
    """Every living resource, as of `revision`. Snapshots of it never change."""

    def __init__(self, store: Store, engines: Mapping[str, EngineFacts], clock: Clock) -> None:
        self.store = store
        self.engines = engines
        self.clock = clock
        self.term = 0
        self.revision = 0
        self.usage: Sequence[UsageTotal] = ()
        """What each endpoint has been used for."""
        self._kept: dict[str, dict[Ref, AnyResource]] = {}
        self.tick = 0
        """Grows whenever there is something to look at again."""
        self.closing = False
        """True once control is about to end: nobody should wait for anything any more."""
        self._moved = asyncio.Event()
        self._commits: set[asyncio.Task[Sequence[AnyResource]]] = set()

    async def open(self) -> None:
        """Take the store, with a new term, and read all of it."""
        self.term = await self.store.open()
        self.revision, resources = await self.store.load()
        for resource in resources:
            self._kept.setdefault(resource.kind, {})[resource.ref] = resource
        self.usage = await self.store.record_usage(())

    def snapshot(self, seen: Seen | None = None) -> Snapshot:
        """Return this moment; costs a dictionary of as many entries as there are kinds."""
        return Snapshot(
            now=self.clock.now(),
            term=self.term,
            kept=dict(self._kept),
            engines=self.engines,
            seen=seen or Seen(),
        )

    def get(self, kind: type[T], ref: Ref) -> T | None:
        """Return one resource, or None."""
        found = self._kept.get(kind.kind, {}).get(ref)
        return found if isinstance(found, kind) else None

    def list(self, kind: str) -> Mapping[Ref, AnyResource]:
        """Return every resource of a kind. Not to be changed; changes make another one."""
        return self._kept.get(kind, {})

    async def commit(
        self,
        changed: Iterable[AnyResource] = (),
        gone: Iterable[AnyResource] = (),
        events: Sequence[Event] = (),
    ) -> Sequence[AnyResource]:
        """Write all of it or none, then fold it in and wake whoever waits for a change.

        Raises `Conflict` when something was written by somebody else since it was read.
        """
        writes = [Write(r) for r in changed] + [Write(r, gone=True) for r in gone]
        work = asyncio.create_task(self._commit(writes, events))
        self._commits.add(work)
        work.add_done_callback(self._commits.discard)
        # Whoever waits may be cancelled; what was stored must be folded in all the same.
        return await asyncio.shield(work)

    async def _commit(
        self, writes: Sequence[Write], events: Sequence[Event]
    ) -> Sequence[AnyResource]:
        stored = await self.store.commit(writes, events)
        self._fold(zip(stored, (write.gone for write in writes), strict=True))
        return stored

    async def record_usage(self, records: Sequence[Usage]) -> None:
        """Keep what gateways measured; a second delivery changes nothing."""
        self.usage = await self.store.record_usage(records)

    def _fold(self, changes: Iterable[tuple[AnyResource, bool]]) -> None:
        """Replace the dictionaries of the kinds that changed; older snapshots keep theirs."""
        fresh: dict[str, dict[Ref, AnyResource]] = {}
        for resource, is_gone in changes:
            kept = fresh.setdefault(resource.kind, dict(self._kept.get(resource.kind, {})))
            if is_gone:
                kept.pop(resource.ref, None)
            else:
                kept[resource.ref] = resource
            self.revision = max(self.revision, resource.resource_version)
        self._kept.update(fresh)
        self.wake()

    def wake(self) -> None:
        """Let everybody look again."""
        self.tick += 1
        self._moved.set()
        self._moved = asyncio.Event()

    def close(self) -> None:
        """Send everybody who waits away."""
        self.closing = True
        self.wake()

    def left_s(self, deadline: float) -> float:
        """Return how long until a deadline (monotonic seconds); nothing while closing."""
        return 0.0 if self.closing else deadline - self.clock.monotonic()

    async def moved(self, since: int, timeout_s: float) -> None:
        """Return when `tick` is no longer `since`, or after that long."""
        if self.tick != since:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._moved.wait()
        except TimeoutError:
            return
