"""Resources as people are told of them: what is stored, what pools draw now, projects spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from madang.control.world import World
from madang.planning.layout import drawing, is_processor
from madang.planning.queue.standing import told as queue_told
from madang.planning.quotas import Books
from madang.planning.quotas import told as quota_told
from madang.planning.snapshot import Snapshot
from madang.planning.tally import spent_in
from madang.resources.place import Pool, PoolStatus
from madang.resources.power import milliwatts
from madang.resources.queue import Queue
from madang.resources.quota import Quota
from madang.resources.resource import AnyResource
from madang.resources.rights import CONTROL
from madang.resources.tenancy import Project

MW_PER_KW = 10**6
HOUR_S = 3600.0


def shown(world: World, found: Iterable[AnyResource]) -> list[dict[str, Any]]:
    """Return resources as JSON, for whoever may see them."""
    told = list(found)
    if not any(isinstance(r, Pool | Project | Quota | Queue) for r in told):
        return [r.shown() for r in told]
    snapshot = world.snapshot(CONTROL)
    drawn = power(snapshot) if any(isinstance(r, Pool) for r in told) else {}
    if any(isinstance(r, Quota) for r in told):
        books = Books(snapshot)
        told = [quota_told(r, snapshot, books) if isinstance(r, Quota) else r for r in told]
    told = [queue_told(r, snapshot) if isinstance(r, Queue) else r for r in told]
    told = [_with_hours(r, snapshot) if isinstance(r, Project) else r for r in told]
    return [r.model_copy(update={"status": drawn.get(r.uid, r.status)}).shown() for r in told]


def _with_hours(project: Project, snapshot: Snapshot) -> Project:
    """Return a project with what its jobs have spent by now, and what came of that."""
    run_s, lost_s = spent_in(project, snapshot)
    told: Project = project.with_status(
        accelerator_h=run_s / HOUR_S, lost_h=lost_s / HOUR_S,
        goodput=1 - lost_s / run_s if run_s > 0 else None,
    )  # fmt: skip
    return told


def power(snapshot: Snapshot) -> dict[str, PoolStatus]:
    """Return what each pool draws, idle accelerators too, by its uid.

    Processors count where somebody has said what they draw, and are missed nowhere else.
    """
    drawn, unknown = Counter[str](), dict[str, set[str]]()
    for spec, pool, watts, works in drawing(snapshot):
        if watts:
            drawn[pool] += milliwatts(watts.full if works else watts.idle)
        elif not is_processor(spec.accelerator):
            unknown.setdefault(pool, set()).add(spec.accelerator)
    return {
        pool.uid: pool.status.model_copy(
            update={
                "power_kw": drawn[pool.name] / MW_PER_KW if pool.name in drawn else None,
                "no_watts": tuple(sorted(unknown.get(pool.name, ()))),
            }
        )
        for pool in snapshot.all(Pool).values()
    }
