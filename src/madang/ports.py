"""The sockets in the wall: what the core needs from the world, and nothing of how it is done.

Adapters live in `stores`, `launchers`, `accelerators`, `engines`, `registry` and `clocks`; `app`
plugs them in. Each port has one contract suite in `tests/contracts`, run over every adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from madang.planning.snapshot import EngineFacts
from madang.resources.attempt import Attempt
from madang.resources.bill import By, Span, Used
from madang.resources.event import AuditRecord, Event
from madang.resources.job import Checkpoint, Job
from madang.resources.model import ModelVersion
from madang.resources.place import Guarantee
from madang.resources.power import Watts
from madang.resources.resource import AnyResource
from madang.resources.rights import Principal
from madang.resources.volume import Volume
from madang.supervisor.protocol import LaunchPlan, Line, Moment, Mount, Observation
from madang.traffic.leases import Asked, Lent, Spent, Want
from madang.traffic.table import Usage


@dataclass(frozen=True, slots=True)
class Write:
    """One guarded write: it counts only if the stored version is still `resource.resource_version`.

    A version of 0 means: must not exist. `gone` leaves a tombstone in the feed and frees the name.
    """

    resource: AnyResource
    gone: bool = False


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """What one endpoint has been used for since its first request."""

    project: str
    endpoint: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Health:
    """What a store is, where, and what about it isn't safe."""

    product: str
    version: str
    place: str
    """Never with a password."""
    unsafe: tuple[str, ...] = ()
    """Settings of the server without which acknowledged may not mean on disk."""


REPLY_KEPT_S = 86_400.0
"""So long a request may be sent again with its Idempotency-Key and get its first answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request was answered, kept with what it wrote."""

    id: str
    """A digest of who asked and their Idempotency-Key; the key itself is kept nowhere."""
    asked: str
    """A digest of the request."""
    at: float
    answer: str


ToReply = Callable[[Sequence[AnyResource]], Reply]
"""Makes the reply from the resources as stored, within the transaction."""


class Store(Protocol):
    """Where state lives. Acknowledged means on disk.

    Whoever asks is told only of what lies at its own place: that of others is as if absent.
    """

    async def open(self) -> int:
        """Make ready, migrate if needed (after a backup), and return this control's *term*.

        MUST return a higher term each time, and raise `Unavailable` while another control holds
        the same state, `Corrupt` for a state written by a newer version.
        """

    @property
    def id(self) -> str:
        """What tells this state from every other; made with it, kept by its copies."""

    async def load(self, who: Principal) -> tuple[int, Sequence[AnyResource]]:
        """Return the newest revision of the feed and every living resource."""

    async def commit(
        self,
        who: Principal,
        writes: Sequence[Write],
        events: Sequence[Event] = (),
        to_reply: ToReply | None = None,
    ) -> Sequence[AnyResource]:
        """Do all of it or none, durably, and return the resources as stored.

        A reply is kept in the same transaction for `REPLY_KEPT_S`; `Conflict` where there is one
        with that id already.

        MUST stamp every resource of one commit with one new `resource_version`, higher than any
        before, in commit order; raise `Conflict` when any guard fails or a living resource
        already has that kind, project and name; and raise `Forbidden` for a write outside the
        caller's place. For an audited caller MUST add an audit record per write with what was
        there before, and one per event that belongs to no write, in the same transaction.
        """

    async def changes(
        self, who: Principal, after: int, limit: int = 1000
    ) -> Sequence[tuple[AnyResource, bool]]:
        """Return what changed after that revision, in order, as (newest state, is gone).

        MUST end between two commits, if need be above `limit`, and raise `Rejected` with code
        `store.feed-pruned` when what went after that revision is no longer known; 0 always works.
        """

    async def backup(self, who: Principal, path: Path) -> None:
        """Write a consistent copy of everything to a new file."""

    async def health(self) -> Health:
        """Ask it how it is; raises `Unavailable` where it does not answer."""

    async def close(self) -> None:
        """Finish what was acknowledged and let go."""


