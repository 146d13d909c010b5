"""Who leaves where a quota is broken: it was lowered, a grant has ended, or the money is spent.

Politely: jobs save first, those that count for least and came last in front; and services only
where all jobs together are not enough. From whom somebody takes over counts as gone until that one
serves, and then goes before all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from madang.planning.action import Action
from madang.planning.attempts.attempts import ask_to_save
from madang.planning.attempts.blame import Blame
from madang.planning.leaving import LEAVING
from madang.planning.place.ground import Ground
from madang.planning.quotas import LETTING_GO, Books, Holder, Limit, counted, holders, places_of
from madang.planning.services.replicas import leave
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import Attempt, AttemptPhase, Outcome
from madang.resources.replica import Replica
from madang.resources.resource import Reason

STAYING = frozenset({AttemptPhase.STARTING, AttemptPhase.RUNNING})
REPLACED = "revision.replaced"
GOING = LEAVING | LETTING_GO
"""What has something for a moment only, and asks its quotas before it has any again."""


def plan_over(snapshot: Snapshot, ground: Ground) -> Iterator[Action]:
    """Have those leave that are more than a quota allows; quiet where none is broken."""
    staying = [h for h in holders(snapshot) if _stays(h)] if ground.books.limits else []
    for place, limits in sorted(ground.books.limits.items()):
        own = [h for h in staying if place in places_of(h.owner.project)]
        for limit in limits if own else ():
            now = ground.books.now(limit)
            chosen = _chosen(now, own, ground.books, snapshot)
            if chosen:
                yield from _let_go(chosen, now.cause, snapshot, ground.books)
                return


def _stays(holder: Holder) -> bool:
    owner = holder.owner
    phase = owner.status.phase
    return phase in STAYING if isinstance(owner, Attempt) else phase not in GOING


def _chosen(
    limit: Limit, staying: Sequence[Holder], books: Books, snapshot: Snapshot
) -> Sequence[Attempt | Replica]:
    """Return who leaves for one limit: as few as will do, in the order in which they go."""
    has: dict[str, int] = {}
    owners: dict[str, Attempt | Replica] = {}
    relieved = books.overlaps.relieved
    for holder in staying:
        if relieved.get(holder.owner.uid) is False:
            continue
        amount = counted(books.amounts(holder.held), limit)
        if amount and isinstance(holder.owner, Attempt | Replica):
            has[holder.owner.uid] = has.get(holder.owner.uid, 0) + amount
            owners[holder.owner.uid] = holder.owner
    most = limit.most
    if limit.what == "krw":
        most = 0 if limit.used >= limit.most else sum(has.values())
    over, chosen = sum(has.values()) - most, []
    for owner in sorted(
        owners.values(), key=lambda each: (each.uid not in relieved, *_mark(each, snapshot))
    ):
        if over <= 0:
            break
        chosen.append(owner)
        over -= has[owner.uid]
    for owner in tuple(chosen[:-1]):
        if over + has[owner.uid] <= 0:
            chosen.remove(owner)
            over += has[owner.uid]
    return chosen


def _mark(owner: Attempt | Replica, snapshot: Snapshot) -> tuple[int, int, float, str]:
    """Return what is ordered by: jobs first, what counts for least, what came last."""
    job = snapshot.jobs.get(owner.job) if isinstance(owner, Attempt) else None
    height = job.spec.priority.height if job else 0
    came = job.created_at if job else owner.created_at
    return isinstance(owner, Replica), height, -came, owner.uid


def _let_go(
    chosen: Sequence[Attempt | Replica], cause: Reason, snapshot: Snapshot, books: Books
) -> Iterator[Action]:
    for owner in chosen:
        if isinstance(owner, Replica):
            is_replaced = owner.uid in books.overlaps.relieved
            action = leave(owner, snapshot, Reason(code=REPLACED) if is_replaced else cause)
            if action:
                yield action
        elif job := snapshot.jobs.get(owner.job):
            yield ask_to_save(job, owner, snapshot, Blame(Outcome.PREEMPTED, cause))
