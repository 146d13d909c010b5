"""What accelerators draw, where somebody has published it: idle, and at full power."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from madang.errors import Unfit
from madang.resources.resource import Frozen

T = TypeVar("T")
WATTS_MAX = 100_000
"""More than any accelerator will draw."""

Power = Annotated[float, Field(ge=0, le=WATTS_MAX, allow_inf_nan=False)]


class Watts(Frozen):
    """Of one accelerator: until anything runs on it, and from then on."""

    idle: Power
    full: Power

    @model_validator(mode="after")
    def _check(self) -> Watts:
        if self.full < self.idle:
            raise Unfit("value.watts", idle=self.idle, full=self.full)
        return self

    @property
    def more_mw(self) -> int:
        """Return how many thousandths of a watt it draws more once something runs on it."""
        return milliwatts(self.full) - self.idle_mw

    @property
    def idle_mw(self) -> int:
        """Return what it draws with nothing on it, in thousandths of a watt."""
        return milliwatts(self.idle)


def milliwatts(watts: float) -> int:
    """Return thousandths of a watt: sums of them are exact, in whatever order."""
    return round(watts * 1000)


PUBLISHED = {
    kind: Watts(idle=idle, full=full)
    for kind, (idle, full) in {
        # The power model of PWR, arXiv 2412.17484; Fr4nz83/PWR-plugin-kubernetes at 3bfd53fe. G2
        # and G3 are how the openb trace calls what PWR takes for A10 and A100.
        "nvidia/t4": (10, 70), "nvidia/p100": (25, 250), "nvidia/v100": (30, 300),
        "nvidia/v100m16": (30, 300), "nvidia/v100m32": (30, 300), "nvidia/a10": (30, 150),
        "nvidia/g2": (30, 150), "nvidia/a100": (50, 400), "nvidia/g3": (50, 400),
        # The power model of Vidur-Energy, arXiv 2507.11417; ozcanmiraay/vidur-energy. The idle
        # power of the H100 is an estimate there; 700 W is NVIDIA's figure for the SXM form.
        "nvidia/h100": (60, 700), "nvidia/a40": (30, 300),
    }.items()
}  # fmt: skip
"""By the start of a kind; cards of one name count as the form of it that draws most."""


def published(kind: str) -> Watts | None:
    """Return what one accelerator of a kind draws; None: nobody has said so.

    >>> published("nvidia/a100-sxm4-80gb") == published("nvidia/g3") == Watts(idle=50, full=400)
    True
    >>> published("nvidia/tesla-t4").full, published("nvidia/a1000"), published("furiosa/rngd")
    (70.0, None, None)
    """
    return by_start(PUBLISHED, kind.replace("/tesla-", "/"))


def by_start(figures: Mapping[str, T], kind: str) -> T | None:
    """Return the figure of the longest start of a kind that has one."""
    start = kind
    while start not in figures:
        start, boundary, _ = start.rpartition("-")
        if not boundary:
            return figures.get(kind.partition("/")[0])
    return figures[start]
