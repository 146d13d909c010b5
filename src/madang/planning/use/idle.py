"""What becomes of accelerators that stand idle: whoever has them is warned, and then loses them.

Only measured idleness counts, by the seconds that control has watched: what nobody knows is not
idle, and no clock that is set takes anything away. Use that is not below the policy's part, at one
reading of the meter, begins all of it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from madang.errors import Value
from madang.planning.action import Action, Verb
from madang.planning.attempts.attempts import ask_to_save
from madang.planning.attempts.blame import Blame
from madang.planning.services.replicas import leave
from madang.planning.snapshot import Snapshot
from madang.planning.tally import pool_of
from madang.resources.attempt import Attempt, AttemptPhase, Outcome
from madang.resources.idle import Meter, Reclaim, Then
from madang.resources.job import Job
from madang.resources.quantity import written_duration
from madang.resources.quota import Quota
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import AnyResource, Reason, Ref
from madang.resources.service import Service

SLICE_S_MAX = 3600.0
SLICE_S_MIN = 5.0
SLICES = 12
"""So often, at least, it is looked within the time after which something is taken back."""
WARNED_AT = 0.5
"""The part of that time after which there is a warning; the rest is left to do something."""
WORKING = frozenset({AttemptPhase.STARTING, AttemptPhase.RUNNING})
Owner = Replica | Attempt


class Policies:
    """What holds for whom, looked up once for each project and node."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._of_projects: dict[str, Reclaim | None] = {}
        self._of_nodes: dict[str, Reclaim | None] = {}

    def of(self, owner: Owner) -> Reclaim | None:
        """Return what holds: of its project, else its organization, else its pool."""
        place = owner.project
        if place not in self._of_projects:
            self._of_projects[place] = policy_in(place, self._snapshot)
        if own := self._of_projects[place]:
            return own
        places = owner.status.places if isinstance(owner, Attempt) else (owner.status,)
        node = places[0].node if places else ""
        if node not in self._of_nodes:
            pool = pool_of(node, self._snapshot)
            self._of_nodes[node] = pool.spec.reclaim if pool else None
        return self._of_nodes[node]


def policy_of(owner: Owner, snapshot: Snapshot) -> Reclaim | None:
    """Return what holds for one holder."""
    return Policies(snapshot).of(owner)


def policy_in(project: str, snapshot: Snapshot) -> Reclaim | None:
    """Return what the quotas of a project say, its own first."""
    for place in dict.fromkeys((project, project.partition("/")[0])):
        quota = snapshot.get(Quota, Ref(place, place.rpartition("/")[2]))
        if quota and quota.spec.reclaim:
            return quota.spec.reclaim
    return None


def slice_s(policy: Reclaim | None) -> float:
    """Return how often meters are read where that holds."""
    if policy is None:
        return SLICE_S_MAX
    return min(SLICE_S_MAX, max(SLICE_S_MIN, policy.over / SLICES))


def told_of(owner: Owner, snapshot: Snapshot) -> AnyResource:
    """Return what people know a holder by: its job, or its service."""
    found: AnyResource | None = (
        snapshot.services.get(owner.service) if isinstance(owner, Replica)
        else snapshot.jobs.get(owner.job)
    )  # fmt: skip
    return found or owner


def plan_idle(snapshot: Snapshot) -> Iterator[Action]:
    """Warn whoever has stood idle for half of the time, and take back what has for all of it."""
    smaller: dict[Ref, Service] = {}
    owners: list[Owner] = [*snapshot.living, *snapshot.replicas.values()]
    idle, policies = (each for each in owners if _is_idle(each)), Policies(snapshot)
    for owner in sorted(idle, key=lambda each: each.ref):
        meter, policy = owner.status.meter, policies.of(owner)
        if meter is None or policy is None or meter.below != policy.below:
            continue
        if meter.warned_s is None and meter.idle_s >= WARNED_AT * policy.over:
            yield _warn(owner, meter, policy, snapshot)
        elif is_due(meter.idle_s, meter.warned_s, policy) and takes(owner, policy):
            yield from _take(owner, policy, snapshot, smaller)


