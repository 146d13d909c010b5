"""replica: one process that answers for a revision."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from madang.resources.holding import Holding
from madang.resources.idle import Meter
from madang.resources.resource import Condition, Frozen, Name, Ref, Resource


class ReplicaPhase(StrEnum):
    """Where a replica is in its life; NEXT says which phase may follow which."""

    WAITING = "waiting"
    """No accelerators yet."""
    STARTING = "starting"
    """Accelerators are reserved for this epoch and the order to start is out."""
    VERIFYING = "verifying"
    """It answers as itself, and its build's gate is open."""
    READY = "ready"
    """In the route table."""
    BACKING_OFF = "backing-off"
    """It ended; `next_try` says when it is tried again. Holds no accelerator."""
    FAILED = "failed"
    """It ended too often, or its build did not pass. Holds no accelerator."""
    DRAINING = "draining"
    """Out of the route table, finishing what it has."""
    STOPPING = "stopping"
    """The order to stop is out; its accelerators are held until its processes are gone."""


_P = ReplicaPhase
NEXT: dict[ReplicaPhase, frozenset[ReplicaPhase]] = {
    _P.WAITING: frozenset({_P.STARTING, _P.STOPPING}),
    _P.STARTING: frozenset({_P.VERIFYING, _P.READY, _P.BACKING_OFF, _P.FAILED, _P.STOPPING}),
    _P.VERIFYING: frozenset({_P.READY, _P.BACKING_OFF, _P.FAILED, _P.STOPPING}),
    _P.READY: frozenset({_P.BACKING_OFF, _P.FAILED, _P.DRAINING, _P.STOPPING}),
    _P.BACKING_OFF: frozenset({_P.STARTING, _P.FAILED, _P.STOPPING}),
    _P.FAILED: frozenset({_P.STARTING, _P.STOPPING}),
    _P.DRAINING: frozenset({_P.STOPPING}),
    _P.STOPPING: frozenset(),
}

HOLDING = frozenset({_P.STARTING, _P.VERIFYING, _P.READY, _P.DRAINING, _P.STOPPING})
"""Phases in which a replica's accelerators are not free."""


class ReplicaSpec(Frozen):
    """What it is one of."""

    service: Name
    revision: Name
    replaces: str = ""
    """The replica of the same service that it takes over from: it was moved."""
    room_for: str = ""
    """A digest of what finds room by that: it may be another project's, and nobody's business."""


class ReplicaStatus(Holding, Condition):
    """Where it is, and what is known of its process."""

    phase: ReplicaPhase = ReplicaPhase.WAITING
    variant: int = 0
    """Which of its revision's forms it has: 0 is the service's own."""
    epoch: int = 0
    """How many times it has been given accelerators."""
    pid: int = 0
    url: str = ""
    started_at: float | None = None
    """Unix seconds of the last order to start."""
    held_since: float = 0.0
    """Unix seconds since when it has had its accelerators."""
    charged: bool = False
    """Whether the quotas' records have what these cost."""
    meter: Meter | None = None
    """What it has used of them."""
    ready_at: float | None = None
    restarts: int = 0
    """Ends in a row without two minutes of being ready between them."""
    last_lines: tuple[str, ...] = ()
    """The last it printed before it ended."""


class Replica(Resource[ReplicaSpec, ReplicaStatus]):
    """One process that answers for a revision; named `service-NUMBER-SERIAL`."""

    kind: ClassVar[str] = "replica"

    @property
    def service(self) -> Ref:
        """How its service is found."""
        return Ref(self.project, self.spec.service)

    @property
    def revision(self) -> Ref:
        """How its revision is found."""
        return Ref(self.project, self.spec.revision)
