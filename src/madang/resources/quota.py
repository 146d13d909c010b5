"""quota: what an organization or a project may have at once, and spend in a month."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from madang.resources.idle import Reclaim
from madang.resources.place import AcceleratorStart
from madang.resources.quantity import Size
from madang.resources.resource import Frozen, Resource
from madang.resources.serving import UNBOUND, Serving

ACCELERATORS_MAX = 1_000_000
KRW_MAX = 10**15
QUEUED_LIMIT = 1_000_000
QUEUED_MAX = 1_000

Count = Annotated[int, Field(ge=0, le=ACCELERATORS_MAX, strict=True)]


class QuotaSpec(Frozen):
    """What all that runs there may have together; None, or not named: as much as there is."""

    accelerators: dict[AcceleratorStart, Count] = Field(default_factory=dict, max_length=64)
    """How many of each kind, or of all kinds that begin so: `nvidia`, `nvidia/h100`."""
    cores: float | None = Field(default=None, ge=0, le=10**9, allow_inf_nan=False)
    """Processors that are kept for it."""
    memory: Size | None = Field(default=None, ge=0)
    """Bytes of nodes' own memory that are kept for it."""
    storage: Size | None = Field(default=None, ge=0)
    """Bytes of volumes: of each the size that it may have, or else what it holds."""
    krw_per_month: int | None = Field(default=None, ge=0, le=KRW_MAX, strict=True)
    """What its accelerator hours may cost in a month of Korea, at the prices of their pools."""
    serving: Serving = UNBOUND
    """What may be asked of models with the keys of that place, wherever these run."""
    reclaim: Reclaim | None = None
    """What becomes of accelerators that stand idle there; None: what their pool says."""
    queued: int | None = Field(default=None, ge=0, le=QUEUED_LIMIT, strict=True)
    """How many of its jobs may be in each queue at once; the others wait at its door, and count for
    nothing there. None: so many of each project as `QUEUED_MAX` says."""
    weight: float = Field(default=1.0, ge=0.01, le=100, allow_inf_nan=False)
    """What it counts for beside its like where what nobody is guaranteed is shared."""


class Used(Frozen):
    """What is used of one limit."""

    what: str
    """As in the spec; accelerators with their kind."""
    most: str | float
    used: str | float
    left: str | float
    resets: str = ""
    """The day on which it begins anew; empty: it is free again once something ends."""


class QuotaStatus(Frozen):
    """What has been spent; and what is used, which is told whenever somebody looks."""

    month: int = 0
    """The month that it is of, as 202611."""
    mkrw: int = 0
    """What that cost which has accelerators no more, in thousandths of a won: exact sums."""
    used: tuple[Used, ...] = ()
    """Told whenever somebody looks, and not stored."""


class Quota(Resource[QuotaSpec, QuotaStatus]):
    """The limits of one place; stored there, and named like it: `acme`, or `acme/lab`."""

    kind: ClassVar[str] = "quota"
