"""revision and build: one fixed form of a service, and the thing that a gate judges."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from madang.resources.place import Grade
from madang.resources.resource import Condition, Frozen, Name, Resource
from madang.resources.service import Needs


class RevisionPhase(StrEnum):
    """starting -> serving -> retired; starting -> failed (its gate said no)."""

    STARTING = "starting"
    SERVING = "serving"
    FAILED = "failed"
    RETIRED = "retired"


class Form(Frozen):
    """How one replica is made: by the service's own needs, or by one of its variants."""

    recipe: str
    needs: Needs
    memory_bytes: int
    """On each accelerator."""
    context_tokens: int
    slots: int
    throughput: float = 1.0


class RevisionSpec(Frozen):
    """A service's template with everything pinned."""

    service: Name
    number: int
    model: Name
    model_version: int
    digest: str
    recipe: str
    needs: Needs
    memory_bytes: int
    """What one replica takes on each accelerator."""
    context_tokens: int
    slots: int
    gate: tuple[str, ...]
    prefer: str = ""
    grade: Grade = Grade.OPEN
    throughput: float = 1.0
    variants: tuple[Form, ...] = ()

    @property
    def forms(self) -> tuple[Form, ...]:
        """Every way to make a replica; the first by the service's own needs."""
        own = Form(
            recipe=self.recipe, needs=self.needs, memory_bytes=self.memory_bytes,
            context_tokens=self.context_tokens, slots=self.slots, throughput=self.throughput,
        )  # fmt: skip
        return (own, *self.variants)

    def form(self, number: int) -> Form:
        """Return one of the forms."""
        forms = self.forms
        return forms[number if number < len(forms) else 0]


class RevisionStatus(Condition):
    """How far it came."""

    phase: RevisionPhase = RevisionPhase.STARTING


class Revision(Resource[RevisionSpec, RevisionStatus]):
    """One fixed form of a service; named `service-NUMBER`."""

    kind: ClassVar[str] = "revision"


class Verdict(StrEnum):
    """What a gate says of a build: open -> passed or failed."""

    OPEN = "open"
    PASSED = "passed"
    FAILED = "failed"


class Check(Frozen):
    """One check of a gate, as it went."""

    name: str
    passed: bool
    seconds: float
    detail: str = ""
    """What was seen; for a failed check also what was expected."""


class BuildSpec(Frozen):
    """What a verdict is about: change any of these and the gate is asked again."""

    digest: str
    engine: str
    engine_version: str
    accelerator: str
    recipe: str
    gate: tuple[str, ...]


class BuildStatus(Condition):
    """The verdict and its evidence."""

    verdict: Verdict = Verdict.OPEN
    replica: str = ""
    """Uid of the replica on which the gate runs or ran."""
    term: int = 0
    """The control that started the gate; a later one starts it again."""
    started_at: float = 0.0
    judged_at: float | None = None
    checks: tuple[Check, ...] = ()


class Build(Resource[BuildSpec, BuildStatus]):
    """(model digest, engine and version, accelerator kind, recipe): named by its own digest."""

    kind: ClassVar[str] = "build"
