"""Jobs and queues of two worlds, told side by side: who has what, and when the rest would start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from madang.answers import Json
from madang.planning.memo import Memo
from madang.planning.queue.lanes import Lane
from madang.planning.snapshot import Snapshot
from madang.resources.job import Job, JobPhase
from madang.resources.resource import Ref
from madang.twin.forward import LEARNT_LEAST, Forecast, forecasts, start_of


def jobs(before: Snapshot, after: Snapshot) -> Iterator[Json]:
    """Give each job that would run in one world and not in the other."""
    for ref, job in sorted(after.jobs.items()):
        was, now = _runs(before, ref), _runs(after, ref)
        if was != now and not job.spec.sweep:
            yield {"project": ref.project, "job": ref.name, "before": was, "after": now}


def _runs(snapshot: Snapshot, ref: Ref) -> bool:
    job = snapshot.jobs.get(ref)
    return job is not None and job.status.phase is JobPhase.RUNNING


@dataclass(frozen=True, slots=True)
class Share:
    """What one project has of one kind of accelerators."""

    weight: float = 1.0
    entitled: float = 0.0
    held: float = 0.0
    waiting: int = 0
    """Jobs in line."""
    start_s: float | None = 0.0
    """The mean of when they would start, seconds from now; None: one was not seen to start, or
    nothing is learnt yet of how long jobs run."""


NOTHING = Share()
UNKNOWN = Forecast(math.inf, math.inf, 0.0)


def queues(before: Snapshot, after: Snapshot) -> Iterator[Json]:
    """Give each project in each queue, in both worlds."""
    was, now = _shares(before), _shares(after)
    for kind, project in sorted({*was, *now}):
        one, other = was.get((kind, project), NOTHING), now.get((kind, project), NOTHING)
        yield {
            "kind": kind, "project": project,
            **{f"{name}_before": getattr(one, name) for name in Share.__slots__},
            **{f"{name}_after": getattr(other, name) for name in Share.__slots__},
        }  # fmt: skip


def _shares(snapshot: Snapshot) -> Mapping[tuple[str, str], Share]:
    found = {}
    for kind, lane in Memo().order(snapshot).lanes.items():
        starts = _starts_s(lane)
        for at, project in enumerate(lane.projects):
            own = starts.get(project, [])
            mean_s = sum(own) / len(own) if own else 0.0
            found[kind, project] = Share(
                float(lane.claims.weight[at]), round(float(lane.shares.entitled[at]), 3),
                round(float(lane.shares.held[at]), 3), len(own),
                round(mean_s, 1) if math.isfinite(mean_s) else None,
            )  # fmt: skip
    return found


def _starts_s(lane: Lane) -> Mapping[str, list[float]]:
    """Return when the waiting jobs of each project would start."""
    waiting = [isinstance(m.owner, Job) and not m.runs for m in lane.present]
    found: dict[str, list[float]] = {}
    if not any(waiting):
        return found
    start = start_of(lane)
    is_learnt = start.learnt >= LEARNT_LEAST
    likely = forecasts(start) if is_learnt else [UNKNOWN] * len(waiting)
    for member, waits, each in zip(lane.present, waiting, likely, strict=True):
        if waits:
            found.setdefault(member.owner.project, []).append(each.likely_s)
    return found
