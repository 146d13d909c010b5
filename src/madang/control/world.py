"""The world in memory: the store's change feed, folded. Everything is read from here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from madang.errors import Rejected, Unavailable
from madang.months import day_number, month_of
from madang.planning.ages import Ages, watched
from madang.planning.share.rule import RULE
from madang.planning.snapshot import EngineFacts, Seen, Snapshot
from madang.ports import Clock, History, Reply, Store, ToReply, UsageTotal, Write
from madang.resources.bill import Span
from madang.resources.event import Event
from madang.resources.resource import AnyResource, Ref
from madang.resources.rights import CONTROL, GATEWAY, Principal
from madang.resources.tariff import Tokens
from madang.settings import USAGE_DAYS
from madang.traffic.leases import Asked, Lent, Spent, Want
from madang.traffic.table import Usage

T = TypeVar("T", bound=AnyResource)

NOTHING: Mapping[Ref, AnyResource] = MappingProxyType({})


def first(stored: Sequence[AnyResource]) -> AnyResource | None:
    """Return the first of what was stored, which is what most requests are about."""
    return stored[0] if stored else None


class Pending:
    """A request under way whose answer is to be kept with the first thing it writes."""

    def __init__(self, reply: Callable[[Any], Reply]) -> None:
        self.reply = reply
        self.is_kept = False


pending: ContextVar[Pending | None] = ContextVar("pending", default=None)
"""Set by `control.once` for all that one request does, so that no way to write can forget it."""


class Kept(Store, History, Protocol):
    """A store with its history: one adapter is both."""


class World:
    """Every living resource, as of `revision`. Snapshots of it never change.

    Each call says who asks, and is told only of what lies at that caller's place.
    """

    def __init__(self, store: Kept, engines: Mapping[str, EngineFacts], clock: Clock) -> None:
        self.store = store
        self.engines = engines
        self.clock = clock
        self.term = 0
        self.revision = 0
        self._usage: Sequence[UsageTotal] = ()
        self._kept: dict[str, dict[Ref, AnyResource]] = {}
        self._ages: Ages = {}
        self.tick = 0
        """Grows whenever there is something to look at again."""
        self.moves_per_100 = 0
        """Of a hundred replicas that came last, how many may have come by a move."""
        self.fairness_budget = RULE.budget
        """Of what it is entitled to, so much a project may go short of."""
        self.jobs_kept = 0
        """Of each project, so many jobs that are over; 0: all."""
        self._tokens: dict[str, Tokens] = {}
        self._began_at = clock.now()
        self.usage_days = USAGE_DAYS
        """So long records of usage are kept; what they say stays in the sums."""
        self.encloses = False
        """Whether jobs are started in sandboxes;"""
        self.unenclosed = ""
        """and why not."""
        self.closing = False
        """True once control is about to end: nobody should wait for anything any more."""
        self._moved = asyncio.Event()
        self._doubt: int | None = None
        """What happened after this revision is not sure: a commit failed, and may be stored."""
        self._reading = asyncio.Lock()
        self._superseded = asyncio.Event()
        self._commits: set[asyncio.Task[Sequence[AnyResource]]] = set()

    async def open(self) -> None:
        """Take the store, with a new term, and read all of it."""
        self.term = await self.store.open()
        self.revision, resources = await self.store.load(CONTROL)
        self._take_in(resources)
        self._usage = await self.store.record_usage(GATEWAY, ())

    def snapshot(self, who: Principal, seen: Seen | None = None) -> Snapshot:
        """Return this moment; costs a dictionary of as many entries as there are kinds.

        Planning needs all of it to decide what becomes of anything, so only a part of Madang may
        ask; what a person is told of a decision is cut to their place by whoever tells it.
        """
        assert not who.where, f"{who.actor} must not plan with what is others'"
        return Snapshot(
            now=self.clock.now(),
            term=self.term,
            kept=dict(self._kept),
            engines=self.engines,
            seen=seen or Seen(),
            steady_s=self.clock.monotonic(),
            ages=self._ages,
            moves_per_100=self.moves_per_100,
            fairness_budget=self.fairness_budget,
            jobs_kept=self.jobs_kept,
            encloses=self.encloses,
        )

    def get(self, who: Principal, kind: type[T], ref: Ref) -> T | None:
        """Return one resource; None where there is none for this caller."""
        found = self._kept.get(kind.kind, {}).get(ref) if who.sees(ref.project) else None
        return found if isinstance(found, kind) else None

    def list(self, who: Principal, kind: str) -> Mapping[Ref, AnyResource]:
        """Return the caller's resources of a kind. Not to be changed; changes make another one.

        Of whoever sees all, the same object as long as nothing of that kind has changed.
        """
        kept = self._kept.get(kind, NOTHING)
        return {r: v for r, v in kept.items() if who.sees(r.project)} if who.where else kept

    def usage(self, who: Principal) -> Sequence[UsageTotal]:
        """Return what each of the caller's endpoints has been used for."""
        return [total for total in self._usage if who.sees(total.project)]

    async def commit(
        self,
        who: Principal,
        changed: Iterable[AnyResource] = (),
        gone: Iterable[AnyResource] = (),
        events: Sequence[Event] = (),
        result: Callable[[Sequence[AnyResource]], Any] = first,
    ) -> Sequence[AnyResource]:
        """Write all of it or none, then fold it in and wake whoever waits for a change.

        `result` makes of what is stored what the request under way is answered with.
        Raises `Conflict` when something was written by somebody else since it was read, and
        `Unavailable` with code `store.outcome-unknown` when nobody saw whether it was stored.
        """
        writes = [Write(r) for r in changed] + [Write(r, gone=True) for r in gone]
        asked, to_reply = pending.get(), None
        if asked is not None and not asked.is_kept:
            make = asked.reply
            to_reply = lambda stored: make(result(stored))  # noqa: E731
        work = asyncio.create_task(self._commit(who, writes, events, to_reply))
        self._commits.add(work)
        work.add_done_callback(self._commits.discard)
        # Whoever waits may be cancelled; what was stored must be folded in all the same.
        stored = await asyncio.shield(work)
        if asked is not None:
            asked.is_kept = True
        return stored

    async def _commit(
        self,
        who: Principal,
        writes: Sequence[Write],
        events: Sequence[Event],
        to_reply: ToReply | None,
    ) -> Sequence[AnyResource]:
        await self.be_sure()
        before = self.revision
        try:
            stored = await self.store.commit(who, writes, events, to_reply)
        except Unavailable as error:
            if error.code == "store.superseded":
                self._superseded.set()
            self._doubt_all_after(before)
            self.wake()
            raise
        self._fold([(r, w.gone) for r, w in zip(stored, writes, strict=True)])
        return stored

    def _doubt_all_after(self, revision: int) -> None:
        self._doubt = revision if self._doubt is None else min(revision, self._doubt)

    async def be_sure(self) -> None:
        """Read the feed again if a commit has failed: it may be stored, and its answer lost.

        Raises `Unavailable` while the store can't be read.
        """
        if self._doubt is None and not self._reading.locked():
            return
        async with self._reading:
            while (doubt := self._doubt) is not None:
                self._doubt = None
                try:
                    await self._reread(doubt)
                except Unavailable:
                    self._doubt_all_after(doubt)
                    raise
        self.wake()

    async def _reread(self, after: int) -> None:
        """Fold in what the store has after that revision; all of it where the feed is too short."""
        try:
            while page := await self.store.changes(CONTROL, after):
                self._fold(page)
                after = page[-1][0].resource_version
        except Rejected:
            self.revision, resources = await self.store.load(CONTROL)
            self._take_in(resources)

    def _take_in(self, resources: Sequence[AnyResource]) -> None:
        """Be as the store is; what has not changed meanwhile keeps its age."""
        known = {r.uid: self._ages[r.uid] for r in resources if r.uid in self._ages}
        self._ages = watched(known, resources, (), self.clock.monotonic())
        self._kept = {}
        for resource in resources:
            self._kept.setdefault(resource.kind, {})[resource.ref] = resource

    async def until_superseded(self) -> None:
        """Return never; raises `Unavailable` once another control has taken the store over."""
        await self._superseded.wait()
        raise Unavailable("control.superseded", term=self.term)

    async def record_usage(
        self, who: Principal, records: Sequence[Usage], span: Span | None = None
    ) -> None:
        """Keep what gateways measured; a second delivery changes nothing. What is old may go."""
        keep_from = day_number(self.clock.now()) - self.usage_days
        self._usage = await self.store.record_usage(who, records, span, max(0, keep_from))
        for each in records:
            if each.at >= self._began_at:
                prompt, cached, output = self._tokens.get(each.replica, (0, 0, 0))
                self._tokens[each.replica] = (
                    prompt + each.prompt_tokens, cached + each.cached_tokens,
                    output + each.output_tokens,
                )  # fmt: skip

    def take_tokens(self) -> Mapping[str, Tokens]:
        """Return what replicas read and wrote since this was last asked, by their uid.

        Only of requests that ended since this control began: of others it didn't see the time.
        """
        taken, self._tokens = self._tokens, {}
        return taken

    async def lend(
        self, who: Principal, asked: Asked, wants: Sequence[tuple[Want, int]]
    ) -> Sequence[Lent]:
        """Lend a gateway what it wants of budgets, each with its limit."""
        return await self.store.lend(who, asked, wants)

    async def spent(self, who: Principal) -> Sequence[Spent]:
        """Return what is spent and lent of budgets, of today and of this month."""
        now = self.clock.now()
        return await self.store.spent(who, day_number(now), month_of(now).number)

    def _fold(self, changes: Sequence[tuple[AnyResource, bool]]) -> None:
        """Replace the dictionaries of the kinds that changed; older snapshots keep theirs."""
        changed = [resource for resource, is_gone in changes if not is_gone]
        gone = [resource for resource, is_gone in changes if is_gone]
        self._ages = watched(self._ages, changed, gone, self.clock.monotonic())
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
