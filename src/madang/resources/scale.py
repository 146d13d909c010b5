"""How many replicas a service has: a number, or as many as are called for between two."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from madang.errors import Unfit
from madang.resources.quantity import Duration
from madang.resources.resource import Frozen

REPLICAS_MAX = 10_000
INFLIGHT_MAX = 10_000
IDLE_S_MAX = 30 * 86_400
HOLD_S_MAX = 3600
_RANGE = re.compile(r"(?a)\s*(\d{1,5})\s*\.\.\s*(\d{1,5})\s*")

Replicas = Annotated[int, Field(ge=0, le=REPLICAS_MAX, strict=True)]


class Scale(Frozen):
    """Between how many replicas it has, and what drives that; `0..4` says the first two."""

    min: Replicas = 0
    """0: none while nobody calls it."""
    max: Annotated[int, Field(ge=1, le=REPLICAS_MAX, strict=True)]
    inflight: Annotated[int, Field(ge=1, le=INFLIGHT_MAX, strict=True)] = 8
    """Requests, under way and waiting, that one replica is there for."""
    idle: Duration = Field(default=600.0, ge=1, le=IDLE_S_MAX)
    """Seconds for which fewer were enough before it has fewer."""
    hold: Duration = Field(default=120.0, ge=1, le=HOLD_S_MAX)
    """Seconds that a request waits for a replica, at most."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.min > self.max:
            raise Unfit("value.scale-order", min=self.min, max=self.max)
        return self

    def clamp(self, replicas: int) -> int:
        """Return the nearest number of replicas that it may have."""
        return min(self.max, max(self.min, replicas))


def _read(written: object) -> object:
    """Read `0..4` as a range; all else stays."""
    found = _RANGE.fullmatch(written) if isinstance(written, str) else None
    if found:
        return {"min": int(found[1]), "max": int(found[2])}
    if isinstance(written, str) and ".." in written:
        raise Unfit("value.scale", written=written[:64])
    return written


def _kind(written: object) -> str:
    return RANGE if isinstance(written, dict | Scale) else NUMBER


_Written = Annotated[str, Field(pattern=r"^[0-9]{1,5}\.\.[0-9]{1,5}$")]
NUMBER, RANGE = "<number>", "<range>"
"""Stand in the path of a complaint, and are no keys."""

AnyScale = Annotated[
    Annotated[Replicas, Tag(NUMBER)] | Annotated[Scale, Tag(RANGE)],
    Discriminator(_kind),
    BeforeValidator(_read, json_schema_input_type=Replicas | _Written | Scale),
]
