"""site, pool, node, accelerator: where things can run."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from madang.errors import Value
from madang.resources.resource import Condition, Frozen, Name, Resource
from madang.resources.tenancy import Empty


class SiteSpec(Frozen):
    """A place with its own law and network."""

    title: str = ""


class Site(Resource[SiteSpec, Empty]):
    """A place with its own law and network."""

    kind: ClassVar[str] = "site"
    scoped: ClassVar[bool] = False


class PoolSpec(Frozen):
    """Nodes that are planned together."""

    site: Name


class Pool(Resource[PoolSpec, Empty]):
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


class NodeStatus(Condition):
    """What its supervisor and its probes say."""

    phase: NodePhase = NodePhase.LOST
    cores: float = 0
    memory_bytes: int = 0


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
    device: str = ""
    """How a process is told to use it."""
    attributes: dict[str, Value] = {}


class Accelerator(Resource[AcceleratorSpec, Empty]):
    """One device on one node; its name is `node-device`."""

    kind: ClassVar[str] = "accelerator"
    scoped: ClassVar[bool] = False
