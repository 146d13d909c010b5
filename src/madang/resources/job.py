"""job: work that ends. Control makes one attempt after the other until it has."""

from __future__ import annotations

import posixpath
import shlex
from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, model_validator

from madang.errors import Unfit
from madang.resources.place import Grade
from madang.resources.quantity import Duration, Size
from madang.resources.resource import Condition, Frozen, Name, Reason, Resource
from madang.resources.service import Needs
from madang.resources.sweep import COMBINATIONS_MAX, Sweep, Swept, combinations, filled, text

NODES_MAX = 1024
RANKS_MAX = 64
"""Of one node."""
ARGUMENTS_MAX = 256
ARGUMENT_CHARS_MAX = 8192
CHECKPOINTS_KEPT = 3
ATTEMPTS_MAX = 1000
FILE_BYTES_MAX = 10**12
GRACE_S_MAX = 600.0
"""No job keeps others waiting for longer while it saves."""


def _split(written: object) -> object:
    if not isinstance(written, str):
        return written
    try:
        return tuple(shlex.split(written))
    except ValueError as error:
        raise Unfit("value.command", written=written, cause=str(error)) from None


Command = Annotated[
    tuple[Annotated[str, Field(max_length=ARGUMENT_CHARS_MAX, pattern=r"^[^\x00]*$")], ...],
    BeforeValidator(_split), Field(min_length=1, max_length=ARGUMENTS_MAX),
]  # fmt: skip
"""A program and its arguments; a string is split as a shell would, and nothing in it expanded."""

Variable = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Text = Annotated[str, Field(max_length=32_768, pattern=r"^[^\x00]*$")]
FolderOrNone = Annotated[str, Field(max_length=512, pattern=r"^(/[^\x00]*)?$")]
Folder = Annotated[str, Field(max_length=512, pattern=r"^/[^\x00]*$")]
Source = Annotated[str, Field(max_length=256, pattern=r"^(volume|model)://[^/\x00]+$")]


def _straight(written: str) -> str:
    if written and posixpath.normpath(written) != written:
        raise Unfit("value.folder-crooked", written=written)
    return written


class Resume(Frozen):
    """How it goes on after an attempt has ended before its time."""

    model_config = ConfigDict(serialize_by_alias=True)

    source: Annotated[FolderOrNone, AfterValidator(_straight)] = Field(default="", alias="from")
    """The folder of a volume that has its checkpoints, as it sees it; empty: one of the job's own.
    Where it has saved nothing yet, it goes on from the newest that another job has saved there."""
    stall: Duration | None = Field(default=None, ge=1, le=86_400)
    """An attempt without a step for so long is ended; None: learnt from how long its steps take."""
    attempts: int = Field(default=20, ge=1, le=ATTEMPTS_MAX, strict=True)
    """So many in all, whatever ended them but Madang's own wish to have them end."""
    grace: Duration | None = Field(default=None, ge=1, le=GRACE_S_MAX)
    """So long an attempt has to save and to end when it is asked to; None: half a minute, or twice
    what a step and a checkpoint of it take."""


class Level(StrEnum):
    """How near to each other the nodes of a gang may be asked to lie, the widest first."""

    SITE = "site"
    ZONE = "zone"
    RACK = "rack"


class Near(Frozen):
    """How near to each other the nodes of a gang lie."""

    level: Level
    required: bool = False
    """All in one; otherwise as near as it can be had."""


def _near(written: object) -> object:
    return {"level": written} if isinstance(written, str) else written


class Priority(StrEnum):
    """What a job counts for beside others where there is not room for all."""

    LOW = "low"
    """Makes room for services and for other jobs."""
    NORMAL = "normal"
    HIGH = "high"
    """For operators of the site to give."""

    @property
    def height(self) -> int:
        """Compare by this: what is higher comes first."""
        return HEIGHTS[self]


HEIGHTS = {each: height for height, each in enumerate(Priority)}


