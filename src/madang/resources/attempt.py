"""attempt: one time that a job was given accelerators; and how that ended."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from madang.resources.holding import Holding
from madang.resources.idle import Meter
from madang.resources.resource import Condition, Frozen, Name, Reason, Ref, Resource


class AttemptPhase(StrEnum):
    """Where an attempt is in its life; NEXT says which phase may follow which."""

    STARTING = "starting"
    """Its places are reserved, and the orders to start are out."""
    RUNNING = "running"
    """Every rank has been started."""
    SAVING = "saving"
    """Its ranks were asked to save and to end by themselves; its places are held."""
    STOPPING = "stopping"
    """The orders to stop are out; its places are held until its processes are gone."""
    ENDED = "ended"
    """It holds nothing any more."""


_A = AttemptPhase
NEXT: dict[AttemptPhase, frozenset[AttemptPhase]] = {
    _A.STARTING: frozenset({_A.RUNNING, _A.SAVING, _A.STOPPING}),
    _A.RUNNING: frozenset({_A.SAVING, _A.STOPPING}),
    _A.SAVING: frozenset({_A.STOPPING}),
    _A.STOPPING: frozenset({_A.ENDED}),
    _A.ENDED: frozenset(),
}


class Outcome(StrEnum):
    """Whose doing its end was: what is tried again depends on that."""

    SUCCEEDED = "succeeded"
    FAULT = "fault"
    """A node, an accelerator, or a rank that made no step any more: tried again."""
    PREEMPTED = "preempted"
    """Somebody else needs the accelerators, or it asked to go on later: tried again."""
    ERROR = "error"
    """Its own: tried again as long as that brings new steps."""
    CANCELLED = "cancelled"


class AttemptSpec(Frozen):
    """Which of its job's attempts it is, and from where it goes on."""

    job: Name
    number: int
    """1, 2, …; also the epoch of its processes."""
    resume_from: str = ""
    """The name of a checkpoint; empty: from the start."""
    first_step: int = 0
    """The step of that checkpoint."""
    resume_job: str = ""
    """The uid of the job that wrote it, where that is another one."""
    accelerators: int = 0
    """So many it is given, over all its nodes."""
    save_every_s: float = 0.0
    """How often it is asked to save; 0: as it likes;"""
    write_s: float = 0.0
    """reckoned with a checkpoint that takes so long; 0: it was not known yet."""


class AttemptStatus(Condition):
    """Where it runs, how far it came, and how it ended."""

    phase: AttemptPhase = AttemptPhase.STARTING
    places: tuple[Holding, ...] = ()
    """Of each member of the gang; the first is where rank 0 runs."""
    port: int = 0
    """Where rank 0 waits for the others."""
    started_at: float = 0.0
    """Unix seconds of the last order to start."""
    running_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome | None = None
    """Decided when it is stopped."""
    cause: Reason | None = None
    rank: int | None = None
    """Which rank was the cause."""
    exit_code: int | None = None
    step: int = -1
    """The highest it has reached, as last written down;"""
    total: int = 0
    """of so many; 0: it has not said how many there are."""
    step_s: float = 0.0
    """How long a step took."""
    claim: str = ""
    """The folder that it calls a checkpoint and that is being read;"""
    claim_term: int = 0
    """by the control of this term,"""
    claimed_at: float = 0.0
    """since then."""
    grace_s: float = 0.0
    """So long it has to save since it was asked to; 0: it was not."""
    room_for: str = ""
    """A mark of whom it makes room for: all that do so for one let go at once."""
    asked_term: int = 0
    """The term of the control that has asked it."""
    counted: bool = False
    """Whether its pool's record has it."""
    meter: Meter | None = None
    """What it has used of its accelerators."""
    last_lines: tuple[str, ...] = ()
    """The last that rank printed."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """The last that rank 0 has told."""


class Attempt(Resource[AttemptSpec, AttemptStatus]):
    """One time that a job was given accelerators; named `JOB-NUMBER`."""

    kind: ClassVar[str] = "attempt"

    @property
    def job(self) -> Ref:
        """How its job is found."""
        return Ref(self.project, self.spec.job)


def member_uid(attempt: Attempt, member: int) -> str:
    """Return the uid of the processes of one member of the gang; their epoch is its number."""
    return f"{attempt.uid}-{member}"
