"""queue: what waits for one kind of accelerators, what each project went short of there of late."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from madang.resources.resource import Frozen, Resource


class QueueSpec(Frozen):
    """Whose line it is."""

    accelerator: str
    """The kind that is waited for; what needs no accelerator waits for `cpu`."""


class Standing(Frozen):
    """Where one project stands in one queue; accelerators, and seconds of single ones."""

    demand: float = 0.0
    """What it could use,"""
    entitled: float = 0.0
    """is entitled to,"""
    held: float = 0.0
    """and has: since the moment that the status names."""
    entitled_s: float = 0.0
    """What it was entitled to up to that moment; what is long past counts for less and less;"""
    short_s: float = 0.0
    """what it went short of;"""
    each_s: float = 0.0
    """and what of that fell on each accelerator that its waiting jobs asked for."""
    ended: dict[int, dict[int, int]] = Field(default_factory=dict)
    """How many of its jobs have ended, by class of size, then by the age that they had reached."""
    weight: float = 1.0
    """What it counts for,"""
    guaranteed: float = 0.0
    """and what it is promised."""
    shortfall: float = 0.0
    """Which part of what it was entitled to it went short of, 0 to 1: told whenever somebody looks,
    and not stored."""


class QueueStatus(Frozen):
    """What is known of it since `at`; between two changes nothing is written."""

    at: float = 0.0
    """Unix seconds since when projects stand as they do."""
    clock_s: float = 0.0
    """What its clock showed then, by which waits are counted: time that control watched."""
    capacity: int = 0
    """Accelerators in sight that are well."""
    turn_at: float = 0.0
    """Unix seconds at which somebody was last asked to make room for others by their shares."""
    projects: dict[str, Standing] = Field(default_factory=dict)


class Queue(Resource[QueueSpec, QueueStatus]):
    """One kind of accelerators, and who shares it."""

    kind: ClassVar[str] = "queue"
    scoped: ClassVar[bool] = False
