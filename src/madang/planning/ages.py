"""How long things have been as they are, by a clock that only goes forward.

Statuses carry wall-clock times, for people to read; a wall clock jumps. So whatever ends an engine
is decided by what this control has itself watched: from when it first knew a time stamp, in steady
seconds. A control that has just started has watched nothing yet, and waits anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from madang.resources.attempt import Attempt
from madang.resources.grant import Grant
from madang.resources.idle import Meter
from madang.resources.job import Job
from madang.resources.place import Accelerator, Node
from madang.resources.queue import Queue
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource
from madang.resources.revision import Build
from madang.resources.service import Service

Ages = Mapping[str, Mapping[float, float]]
"""By uid: each time stamp of its status, and the steady seconds at which it was first known."""


def watched(
    known: Ages, changed: Iterable[AnyResource], gone: Iterable[AnyResource], steady_s: float
) -> Ages:
    """Return the ages after these changes: a new stamp begins now, an old one goes on."""
    ages = dict(known)
    for resource in changed:
        before = known.get(resource.uid, {})
        if stamps := _stamps(resource):
            ages[resource.uid] = {stamp: before.get(stamp, steady_s) for stamp in stamps}
    for resource in gone:
        ages.pop(resource.uid, None)
    return ages


def _metered(meter: Meter | None) -> frozenset[float]:
    return frozenset({meter.at} if meter else ())


def _stamps(resource: AnyResource) -> frozenset[float]:
    """Return the times from which planning counts."""
    if isinstance(resource, Replica):
        status = resource.status
        own = {status.since, status.started_at or 0.0, status.ready_at or 0.0}
        return frozenset({*own, *_metered(status.meter)})
    if isinstance(resource, Attempt):
        told = resource.status
        own = {told.since, told.started_at, told.claimed_at}
        return frozenset({*own, *_metered(told.meter)})
    if isinstance(resource, Grant):
        return frozenset({resource.status.watch.at} if resource.status.watch else ())
    if isinstance(resource, Job | Node):
        return frozenset({resource.status.since})
    if isinstance(resource, Accelerator):
        ill = resource.status
        return frozenset({ill.since, ill.well_since or 0.0, ill.fenced_at or 0.0}) - {0.0}
    if isinstance(resource, Queue):
        return frozenset({resource.status.at, resource.status.turn_at})
    if isinstance(resource, Service):
        return frozenset({resource.status.scaled_at or 0.0}) - {0.0}
    if isinstance(resource, Build):
        return frozenset({resource.status.started_at})
    return frozenset()