class History(Protocol):
    """What has happened; lives beside the state, in the same transactions."""

    async def events(
        self, who: Principal, after: int = 0, limit: int = 1000, project: str | None = None
    ) -> Sequence[Event]:
        """Return events with a sequence number above `after`, oldest first."""

    async def audit(
        self, who: Principal, after: int = 0, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """Return audit records with a sequence number above `after`, oldest first."""

    async def reply(self, who: Principal, reply_id: str) -> Reply | None:
        """Return the reply that is kept under that id; only the caller can know the id."""

    async def record_usage(
        self, who: Principal, records: Sequence[Usage], span: Span | None = None, keep_from: int = 0
    ) -> Sequence[UsageTotal]:
        """Keep usage records, skipping ids that are already kept, and a span that is.

        Records of days before `keep_from` may go, a step at a time; sums stay. Returns what has
        been used in all, these included, by project and endpoint.
        """

    async def usage_mark(self, who: Principal, segment: str) -> int:
        """Return up to where a gateway's file of usage is kept; 0 for one that is not known."""

    async def used(
        self, who: Principal, days: range, project: str | None, by: By
    ) -> Sequence[Used]:
        """Return what the caller's projects, or one of them, used on these days, counted from 1970.

        In order of project and line. Days of years ago are told under the first of their month.
        """

    async def lend(
        self, who: Principal, asked: Asked, wants: Sequence[tuple[Want, int]]
    ) -> Sequence[Lent]:
        """Lend of budgets, each with its limit, and note that durably before it is said.

        What records of usage have come to is counted in the transaction that keeps them.
        """

    async def spent(self, who: Principal, day: int, month: int) -> Sequence[Spent]:
        """Return what is spent and lent of the caller's budgets, of that day and month."""


class Launcher(Protocol):
    """Where LaunchPlans are carried out. Every order may be sent again: same uid, same epoch."""

    async def observe(self, after: int, wait_s: float) -> Observation:
        """Return every process there, at once if something changed after `after`.

        MUST raise `Unavailable` when the place can't be seen; never an empty list instead.
        """

    async def start(self, plan: LaunchPlan) -> None:
        """Start it, unless that uid already runs at this epoch."""

    async def stop(self, uid: str, epoch: int, grace_s: float) -> Moment:
        """Ask it to end, and make it end after `grace_s`; returns before it has ended.

        MUST refuse every start at this epoch or a lower one from then on: what an observation that
        is not older than the moment returned does not show is gone, and stays so.
        """

    async def tail(self, uid: str, lines: int) -> Sequence[str]:
        """Return the last lines it printed; empty for something unknown."""

    async def printed(
        self, uid: str, lines: int, rank: int | None = None, first: bool = False
    ) -> Sequence[Line]:
        """Return the last lines that ranks of a gang printed, or the first, in order of arrival."""

    async def progress(
        self, uid: str, epoch: int, rank: int, after: int
    ) -> tuple[Sequence[str], int]:
        """Return lines of a rank's progress file from a byte on, and from which to go on."""

    async def signal(self, uid: str, epoch: int, name: str) -> None:
        """Send a signal (`SIGTERM`) to a process, or to every rank of a gang; nothing is stopped.

        MUST raise `Rejected` with code `supervisor.unknown-process` where that does not run.
        """


@dataclass(frozen=True, slots=True)
class Found:
    """One accelerator as a probe sees it."""

    name: str
    """Unique on its node: `cpu0`, `gpu3`."""
    kind: str
    """`cpu`, `nvidia/h100-80gb-hbm3`, …"""
    memory_bytes: int
    shared: bool
    """True: several replicas may share it by memory; False: it is given whole."""
    guarantee: Guarantee = Guarantee.SHARED
    """What those that share it are given."""
    group: str = ""
    """The same for accelerators of a node that may not be split; empty: on its own."""
    device: str = ""
    """How a process is told to use it (an index or UUID for the visibility variable)."""
    watts: Watts | None = None
    """What it draws, where the probe knows better than what is published of its kind."""
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    """What else there is to tell of it; the `cores` of a processor count, and its `FILE`."""


FILE = "file"
"""The attribute that names the file of a device's own: jobs that have the device see it."""


class Probe(Protocol):
    """What a node has of one vendor's accelerators."""

    def find(self) -> Sequence[Found]:
        """Look, without side effects. Empty where there is none, or no driver."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an engine is given when it starts one replica."""

    uid: str
    epoch: int
    model_name: str
    model_path: Path
    context_tokens: int
    slots: int
    memory_bytes: int
    cores: float
    accelerators: tuple[str, ...]
    devices: tuple[str, ...]
    token: str
    """The key the engine must ask of everybody; goes into the environment, never into argv."""


@dataclass(frozen=True, slots=True)
class Member:
    """What a program is given when the part of a gang that is on one node starts."""

    uid: str
    job: Job
    attempt: Attempt
    number: int
    """Of the member in its gang; 0 has rank 0."""
    master: str
    """The address at which rank 0 is reached by the others."""
    accelerators: tuple[str, ...]
    accelerator_kind: str
    devices: tuple[str, ...]
    files: tuple[str, ...]
    """Of these devices, beside those that all of their kind need."""
    cores: float
    """Processors that its ranks may count on together."""
    secrets: Mapping[str, str]
    """By variable."""
    mounts: tuple[Mount, ...]
    """What it sees beside its own folders, and where."""
    owner: int
    """The user number of its processes; 0: that of their supervisor."""
    is_enclosed: bool
    """Whether it sees no more of the machine than a bare system and what it is given."""
    progress: str
    """The folder in which its ranks say how far they are."""
    checkpoints: str
    """The folder in which they save."""
    cwd: str
    """Where they start, unless their code lies elsewhere."""
    library: str
    """The folder from which Python takes `madang.job`."""
    checkpoint_every_s: float


@dataclass(frozen=True, slots=True)
class Where:
    """Where a job saves that does so in a volume."""

    root: Path
    """The folder of the volume."""
    below: str = ""
    """A folder in it that jobs may have made: no link on the way is followed."""


class Saves(Protocol):
    """The folders of jobs, and the checkpoints in them. Every call blocks, in a thread.

    Those with `where` are about the volume that a job saves in; None: about a folder of its own.
    """

    def checkpoints(self, job: Job) -> str:
        """Return the folder in which a job saves."""

    def work(self, job: Job) -> str:
        """Return the folder in which a job starts."""

    def progress(self, job: Job, attempt: Attempt) -> str:
        """Return the folder in which the ranks of an attempt say how far they are."""

    def library(self) -> str:
        """Return the folder from which every job's Python takes `madang.job`; no job's own."""

    def make(self, job: Job, attempt: Attempt, owner: int, where: Where | None) -> None:
        """Make the folders that an attempt writes to, for that user number; 0: for our own.

        Raises `Rejected` where something else is in a folder's place.
        """

    def read(self, job: Job, attempt: Attempt, name: str, where: Where | None) -> Checkpoint:
        """Read a checkpoint from end to end; raises `Rejected` for what is none, or another's."""

    def of_another(self, job: Job, where: Where, strangers: Collection[str]) -> Checkpoint | None:
        """Return the newest whole one of another job than these strangers; None: there is none."""

    def is_whole(self, job: Job, checkpoint: Checkpoint, where: Where | None) -> bool:
        """Tell whether it still is what it was when it was read."""

    def keep_only(self, job: Job, kept: Collection[Checkpoint], where: Where | None) -> None:
        """Remove the checkpoints of this very job but these, and but those that came after them.

        Such a one may have been published a moment ago: nobody has read it yet.
        """

    def forget(self, job: Job) -> None:
        """Remove all that was the job's own; what lies in a volume stays."""


class Volumes(Protocol):
    """The folders of volumes. Every call blocks, in a thread, but the first two."""

    def owner(self, project: str) -> int:
        """Return the user number that the jobs of a project have; 0: that of Madang itself."""

    def folder(self, volume: Volume) -> Path:
        """Return where it lies."""

    def make(self, volume: Volume) -> Path:
        """Make its folder, unless it is one that was there before; return where it lies."""

    def measure(self, volume: Volume) -> tuple[int, int]:
        """Return how many bytes are in it, and how many files and folders."""

    def kept(self) -> Collection[str]:
        """Return the uid of every volume that has a folder of its own."""

    def remove(self, uid: str) -> None:
        """Remove such a folder with all that is in it."""


CODE = "/code"
"""Where a job's program lies in its sandbox."""


class Secrets(Protocol):
    """Texts by the uid of the secret; never in the state."""

    def put(self, uid: str, text: str) -> None:
        """Keep a text, in place of an earlier one."""

    def get(self, uid: str) -> str:
        """Return it; raises `Unavailable` where it is not there any more."""

    def kept(self) -> Collection[str]:
        """Return the uid of every secret that has a text."""

    def remove(self, uid: str) -> None:
        """Let go of one."""


Read = Callable[[Path, str], ModelVersion]
"""(folder of a volume, source) -> what was read, with number 0. Blocks, in a thread."""


class Codes(Protocol):
    """Programs that people send along with jobs. Every call but the first blocks, in a thread."""

    def folder(self, project: str, digest: str) -> Path:
        """Return where one lies that a project has sent."""

    def has(self, project: str, digest: str) -> bool:
        """Tell whether the project has sent it."""

    def add(self, project: str, digest: str, packed: str) -> None:
        """Unpack what was sent; raises `Rejected` for what is not what it says it is."""

    def keep_only(self, named: Collection[tuple[str, str]]) -> None:
        """Let go of all others that have been there for a while, by project and digest."""


class Engine(Protocol):
    """What a replica is. Pure: the launcher does what `launch` returns."""

    @property
    def facts(self) -> EngineFacts:
        """What planning must know to place it."""

    def launch(self, assignment: Assignment) -> LaunchPlan:
        """Return how to start it.

        The process MUST announce `{"url": …, "pid": …}` when ready, serve its model under `uid`
        as the model's name, and answer only to `token`.
        """

    def metrics(self, text: str) -> dict[str, float]:
        """Read the engine's own metrics into the common names, those it has.

        running, waiting, prompt_tokens, cached_tokens, output_tokens.
        """


class Blobs(Protocol):
    """Files by digest (`sha256:…`)."""

    def add(self, source: Path) -> tuple[str, int]:
        """Take a file in and return its digest and size in bytes; again is a no-op."""

    def path(self, digest: str) -> Path:
        """Return where it lies; raises `Unavailable` when it is gone or has changed size."""

    def check(self, digest: str, may_read: Callable[[], bool]) -> None:
        """Look whether it can still be what it was; raises as `path` does, or `blob.touched`.

        Read only where all but the time of its last change of any kind is as it was, as after it
        got another link or owner, and only as long as `may_read` says so.
        """

    def remove(self, digest: str) -> None:
        """Let go of it; nothing happens when it is not there."""

    def keep_only(self, digests: Collection[str]) -> None:
        """Let go of all others, and of what a crash left half done. For a start: nobody imports."""


class Clock(Protocol):
    """Time, passed in."""

    def now(self) -> float:
        """Wall-clock time, Unix seconds; may jump."""

    def monotonic(self) -> float:
        """Seconds that only go forward."""

    async def sleep(self, seconds: float) -> None:
        """Give way for that long."""


class Random(Protocol):
    """Randomness, passed in."""

    def token(self, byte_count: int) -> str:
        """As many random bytes, in lowercase hex."""
