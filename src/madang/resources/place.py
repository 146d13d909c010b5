"""site, pool, node, accelerator: where things can run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from madang.errors import Value
from madang.resources.idle import Reclaim
from madang.resources.power import Watts
from madang.resources.resource import Condition, Frozen, Name, Reason, Resource
from madang.resources.tenancy import Empty

AcceleratorStart = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9/._-]+$")]
"""A kind of accelerator, or the start of one: `nvidia`, `nvidia/h100`."""
Price = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]


class Grade(StrEnum):
    """How closely data must be held, by Korea's N2SF: open, sensitive, classified."""

    OPEN = "O"
    SENSITIVE = "S"
    CLASSIFIED = "C"

    @property
    def height(self) -> int:
        """Compare by this: what is higher may hold what is lower."""
        return "OSC".index(self)


class Guarantee(StrEnum):
    """What keeps replicas on one accelerator from each other."""

    SHARED = "shared"
    """Nothing: each is trusted to take no more than it was given."""
    LIMITED = "limited"
    """Each is held to its memory; they still share its processors and its faults."""
    ISOLATED = "isolated"
    """Parts cut by the hardware, or the whole accelerator."""

    @property
    def height(self) -> int:
        """Compare by this: what is higher gives what is lower."""
        return list(Guarantee).index(self)


class SiteSpec(Frozen):
    """A place with its own law and network."""

    title: str = ""
    grade: Grade = Grade.OPEN
    """The highest grade of data that it may hold."""


class Site(Resource[SiteSpec, Empty]):
    """A place with its own law and network."""

    kind: ClassVar[str] = "site"
    scoped: ClassVar[bool] = False


class PoolSpec(Frozen):
    """Nodes that are planned together."""

    site: Name
    power_kw_max: float | None = Field(default=None, ge=0, le=1_000_000, allow_inf_nan=False)
    """The accelerators of its nodes may draw so much together; nothing starts that takes them
    above it, and nothing on kinds of which nobody knows what they draw."""
    watts: dict[str, Watts] = {}
    """What accelerators draw here, by the start of their kind: it counts before what else is known
    of them."""
    price_krw_per_hour: dict[AcceleratorStart, Price] = Field(default_factory=dict, max_length=256)
    """What one accelerator costs here, by the start of its kind; one that is not named is free."""
    reclaim: Reclaim | None = None
    """What becomes of what stands idle here, where no quota says so; None: nothing."""


class PoolStatus(Frozen):
    """What a pool has seen; and what is told of it whenever somebody looks, and not stored."""

    power_kw: float | None = None
    """What its accelerators draw now by their figures; None: there is no figure of any."""
    no_watts: tuple[str, ...] = ()
    """Kinds in it of which nobody knows what they draw."""
    run_s: float = 0.0
    """For how long its accelerators had jobs: seconds of each, added up;"""
    faults: int = 0
    """and how often that failed by no doing of the job."""


class Pool(Resource[PoolSpec, PoolStatus]):
    """Nodes that are planned together."""

    kind: ClassVar[str] = "pool"
    scoped: ClassVar[bool] = False


class NodePhase(StrEnum):
    """Whether the node can be seen. ready <-> lost."""

    READY = "ready"
    LOST = "lost"


class NodeSpec(Frozen):
    """One machine."""

    pool: Name
    labels: dict[str, str] = {}
    drain: bool = False
    """Whether nothing new is placed there, and what is there leaves."""


class NodeStatus(Condition):
    """What its supervisor and its probes say."""

    phase: NodePhase = NodePhase.LOST
    cores: float = 0
    memory_bytes: int = 0
    encloses: bool = False
    """Whether jobs run in sandboxes there."""


class Node(Resource[NodeSpec, NodeStatus]):
    """One machine with a supervisor."""

    kind: ClassVar[str] = "node"
    scoped: ClassVar[bool] = False


class AcceleratorSpec(Frozen):
    """One device, or the processor itself."""

    node: Name
    accelerator: str
    """Its kind: `cpu`, `nvidia/h100-80gb-hbm3`, …"""
    memory_bytes: int
    shared: bool
    """True: replicas share it by memory. False: it is given whole."""
    guarantee: Guarantee = Guarantee.SHARED
    """What those that share it are given; one that has it whole is isolated."""
    group: str = ""
    """Accelerators of one node that may not be split bear the same; empty: it is on its own."""
    device: str = ""
    """How a process is told to use it."""
    watts: Watts | None = None
    """What it draws; nothing: nobody has said so."""
    attributes: dict[str, Value] = {}
    releases: int = 0
    """How often an operator has released it: the one field that people write."""


class AcceleratorPhase(StrEnum):
    """Whether it may be worked on. Only on one that is ok anything new is placed."""

    OK = "ok"
    IMPAIRED = "impaired"
    """What runs there goes on; it is ok again once it was well for a while."""
    SUSPECT = "suspect"
    """It looks broken, but so many do at once that this may be a mistake: as if impaired."""
    FENCED = "fenced"
    """It is broken: what ran there has moved. It is ok again once it was well for long."""
    QUARANTINED = "quarantined"
    """Broken again, for another reason or under another's work: out until somebody releases it."""


class Failure(Frozen):
    """One time that it was fenced."""

    at: float
    """Unix seconds."""
    cause: Reason
    work: tuple[str, ...] = ()
    """Uids of the jobs and services that ran there."""


class AcceleratorStatus(Condition):
    """How it is, and what was seen of it."""

    phase: AcceleratorPhase = AcceleratorPhase.OK
    serial: str = ""
    """As its maker has numbered it; empty: nobody has told yet."""
    uncorrectable: int = 0
    """Memory errors that could not be corrected, as last counted by its driver."""
    boot: str = ""
    """The life of its node's kernel of which was heeded"""
    heeded: int = -1
    """what its log told up to this mark."""
    well_since: float | None = None
    """Unix seconds since when it shows nothing bad, while it is not ok."""
    fenced_at: float | None = None
    failures: tuple[Failure, ...] = ()
    """The last few, oldest first."""
    releases: int = 0
    """Of those that operators have asked for, how many are done."""


class Accelerator(Resource[AcceleratorSpec, AcceleratorStatus]):
    """One device on one node; its name is `node-device`."""

    kind: ClassVar[str] = "accelerator"
    scoped: ClassVar[bool] = False
