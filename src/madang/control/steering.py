"""What operators of the site say of single nodes and accelerators, beside what is applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from madang.errors import Conflict
from madang.planning.fencing import check
from madang.planning.snapshot import Snapshot
from madang.resources.place import Accelerator, AcceleratorPhase
from madang.resources.resource import AnyResource, Frozen


@dataclass(frozen=True, slots=True)
class Steered:
    """What is to be written, and the code of the event that tells of it."""

    spec: Frozen
    code: str


Steer = Callable[[AnyResource], Steered | None]
"""Says what becomes of a thing as it is found; None: nothing, it is so already."""


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
