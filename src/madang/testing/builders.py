"""Small worlds for tests: nodes, models and services with the fields that matter."""

from __future__ import annotations

from collections.abc import Iterable

from madang.planning.snapshot import EngineFacts, Seen, Snapshot
from madang.resources.grant import Grant, GrantSpec, GrantStatus
from madang.resources.job import Job, JobSpec, JobStatus
from madang.resources.model import Model, ModelSpec, ModelStatus, ModelVersion
from madang.resources.place import (
    Accelerator,
    AcceleratorSpec,
    AcceleratorStatus,
    Node,
    NodePhase,
    NodeSpec,
    NodeStatus,
    Pool,
    PoolSpec,
    PoolStatus,
)
from madang.resources.power import published
from madang.resources.quota import Quota, QuotaSpec, QuotaStatus
from madang.resources.resource import AnyResource, Ref
from madang.resources.round import Round, RoundSpec, RoundStatus
from madang.resources.service import Service, ServiceSpec, ServiceStatus

PROJECT = "acme/lab"
ALONE = Grant | Job | Model | Node | Pool | Quota | Round | Service
GB = 10**9

FAKE = EngineFacts(
    name="fake",
    version="1",
    formats=frozenset({"fake"}),
    accelerator_kinds=frozenset({"cpu", "nvidia"}),
    overhead_bytes=0,
    weights_factor=1.0,
    slots=4,
    context_tokens=4096,
    features=frozenset({"chat", "completions", "embeddings", "cache-salt"}),
)


def node(name: str, *, cards: int = 1, kind: str = "nvidia/h100", memory_gb: float = 80,
         shared: bool = False) -> list[AnyResource]:  # fmt: skip
    """Return a node that is in sight, with its accelerators."""
    status = NodeStatus(phase=NodePhase.READY, cores=16, memory_bytes=256 * GB)
    made: list[AnyResource] = [
        Node(name=name, uid=f"node-{name}", spec=NodeSpec(pool="default"), status=status)
    ]
    for index in range(cards):
        spec = AcceleratorSpec(
            node=name, accelerator=kind, memory_bytes=int(memory_gb * GB), shared=shared,
            device=str(index), watts=published(kind),
        )  # fmt: skip
        card = f"{name}-{index}"
        status_of = AcceleratorStatus()
        made.append(Accelerator(name=card, uid=f"accelerator-{card}", spec=spec, status=status_of))
    return made


def model(name: str = "tiny", *, size_gb: float = 1.0, project: str = PROJECT) -> Model:
    """Return a model of the fake engine with one version."""
    version = ModelVersion(
        number=1, digest="sha256:" + name.encode().hex().ljust(64, "0")[:64], source="file:///x",
        size_bytes=int(size_gb * GB), format="fake", context_tokens=4096,
    )  # fmt: skip
    return Model(
        project=project, name=name, uid=f"model-{name}", spec=ModelSpec(source="file:///x"),
        status=ModelStatus(versions=(version,)),
    )  # fmt: skip


def service(name: str = "bot", *, project: str = PROJECT, **spec: object) -> Service:
    """Return a service as somebody has just applied it."""
    written = ServiceSpec.model_validate({"model": "tiny", **spec})
    return Service(
        project=project, name=name, uid=f"service-{name}", spec=written, status=ServiceStatus()
    )


def job(name: str = "train", *, project: str = PROJECT, created_at: float = 0.0,
        **spec: object) -> Job:  # fmt: skip
    """Return a job as somebody has just applied it."""
    written = JobSpec.model_validate({"command": "python train.py", **spec})
    return Job(
        project=project, name=name, uid=f"job-{name}", created_at=created_at, spec=written,
        status=JobStatus(),
    )  # fmt: skip


def quota(place: str = PROJECT, **spec: object) -> Quota:
    """Return the quota of a place."""
    return Quota(
        project=place, name=place.rpartition("/")[2], uid=f"quota-{place}",
        spec=QuotaSpec.model_validate(spec), status=QuotaStatus(),
    )  # fmt: skip


def grant(name: str = "burst", project: str = PROJECT, **spec: object) -> Grant:
    """Return a grant as somebody has just requested it."""
    written = {"accelerator": "nvidia", "count": 2, "from": "2026-12-01", "until": "2027-03-01"}
    return Grant(
        project=project, name=name, uid=f"grant-{name}",
        spec=GrantSpec.model_validate({**written, **spec}), status=GrantStatus(),
    )  # fmt: skip


def round_(name: str = "first", **spec: object) -> Round:
    """Return a round as an operator has just called it."""
    written = {"accelerator": "nvidia", "capacity": 4, "closes": "2026-11-01",
               "from": "2026-12-01", "until": "2027-06-01"}  # fmt: skip
    return Round(
        name=name, uid=f"round-{name}", spec=RoundSpec.model_validate({**written, **spec}),
        status=RoundStatus(),
    )  # fmt: skip


def pool(name: str = "default", **spec: object) -> Pool:
    """Return a pool of the site."""
    written = PoolSpec.model_validate({"site": "site", **spec})
    return Pool(name=name, uid=f"pool-{name}", spec=written, status=PoolStatus())


def snapshot(*resources: AnyResource | Iterable[AnyResource], now: float = 1000.0,
             term: int = 1) -> Snapshot:  # fmt: skip
    """Return a snapshot of these, in which every node is in sight and nothing runs."""
    kept: dict[str, dict[Ref, AnyResource]] = {}
    for given in resources:
        for resource in (given,) if isinstance(given, ALONE) else given:
            assert not isinstance(resource, tuple)
            kept.setdefault(resource.kind, {})[resource.ref] = resource
    nodes = frozenset(ref.name for ref in kept.get("node", {}))
    return Snapshot(now=now, term=term, kept=kept, engines={"fake": FAKE}, seen=Seen(nodes=nodes))
