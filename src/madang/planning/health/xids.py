"""What NVIDIA's XIDs mean: whose fault each is, and what is to be done.

An XID is a number that NVIDIA's driver writes to the kernel's log for what goes wrong with a GPU.
Source of meanings and actions: NVIDIA, "Xid Errors" and the Xid catalog (docs.nvidia.com/deploy/
xid-errors), said in our own words; where they leave a choice, docs/decisions says what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How ill an accelerator is."""

    OK = "ok"
    DEGRADED = "degraded"
    """Nothing new should be placed there; what runs may go on."""
    FATAL = "fatal"
    """Nothing can be worked out there any more."""

    @property
    def height(self) -> int:
        """Compare by this."""
        return list(Level).index(self)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one number stands for."""

    code: str
    """Of the sentence that says what happened, and the next step; empty: nothing is said."""
    level: Level


def _those(level: Level, code: str, *numbers: int) -> dict[int, Meaning]:
    return dict.fromkeys(numbers, Meaning(code, level))


XIDS: dict[int, Meaning] = {
    # The program that ran there did something wrong, or was ended: its own error.
    **_those(Level.OK, "", 13, 31, 32, 43, 45, 68, 69, 109),
    # Memory: an error that was contained ended one program, or rows will be replaced at a reset.
    **_those(Level.DEGRADED, "accelerator.contained", 94),
    **_those(Level.DEGRADED, "accelerator.row-remapped", 63),
    # Memory: more than that.
    **_those(Level.FATAL, "accelerator.memory-error", 48, 95, 140),
    **_those(Level.FATAL, "accelerator.row-remap-failed", 64),
    # The links between GPUs, with which a gang stands and falls.
    **_those(Level.FATAL, "accelerator.link", 74, 144, 145, 146, 147, 148, 149, 150),
    # It is gone, or does nothing any more.
    **_those(Level.FATAL, "accelerator.fell-off", 79),
    **_those(Level.FATAL, "accelerator.stopped", 46, 110, 143),
    # Its own processors: without them the driver reaches nothing.
    **_those(Level.FATAL, "accelerator.firmware", 62, 119, 120, 136),
}  # fmt: skip
"""By number. What isn't here is told by nobody's doing: it fences nothing."""


def meaning(number: int) -> Meaning | None:
    """Return what an XID stands for; None: not known here.

    >>> meaning(79).level, meaning(13).level, meaning(9999)
    (<Level.FATAL: 'fatal'>, <Level.OK: 'ok'>, None)
    """
    return XIDS.get(number)
