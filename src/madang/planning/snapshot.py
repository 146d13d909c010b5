"""What planning sees: one immutable moment of the world."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TypeVar, cast

from madang.planning.ages import Ages
from madang.planning.placement.outlook import Outlook
from madang.planning.share.rule import RULE
from madang.resources.attempt import Attempt, AttemptPhase
from madang.resources.endpoint import Endpoint
from madang.resources.grant import Grant
from madang.resources.holding import Holding
from madang.resources.job import OVER, Job
from madang.resources.model import Model
from madang.resources.place import Accelerator, AcceleratorPhase, Node
from madang.resources.queue import Queue
from madang.resources.quota import Quota
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import AnyResource, Reason, Ref
from madang.resources.revision import Build, Revision
from madang.resources.round import Round
from madang.resources.service import Service
from madang.resources.tariff import Tokens
from madang.resources.volume import Volume
from madang.supervisor.protocol import Process
from madang.symptoms import Watch

T = TypeVar("T", bound=AnyResource)

THOUGHT_NEVER_S = 1e9


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What planning must know of an engine to place its replicas."""

    name: str
    """Also the name of the recipe that starts it."""
    version: str
    """Empty: it is known, but not installed here, and nothing is started with it."""
    formats: frozenset[str]
    """Formats of models it reads."""
    accelerator_kinds: frozenset[str]
    """Starts of accelerator kinds it runs on (`cpu`, `nvidia`)."""
    overhead_bytes: int
    """Memory beside weights and cache."""
    weights_factor: float
    """Memory of the weights per byte of file."""
    slots: int
    """Requests that one replica works on at once, if memory allows."""
    context_tokens: int
    """Context per replica over all slots, unless the model or the memory has less."""
    features: frozenset[str]
    """`chat`, `completions`, `embeddings`; of `traffic.table`, its `SKILLS` and `CACHES`."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What a running replica said when it was asked who it is."""

    healthy: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What tells an engine that is busy from one that hangs. Seconds that only go forward."""

    misses: int = 0
    """Questions of control, one after another, that it has left without an answer."""
    mute_s: float = 0.0
    """How long ago it gave its last sign of life, to control or to a gateway."""
    idle_s: float = 0.0
    """For how long it has used next to no processor time."""
    halted: bool = False
    """Stopped by a signal, as the kernel says."""
    quiet_s: float = 0.0
    """How long requests under way have waited without a byte from it; 0 while it has none."""
    strange: int = 0
    """How often in a row something else than itself has answered."""
    detail: str = ""
    """And how."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy something was since this control watches it. Seconds that only go forward."""

    known_s: float = 0.0
    """So long it was known,"""
    busy_s: float = 0.0
    """and for so much of that it was busy."""
    tokens: Tokens = (0, 0, 0)
    """What a replica has read and written since."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is called for of a service, over all gateways. Seconds that only go forward."""

    busy: int = 0
    """Requests in hand: under way, or waiting for their turn or for a replica;"""
    waiting: int = 0
    """those of them that wait,"""
    wait_s: float = 0.0
    """the first for so long;"""
    peak: int = 0
    """the most that were in hand at once in the service's `idle` time,"""
    known_s: float = 0.0
    """of which so much was watched."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was observed outside the store."""

    nodes: frozenset[str] = frozenset()
    """Names of the nodes whose supervisor answered."""
    processes: Mapping[str, Process] = field(default_factory=dict)
    """By uid, over all nodes."""
    places: Mapping[str, str] = field(default_factory=dict)
    """The node of each process, by uid."""
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The last lines of processes that ended, by uid; of ranks, by `rank_key`."""
    probed: Mapping[tuple[str, int], Probed] = field(default_factory=dict)
    """By (uid, epoch)."""
    pulses: Mapping[tuple[str, int], Pulse] = field(default_factory=dict)
    """By (uid, epoch), of those that have said who they are and now give cause to look: they left
    a question open, answered as somebody else, or keep a request waiting."""
    refused: Mapping[tuple[str, int], Reason] = field(default_factory=dict)
    """Starts that the node refused, by (uid, epoch)."""
    fenced: frozenset[tuple[str, int]] = frozenset()
    """(uid, epoch) of what its node was told to stop before it was looked at as it is seen here:
    what isn't seen of that is gone, and no order that is still on its way brings it back."""
    watches: Mapping[str, Watch] = field(default_factory=dict)
    """What nodes tell of their accelerators, by node, of those that do."""
    routed: frozenset[str] | None = frozenset()
    """Uids that some live gateway still has in the table it serves; None: not known yet."""
    inflight: Mapping[str, int] = field(default_factory=dict)
    """Requests under way, by uid of the replica."""
    demand: Mapping[Ref, Demand] = field(default_factory=dict)
    """What is called for of services whose scale is a range."""
    loads: Mapping[tuple[str, int], Load] = field(default_factory=dict)
    """How busy was what replicas and attempts have, by (uid, epoch)."""
    outlook: Outlook | None = None
    """What is expected to come, and what free accelerators are worth to it."""
    thought_at: float = -THOUGHT_NEVER_S
    """When that was last asked for, in steady seconds."""