def is_due(idle_s: float, warned_s: float | None, policy: Reclaim) -> bool:
    """Tell whether it is taken back now: never without a warning, nor sooner than that said."""
    if warned_s is None or policy.then is Then.WARN:
        return False
    return idle_s >= policy.over and idle_s - warned_s >= (1 - WARNED_AT) * policy.over


def takes(owner: Owner, policy: Reclaim) -> bool:
    """Tell whether a policy takes from such a holder what stands idle, or leaves it at words."""
    if isinstance(owner, Attempt):
        return policy.then in {Then.SUSPEND, Then.SCALE_DOWN}
    return policy.then is Then.SCALE_DOWN


def _is_idle(owner: Owner) -> bool:
    """Tell whether it stood idle when it was last looked at, and is not about to leave."""
    meter = owner.status.meter
    if meter is None or not meter.idle_s:
        return False
    if isinstance(owner, Attempt):
        return owner.status.phase in WORKING
    return owner.status.phase is ReplicaPhase.READY


def _warn(owner: Owner, meter: Meter, policy: Reclaim, snapshot: Snapshot) -> Action:
    reason = warning(owner, meter, policy)
    warned: AnyResource = owner.with_status(
        meter=meter.model_copy(update={"warned_s": meter.idle_s}), reason=reason
    )
    return Action(Verb.WARN_IDLE, told_of(owner, snapshot), reason, (warned,))


def warning(owner: Owner, meter: Meter, policy: Reclaim) -> Reason:
    """Say that something stands idle, what becomes of it and when, and what helps."""
    code = "idle.warned-only"
    if takes(owner, policy):
        code = "idle.warned-job" if isinstance(owner, Attempt) else "idle.warned-service"
    return Reason(code=code, values=values_of(meter.idle_s, meter.warned_s, policy))


def warning_of(owner: Owner, snapshot: Snapshot) -> Reason | None:
    """Say that a holder is warned of, as it is by now; None: it is not."""
    meter = owner.status.meter
    if meter is None or meter.warned_s is None or meter.closed:
        return None
    policy = policy_of(owner, snapshot)
    return warning(owner, meter, policy) if policy else None


def values_of(idle_s: float, warned_s: float | None, policy: Reclaim) -> dict[str, Value]:
    """Return what sentences about idleness are given."""
    since_s = idle_s if warned_s is None else warned_s
    left_s = max(policy.over - idle_s, (1 - WARNED_AT) * policy.over - (idle_s - since_s), 0.0)
    return {
        "percent": round(100 * policy.below, 1), "over": written_duration(policy.over),
        "idle": written_duration(idle_s), "left": written_duration(left_s),
    }  # fmt: skip


def _take(
    owner: Owner, policy: Reclaim, snapshot: Snapshot, smaller: dict[Ref, Service]
) -> Iterator[Action]:
    """Have a job save and rest, or a service do with one replica less than so far."""
    subject, meter = told_of(owner, snapshot), owner.status.meter
    assert meter is not None
    values = values_of(meter.idle_s, meter.warned_s, policy)
    if isinstance(owner, Attempt) and isinstance(subject, Job):
        why = Reason(code="idle.suspended", values=values)
        asked = ask_to_save(subject, owner, snapshot, Blame(Outcome.PREEMPTED, why))
        yield replace(asked, writes=(*asked.writes, subject.with_status(rests=True)))
    elif isinstance(owner, Replica) and isinstance(subject, Service):
        why = Reason(code="idle.scaled-down", values=values)
        action = leave(owner, snapshot, why)
        if action:
            now = smaller.get(subject.ref, subject)
            rested = min(now.most, now.status.rested + 1)
            smaller[subject.ref] = now.with_status(rested=rested)
            yield replace(action, writes=(*action.writes, smaller[subject.ref]))
