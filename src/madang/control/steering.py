"""What people say of single things beside what is applied: operators of nodes and accelerators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from madang.errors import Conflict, Value
from madang.planning.health.fencing import check
from madang.planning.snapshot import Snapshot
from madang.resources.job import Job
from madang.resources.place import Accelerator, AcceleratorPhase
from madang.resources.resource import AnyResource, Frozen
from madang.resources.service import Service


@dataclass(frozen=True, slots=True)
class Steered:
    """What is to be written, and the code of the event that tells of it."""

    spec: Frozen
    code: str
    status: Frozen | None = None
    """None: as it is."""


Steer = Callable[[AnyResource], Steered | None]
"""Says what becomes of a thing as it is found; None: nothing, it is so already."""


def resumed(found: AnyResource) -> Steered | None:
    """Have a job or a service go on that was suspended, by its owner or for standing idle."""
    if isinstance(found, Service):
        fewer = found.status.rested
        status = found.status.model_copy(update={"rested": 0})
        return Steered(found.spec, "idle.resumed", status) if fewer else None
    assert isinstance(found, Job)
    if not found.is_suspended:
        return None
    spec = found.spec.model_copy(update={"suspend": False})
    return Steered(spec, "idle.resumed", found.status.model_copy(update={"rests": False}))


class Done(NamedTuple):
    """What somebody's deed changes, what it is about first, and what is told of it."""

    changed: tuple[AnyResource, ...]
    told: tuple[tuple[AnyResource, str, Mapping[str, Value]], ...]
    """Of what, the code of the event, and its values."""


Deed = Callable[[AnyResource], Done]
"""Does something about a thing as it is found; raises where that may not be."""


def emptied(drain: bool) -> Steer:
    """Have a node emptied, or used again."""

    def steer(node: AnyResource) -> Steered | None:
        if node.spec.drain == drain:
            return None
        code = "node.drain-asked" if drain else "node.uncordoned"
        return Steered(node.spec.model_copy(update={"drain": drain}), code)

    return steer


def released(now: Callable[[], Snapshot]) -> Steer:
    """Have an accelerator offered again, if nothing that it shows now speaks against it."""

    def steer(found: AnyResource) -> Steered | None:
        assert isinstance(found, Accelerator)
        if found.status.phase is AcceleratorPhase.OK:
            return None
        wrong = check(found, now())
        if wrong:
            told = {**wrong.values, "because": wrong.code}
            raise Conflict("accelerator.not-well", f"accelerator/{found.name}", **told)
        asked = {"releases": found.spec.releases + 1}
        return Steered(found.spec.model_copy(update=asked), "accelerator.release-asked")

    return steer
