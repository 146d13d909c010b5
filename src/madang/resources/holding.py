"""What something has of a node: accelerators, and what it takes beside them."""

from __future__ import annotations

from madang.resources.resource import Frozen


class Holding(Frozen):
    """What is not free on one node because somebody has it."""

    node: str = ""
    accelerators: tuple[str, ...] = ()
    """All of one kind."""
    memory_bytes: int = 0
    """On each of its accelerators."""
    whole: bool = False
    """It has accelerators that others could share for itself alone."""
    cores: float = 0.0
    host_memory_bytes: int = 0