class JobSpec(Frozen):
    """What is run, on what, and how it goes on after a fault."""

    command: Command
    """Started once per rank, with torchrun's environment."""
    needs: Needs = Needs()
    """Of each node; without an accelerator its processors are meant."""
    nodes: int = Field(default=1, ge=1, le=NODES_MAX, strict=True)
    """A gang: all or none."""
    near: Annotated[Near, BeforeValidator(_near)] | None = None
    """How near its nodes lie: `rack`, or `{level: rack, required: true}`."""
    ranks: int | None = Field(default=None, ge=1, le=RANKS_MAX, strict=True)
    """Of each node; None: one per accelerator."""
    env: dict[Variable, Text] = Field(default_factory=dict, max_length=256)
    secrets: dict[Variable, Name] = Field(default_factory=dict, max_length=64)
    """By variable, the secret whose text it gets."""
    mounts: dict[Folder, Source] = Field(default_factory=dict, max_length=32)
    """By folder, the volume or model that lies there."""
    code: Annotated[str, Field(max_length=71, pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """The program that was sent along, by digest: in a sandbox it lies read-only at /code."""
    workdir: FolderOrNone = ""
    """Where it starts; empty: where its code lies, or else an empty folder."""
    resume: Resume = Resume()
    file_size: Size = Field(default=FILE_BYTES_MAX, ge=1)
    """In a sandbox no file that it writes may become larger, in bytes."""
    after: tuple[Name, ...] = Field(default=(), max_length=64)
    """Jobs of the same project that must have succeeded."""
    sweep: Sweep = Field(default_factory=dict)
    """By name, the values that are tried: one job for each combination, NAME-1, NAME-2, …"""
    parallel: int | None = Field(default=None, ge=1, le=COMBINATIONS_MAX, strict=True)
    """So many jobs of its sweep are there at once that are not over; None: all."""
    priority: Priority = Priority.NORMAL
    grade: Grade = Grade.OPEN
    """Of the data that it works on: it runs only on sites that may hold such data."""
    cancel: Annotated[bool, Strict()] = False
    """Whether it is to be ended, and not tried again."""
    suspend: Annotated[bool, Strict()] = False
    """Whether it is to hold nothing for now; it goes on from its last checkpoint."""

    @model_validator(mode="after")
    def _has_where_it_saves(self) -> Self:
        if self.resume.source and self.saves_in is None:
            raise Unfit("value.saves-in-no-volume", folder=self.resume.source)
        return self

    @model_validator(mode="after")
    def _can_be_swept(self) -> Self:
        if not self.sweep:
            if self.parallel is not None:
                raise Unfit("value.parallel-alone")
            return self
        if (count := combinations(self.sweep)) > COMBINATIONS_MAX:
            raise Unfit("value.sweep-large", count=count, limit=COMBINATIONS_MAX)
        if len({name.upper() for name in self.sweep}) < len(self.sweep):
            raise Unfit("value.sweep-names-meet", names=", ".join(sorted(self.sweep)))
        if self.resume.source:
            raise Unfit("value.sweep-saves-in-one", folder=self.resume.source)
        longest = {name: max(map(text, values), key=len) for name, values in self.sweep.items()}
        if any(len(filled(part, longest)) > ARGUMENT_CHARS_MAX for part in self.command):
            raise Unfit("value.sweep-argument-long", limit=ARGUMENT_CHARS_MAX)
        return self

    @property
    def ranks_per_node(self) -> int:
        """How many ranks each node has."""
        return self.ranks or self.needs.count

    @property
    def saves_in(self) -> tuple[str, str] | None:
        """The volume with its checkpoints, and the folder in it; None: a folder of the job's own.

        >>> resume, mounts = {"from": "/ckpt/a"}, {"/ckpt": "volume://kept"}
        >>> JobSpec(command="true", mounts=mounts, resume=resume).saves_in
        ('kept', 'a')
        """
        folder = f"{self.resume.source}/"
        around = [place for place in self.mounts if folder.startswith(f"{place.rstrip('/')}/")]
        if not self.resume.source or not around:
            return None
        place = max(around, key=lambda place: len(place.rstrip("/")))
        kind, _, name = self.mounts[place].partition("://")
        return (name, folder[len(place) :].strip("/")) if kind == "volume" else None


class JobPhase(StrEnum):
    """Where a job is, as its user sees it; NEXT says which phase may follow which."""

    WAITING = "waiting"
    """For other jobs, for room, or for its next attempt."""
    RUNNING = "running"
    """An attempt is starting, running or being stopped."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__  # Enum's own is Python, and jobs are counted by the ten thousand


_J = JobPhase
NEXT: dict[JobPhase, frozenset[JobPhase]] = {
    _J.WAITING: frozenset({_J.RUNNING, _J.FAILED, _J.CANCELLED}),
    _J.RUNNING: frozenset({_J.WAITING, _J.SUCCEEDED, _J.FAILED, _J.CANCELLED}),
    _J.SUCCEEDED: frozenset(),
    _J.FAILED: frozenset(),
    _J.CANCELLED: frozenset(),
}
OVER = frozenset({_J.SUCCEEDED, _J.FAILED, _J.CANCELLED})
"""Phases in which nothing of a job is tried any more."""


class Checkpoint(Frozen):
    """A checkpoint that control has read from end to end and found whole."""

    name: str
    """Of its folder."""
    step: int
    attempt: int
    """Which attempt wrote it."""
    digest: str
    """SHA-256 of its manifest, in hex."""
    size_bytes: int
    at: float
    """Unix seconds."""
    write_s: float = 0.0
    """How long it took to write, as its writer says; 0: not said."""
    job: str = ""
    """The uid of the job that wrote it, where that is another one."""


class InLine(Frozen):
    """That it waits, or has waited, in a queue; kept until that has learnt of how it ended."""

    queue: str
    """The name of the queue."""
    since: float
    """Unix seconds: when it came."""
    each_s: float = 0.0
    """What its project had gone short of by then, for each accelerator that its jobs asked for."""
    waited_s: float = 0.0
    """How long it had waited in all: up to `from_s`, or up to the attempt that runs."""
    from_s: float = 0.0
    """What the clock of the queue showed since when it waits again."""
    attempt: int = 0
    """The attempt that runs, as last written down; 0: it waits."""
    size: float = 0.0
    """Accelerators that it asks for."""


class JobStatus(Condition):
    """What has come of it so far."""

    phase: JobPhase = JobPhase.WAITING
    attempt: int = 0
    """The number of the newest; also the epoch of its processes."""
    step: int = -1
    """The highest that any attempt has reached, as last written down."""
    total: int = 0
    checkpoints: tuple[Checkpoint, ...] = ()
    """The good ones that are kept, oldest first."""
    refused: tuple[str, ...] = ()
    """Names of folders that the newest attempt called checkpoints and that are none."""
    fruitless: int = 0
    """Attempts in a row that ended by its own doing without a step that was new."""
    barren: int = 0
    """Attempts in a row without such a step, whatever ended them but Madang's own wish."""
    preempted: int = 0
    """Attempts that Madang has asked to end: they count for no limit."""
    preempted_at: tuple[float, ...] = ()
    """Unix seconds of the last few times that it made room for others."""
    began_at: float | None = None
    """Unix seconds at which its first attempt started."""
    ended_at: float | None = None
    run_s: float = 0.0
    """For how long ended attempts had accelerators;"""
    lost_s: float = 0.0
    """and how much of that was work that had to be done again, or was none."""
    accelerator_s: float = 0.0
    """The same times the accelerators that each had;"""
    lost_accelerator_s: float = 0.0
    """and of that what was lost."""
    rests: bool = False
    """Whether it was suspended for standing idle; whoever resumes it has it go on."""
    line: InLine | None = None
    """Its place in a queue; None: it has none, or what it did is learnt."""
    counted: bool = False
    """Whether its project's record has it, since it is about to be forgotten."""
    clearing: int = 0
    """The term of the control that removes its files; 0: none does."""
    exit_code: int | None = None
    cause: Reason | None = None
    """Why the last attempt that did not succeed ended."""
    last_lines: tuple[str, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)
    """The last that rank 0 of an ended attempt has told."""
    owner: str = ""
    """The job whose sweep it is of;"""
    swept: dict[str, Swept] = Field(default_factory=dict)
    """and the values that it tries."""
    made: int = 0
    """Of a sweep, so many of its jobs have been made;"""
    counts: dict[JobPhase, int] = Field(default_factory=dict)
    """and so many of these are in each phase; one that was taken away counts as cancelled."""


class Job(Resource[JobSpec, JobStatus]):
    """Work that ends."""

    kind: ClassVar[str] = "job"

    @property
    def is_suspended(self) -> bool:
        """Whether it is to hold nothing for now, by whoever's wish."""
        return self.spec.suspend or self.status.rests
