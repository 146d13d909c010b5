"""How many replicas a service of a range is to have: as many as are called for.

More at once, fewer only after a while: requests under way and waiting, and how long the first of
them has waited, drive it up; what was the most of them in all of its `idle` time lets it down. So
whoever goes down has seen no need of more for that long, and nothing makes it go up and down
sooner than once in that time.
"""

from __future__ import annotations

from madang.errors import Value
from madang.planning.action import Action, Verb
from madang.planning.snapshot import Demand, Snapshot
from madang.resources.quantity import written_duration
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Reason
from madang.resources.scale import Scale
from madang.resources.service import Service

WAITED_S = 5.0
"""Somebody who waits so long while just those serve that are wanted calls for one more."""
NONE = Demand()


def plan_scale(
    service: Service, replicas: tuple[Replica, ...], snapshot: Snapshot
) -> Action | None:
    """Return the change of how many replicas a service wants; None: they are as many as needed."""
    scale, status = service.range, service.status
    if scale is None:
        return None
    demand = snapshot.seen.demand.get(service.ref, NONE)
    ready = sum(replica.status.phase is ReplicaPhase.READY for replica in replicas)
    calm_s = min(demand.known_s, snapshot.age_s(service.uid, status.scaled_at))
    aim, code = aimed(scale, service.wanted, ready, demand, calm_s)
    if aim == service.wanted:
        return None
    values: dict[str, Value] = {
        "before": service.wanted, "after": aim, "busy": demand.busy, "waiting": demand.waiting,
        "seconds": round(demand.wait_s, 1), "peak": demand.peak,
        "inflight": scale.inflight, "idle": written_duration(scale.idle),
    }  # fmt: skip
    changed: Service = service.with_status(scaled=aim, scaled_at=snapshot.now, rested=0)
    return Action(Verb.SCALE_SERVICE, service, Reason(code=code, values=values), (changed,))


def aimed(
    scale: Scale, wanted: int, ready: int, demand: Demand, calm_s: float
) -> tuple[int, str]:  # fmt: skip
    """Return how many it is to have, and why, as a code; the same number: nothing changes.

    `calm_s` is for how long both the demand has been watched and the number has been as it is.
    """
    needed = scale.clamp(-(-demand.busy // scale.inflight))
    if needed > wanted:
        return needed, "service.grown"
    is_short = demand.waiting and demand.wait_s >= WAITED_S and ready == wanted
    if is_short and wanted < scale.max:
        return wanted + 1, "service.grown-slow"
    enough = scale.clamp(-(-demand.peak // scale.inflight))
    if enough < wanted and calm_s >= scale.idle:
        return enough, "service.shrunk" if enough else "service.fell-asleep"
    return wanted, ""


def asleep(service: Service) -> Reason | None:
    """Say that a service has no replica until it is called; None: that is not so."""
    scale = service.range
    if scale is None or service.wanted:
        return None
    values: dict[str, Value] = {
        "idle": written_duration(scale.idle), "hold": written_duration(scale.hold)
    }  # fmt: skip
    return Reason(code="service.asleep", values=values)
