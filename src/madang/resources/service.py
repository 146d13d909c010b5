"""service: what people want served. Its revisions, builds and replicas follow from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from madang.errors import Unfit
from madang.resources.model import split_model
from madang.resources.place import Grade, Guarantee
from madang.resources.quantity import Size
from madang.resources.resource import (
    Condition,
    Frozen,
    Name,
    Resource,
    canonical,
    check_name,
    check_place,
)
from madang.resources.scale import AnyScale, Scale
from madang.resources.tariff import Rates, Served, Tariff
from madang.resources.tenancy import SITE

VARIANTS_MAX = 8
VISIBLE_TO_MAX = 100


class NotYet(Unfit):
    """A key of the design whose capability has not been built yet."""


def _check_model(written: str) -> str:
    if "://" in written:
        raise NotYet("value.import-first", written=written)
    check_name(split_model(written)[0])
    return written


def _check_gate(checks: tuple[str, ...]) -> tuple[str, ...]:
    for check in checks:
        if check != "smoke":
            raise NotYet("value.no-check-yet", check=check)
    return checks


def _check_shown(place: str) -> str:
    if place != SITE:
        check_place(place or " ")
    return place


Shown = Annotated[str, BeforeValidator(canonical), AfterValidator(_check_shown)]
"""`organization`, `organization/project`, or `site`."""


class Needs(Frozen):
    """What one replica asks of the accelerators it gets."""

    memory: Size | None = None
    """Bytes on each accelerator; None: worked out from the model."""
    count: int = Field(default=1, ge=1, le=64, strict=True)
    accelerator: str = Field(default="", max_length=64, pattern=r"^[a-z0-9/._-]*$")
    """A kind or the start of one (`nvidia`, `cpu`); empty: any that the recipe can use."""
    guarantee: Guarantee = Guarantee.SHARED
    """The least that must keep it from others on the same accelerator."""
    cores: float = Field(default=0.0, ge=0, le=4096)
    """Processors that are kept for it; 0: it takes what is there."""
    host_memory: Size = Field(default=0, ge=0)
    """Bytes of the node's own memory, beside that on its accelerators."""


class Variant(Frozen):
    """Another way to serve the same: on other accelerators, perhaps by another recipe."""

    accelerator: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9/._-]*$")
    """A kind or the start of one."""
    recipe: str = Field(default="", max_length=64, pattern=r"^[a-z0-9-]*$")
    memory: Size | None = None
    """Bytes on each accelerator; None: worked out from the model."""
    count: int = Field(default=1, ge=1, le=64, strict=True)
    throughput: float = Field(default=1.0, gt=0, le=1e9)
    """What one replica of it does, as measured or declared, in the unit of the service's own."""


PerMillion = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]
"""Won for a million tokens."""


class TokenPrice(Frozen):
    """What whoever asks pays for tokens, in won per million."""

    input: PerMillion
    cached: PerMillion | None = None
    """For those of the input that the engine had kept; None: as for the others."""
    output: PerMillion


class ServiceSpec(Frozen):
    """What is served, with what, how often, and what it must pass first."""

    model: Annotated[
        str, BeforeValidator(canonical), Field(min_length=1, max_length=128),
        AfterValidator(_check_model),
    ]  # fmt: skip
    needs: Needs = Needs()
    scale: AnyScale = 1
    """How many replicas: a number, `0..4`, or a range with what drives it."""
    gate: Annotated[tuple[str, ...], AfterValidator(_check_gate)] = ("smoke",)
    recipe: str = Field(default="", max_length=64, pattern=r"^[a-z0-9-]*$")
    """How it is started; empty: the first that can read the model's format."""
    prefer: Literal["", "domestic"] = ""
    """`domestic`: accelerators made in Korea come first, wherever it fits on them."""
    grade: Grade = Grade.OPEN
    """Of the data that it works on: it runs only on sites that may hold such data."""
    throughput: float = Field(default=1.0, gt=0, le=1e9)
    """What one replica by `needs` does; variants are weighed against it. Any unit."""
    visible_to: tuple[Shown, ...] = Field(default=(), max_length=VISIBLE_TO_MAX)
    """Projects and organizations that may call it too, as `project/name`; `site`: all."""
    price: TokenPrice | None = None
    """What its tokens cost; None: what its accelerators cost while they are busy with them, where
    their pool names a price. It counts from the next request on."""
    variants: tuple[Variant, ...] = Field(default=(), max_length=VARIANTS_MAX)
    """Further ways to serve it: each replica takes the one that costs least for what it does."""


NOT_YET = frozenset({"rollout"})
"""Keys of the design that are refused with "not yet" instead of "unknown"."""


class ServicePhase(StrEnum):
    """Where a service is, as its user sees it.

    pending -> starting -> verifying -> ready <-> degraded; any -> failed; any -> stopping.
    """

    PENDING = "pending"
    STARTING = "starting"
    VERIFYING = "verifying"
    READY = "ready"
    DEGRADED = "degraded"
    """Some replicas are ready, fewer than wanted, or a newer revision does not come up."""
    FAILED = "failed"
    STOPPING = "stopping"


class ServiceStatus(Condition):
    """What control has made of it."""

    phase: ServicePhase = ServicePhase.PENDING
    observed_generation: int = 0
    revision: Name | None = None
    """The newest revision."""
    revisions: int = 0
    """How many revisions were ever made; numbers the next."""
    replicas: int = 0
    """How many replicas were ever made; names the next."""
    ready: int = 0
    rested: int = 0
    """So many replicas fewer it has than its scale says, because they stood idle."""
    scaled: int = 0
    """Of a range: so many it is to have by what is called for,"""
    scaled_at: float | None = None
    """and since when, in Unix seconds."""
    served: tuple[Served, ...] = ()
    """What its replicas read and wrote, and how long that took them;"""
    tariff: Tariff | None = None
    """what its tokens take by that, today. None: too little was served."""
    shown_to: dict[str, str] = Field(default_factory=dict)
    """Whom those names of `visible_to` meant when they were first read with somebody there: a uid.
    Who gets the name of one that is gone isn't meant."""


class Service(Resource[ServiceSpec, ServiceStatus]):
    """Something that answers on an endpoint."""

    kind: ClassVar[str] = "service"

    @property
    def range(self) -> Scale | None:
        """Between how many replicas it may have; None: it has as many as its scale says."""
        return self.spec.scale if isinstance(self.spec.scale, Scale) else None

    @property
    def most(self) -> int:
        """So many replicas it may have."""
        return self.spec.scale.max if isinstance(self.spec.scale, Scale) else self.spec.scale

    @property
    def wanted(self) -> int:
        """So many replicas it is to have now."""
        scale = self.spec.scale
        full = scale.clamp(self.status.scaled) if isinstance(scale, Scale) else scale
        return max(0, full - self.status.rested)


def rates_of(service: Service) -> Rates | None:
    """Return what its tokens cost, in won per million: as written, else derived. None: nothing."""
    price, tariff = service.spec.price, service.status.tariff
    if price is None:
        return tariff.krw if tariff else None
    cached = price.input if price.cached is None else price.cached
    return Rates(input=price.input, cached=cached, output=price.output)