def rank_key(uid: str, rank: int) -> str:
    """Return by what the last lines of one rank of a process are known."""
    return f"{uid}.{rank}"


LOST = frozenset({AcceleratorPhase.FENCED, AcceleratorPhase.QUARANTINED})
"""Phases in which nothing may run on an accelerator."""

Kept = Mapping[str, Mapping[Ref, AnyResource]]
"""Resources by kind, then by project and name."""


@dataclass(frozen=True)
class Snapshot:
    """The world at one moment. Nothing in it changes; `after` makes the next."""

    now: float
    """Unix seconds, to be written down; they may jump, so no engine ends for them."""
    term: int
    kept: Kept
    engines: Mapping[str, EngineFacts]
    seen: Seen = Seen()
    steady_s: float = 0.0
    """The same moment on a clock that only goes forward, and whose zero means nothing."""
    ages: Ages = field(default_factory=dict)
    moves_per_100: int = 0
    """Of any hundred replicas that came last, how many may have come by a move."""
    fairness_budget: float = RULE.budget
    """Part of its entitlement that a project may go short of before all of it is guaranteed."""
    jobs_kept: int = 0
    """Of each project, so many jobs that are over; 0: all."""
    encloses: bool = False
    """Whether jobs are started in sandboxes: only there can they mount anything."""

    def age_s(self, uid: str, stamp: float | None) -> float:
        """Return for how long this control has watched that stamp; 0 for one just written."""
        return self.steady_s - self.ages.get(uid, {}).get(stamp or 0.0, self.steady_s)

    def all(self, kind: type[T]) -> Mapping[Ref, T]:
        """Return every resource of one kind."""
        return cast("Mapping[Ref, T]", self.kept.get(kind.kind, MappingProxyType({})))

    def get(self, kind: type[T], ref: Ref) -> T | None:
        """Return one resource, or None."""
        return self.all(kind).get(ref)

    @property
    def services(self) -> Mapping[Ref, Service]:
        """All services."""
        return self.all(Service)

    @property
    def revisions(self) -> Mapping[Ref, Revision]:
        """All revisions."""
        return self.all(Revision)

    @property
    def replicas(self) -> Mapping[Ref, Replica]:
        """All replicas."""
        return self.all(Replica)

    @property
    def builds(self) -> Mapping[Ref, Build]:
        """All builds."""
        return self.all(Build)

    @property
    def models(self) -> Mapping[Ref, Model]:
        """All models."""
        return self.all(Model)

    @property
    def endpoints(self) -> Mapping[Ref, Endpoint]:
        """All endpoints."""
        return self.all(Endpoint)

    @property
    def nodes(self) -> Mapping[Ref, Node]:
        """All nodes."""
        return self.all(Node)

    @property
    def accelerators(self) -> Mapping[Ref, Accelerator]:
        """All accelerators."""
        return self.all(Accelerator)

    @property
    def jobs(self) -> Mapping[Ref, Job]:
        """All jobs."""
        return self.all(Job)

    @property
    def volumes(self) -> Mapping[Ref, Volume]:
        """All volumes."""
        return self.all(Volume)

    @property
    def quotas(self) -> Mapping[Ref, Quota]:
        """All quotas."""
        return self.all(Quota)

    @property
    def grants(self) -> Mapping[Ref, Grant]:
        """All grants."""
        return self.all(Grant)

    @property
    def queues(self) -> Mapping[Ref, Queue]:
        """All queues."""
        return self.all(Queue)

    @property
    def rounds(self) -> Mapping[Ref, Round]:
        """All rounds."""
        return self.all(Round)

    @property
    def attempts(self) -> Mapping[Ref, Attempt]:
        """All attempts of jobs."""
        return self.all(Attempt)

    @cached_property
    def unsettled(self) -> Sequence[Replica]:
        """Replicas that are not ready; of many thousands few."""
        ready = ReplicaPhase.READY
        return [each for each in self.replicas.values() if each.status.phase is not ready]

    @cached_property
    def open_jobs(self) -> Sequence[Job]:
        """Jobs of which something is still to be done; most that are kept are over."""
        return [j for j in self.jobs.values() if j.status.phase not in OVER or j.deleted_at]

    @cached_property
    def sweeps(self) -> Mapping[Ref, Sequence[Job]]:
        """Jobs of each sweep of which something is still to be done, by the job whose it is."""
        found: dict[Ref, list[Job]] = {job.ref: [] for job in self.open_jobs if job.spec.sweep}
        for job in self.jobs.values() if found else ():
            if (owner := Ref(job.project, job.status.owner)) in found:
                found[owner].append(job)
        return found

    @cached_property
    def living(self) -> Sequence[Attempt]:
        """Attempts that have not ended; of most jobs all have."""
        ended = AttemptPhase.ENDED
        return [each for each in self.attempts.values() if each.status.phase is not ended]

    @cached_property
    def lost(self) -> frozenset[str]:
        """Names of accelerators that can't be worked on any more; of most there are none."""
        return frozenset(each.name for each in self.unwell if each.status.phase in LOST)

    @cached_property
    def unwell(self) -> Sequence[Accelerator]:
        """Accelerators of which something is known, or asked, that is not as it should be."""
        found, fine = self.accelerators.values(), AcceleratorPhase.OK
        return [
            each for each in found
            if each.status.phase is not fine or each.status.releases != each.spec.releases
        ]  # fmt: skip

    @cached_property
    def draining(self) -> frozenset[str]:
        """Names of nodes on which nothing may stay."""
        return frozenset(node.name for node in self.nodes.values() if node.spec.drain)

    def drains(self, node: str) -> bool:
        """Tell whether nothing may stay on that node."""
        return node in self.draining

    def holdings(self) -> Iterator[Holding]:
        """Return what is not free, whoever has it, in whatever phase.

        What is held is given back only when the processes that had it are gone.
        """
        yield from self.served()
        for attempt in self.living:
            yield from (place for place in attempt.status.places if place.accelerators)

    def served(self) -> Iterator[Holding]:
        """Return what services hold of that."""
        return (r.status for r in self.replicas.values() if r.status.accelerators)

    def after(self, changed: Iterable[AnyResource], gone: Iterable[AnyResource] = ()) -> Snapshot:
        """Return the snapshot in which these resources have changed or are gone."""
        kept = dict(self.kept)
        fresh: dict[str, dict[Ref, AnyResource]] = {}
        for resource in changed:
            own = fresh.setdefault(resource.kind, dict(kept.get(resource.kind, {})))
            own[resource.ref] = resource
        for resource in gone:
            own = fresh.setdefault(resource.kind, dict(kept.get(resource.kind, {})))
            own.pop(resource.ref, None)
        kept.update(fresh)
        return replace(self, kept=kept)
