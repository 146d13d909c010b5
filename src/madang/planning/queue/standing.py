"""Where one that waits stands in its queue: who is before it and why, and what its project has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from madang.errors import Value
from madang.planning.queue.clock import passed_s
from madang.planning.queue.lanes import MILLI, Lane, ledger_of
from madang.planning.queue.order import Order, Place
from madang.planning.queue.turns import due_s
from madang.planning.share.turn import Why
from madang.planning.snapshot import Snapshot
from madang.resources.job import Job
from madang.resources.queue import Queue
from madang.resources.replica import Replica
from madang.resources.resource import Reason

GIVEN = {
    Why.AGED: "queue.given-aged", Why.GUARANTEED: "queue.given-share",
    Why.WORTH: "queue.given-worth",
}  # fmt: skip
"""For what one is to have room now that placement has none for."""


def findings(waiter: Job | Replica, order: Order, snapshot: Snapshot) -> Iterator[Reason]:
    """Return where it stands, in sentences."""
    lane = next((each for each in order.lanes.values() if each.has(waiter)), None)
    if lane is None:
        return
    place = order.place(waiter) if isinstance(waiter, Job) else None
    if place and place.ahead:
        yield from _ahead(place, order)
    yield _fixed(lane)
    yield _project(waiter.project, lane)
    if place and place.why is not Why.NONE:
        seconds = max(0, round(due_s(lane, snapshot)))
        yield Reason(code=GIVEN[place.why], values={"seconds": seconds})
    elif place and _has_its_share(waiter.project, lane):
        yield Reason(code="queue.has-share", values={"project": waiter.project})


def _ahead(place: Place, order: Order) -> Iterator[Reason]:
    """Say how many of its own queue are before it, and for what."""
    before = [o for each in order.waiting[: place.ahead] if (o := order.place(each))]
    own = [each for each in before if each.lane is place.lane]
    higher = [each for each in own if each.height > place.height]
    why = Counter(each.why for each in own if each.height == place.height)
    values: dict[str, Value] = {
        "kind": place.lane.kind, "place": len(own) + 1, "waiting": place.lane.waiting,
        "higher": len(higher), "aged": why[Why.AGED], "share": why[Why.GUARANTEED],
        "worth": why[Why.WORTH] + why[Why.NONE],
    }  # fmt: skip
    yield Reason(code="queue.place", values=values)


def _fixed(lane: Lane) -> Reason:
    milli = lane.here.rows["milli"][lane.line.fixed].sum()
    values: dict[str, Value] = {"fixed": float(milli) / MILLI, "capacity": lane.capacity}
    return Reason(code="queue.fixed", values=values)


def _project(project: str, lane: Lane) -> Reason:
    """Say what a project is entitled to, has, is promised, and went short of."""
    at, now, claims = lane.index[project], lane.shares, lane.claims
    values: dict[str, Value] = {
        "project": project, "capacity": lane.capacity, "weight": float(claims.weight[at]),
        "entitled": round(float(now.entitled[at]), 2), "held": round(float(now.held[at]), 2),
        "guaranteed": round(float(claims.guaranteed[at]), 2),
        "short": round(100 * float(lane.ledger.shortfall()[at]), 1),
        "budget": round(100 * lane.rule.budget, 2),
    }  # fmt: skip
    return Reason(code="queue.project", values=values)


def _has_its_share(project: str, lane: Lane) -> bool:
    at = lane.index[project]
    return bool(lane.shares.held[at] >= lane.shares.entitled[at])


def told(queue: Queue, snapshot: Snapshot) -> Queue:
    """Return a queue with what each project has gone short of by now."""
    names = list(queue.status.projects)
    ledger = ledger_of(queue.status.projects, names, passed_s(snapshot, queue.uid, queue.status.at))
    short = dict(zip(names, ledger.shortfall().tolist(), strict=True))
    shown: Queue = queue.with_status(projects={
        name: row.model_copy(update={"shortfall": short[name]})
        for name, row in queue.status.projects.items()
    })  # fmt: skip
    return shown
