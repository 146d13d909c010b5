"""The orders a supervisor takes, on one page: versioned JSON lines, over any carrier.

Each line to the supervisor is an *order*, each line back is its *answer*, matched by `id`:

    {"v": 1, "id": 7, "verb": "start",   "term": 3, "plan": {…LaunchPlan…}}
    {"v": 1, "id": 8, "verb": "stop",    "term": 3, "uid": "…", "epoch": 2, "grace_s": 10}
    {"v": 1, "id": 9, "verb": "observe", "term": 3, "after": 41, "wait_s": 5}
    {"v": 1, "id": 10, "verb": "tail",   "term": 3, "uid": "…", "lines": 50, "rank": 1}
    {"v": 1, "id": 11, "verb": "signal", "term": 3, "uid": "…", "epoch": 2, "signal": "SIGTERM"}
    {"v": 1, "id": 12, "verb": "progress", "term": 3, "uid": "…", "epoch": 2, "rank": 0, "after": 0}

    {"id": 7, "ok": {"seq": 42, "boot": "…", …}}   start, stop, signal: the process as it is now
    {"id": 9, "ok": {"seq": 42, "boot": "…", "processes": [{…Process…}]}}
    {"id": 10, "ok": {"lines": ["…"], "ranks": [1], "at": [1790000000.5]}}
    {"id": 12, "ok": {"lines": ["…"], "next": 5120}}
    {"id": 8, "error": {"code": "supervisor.stale-term", "subject": "…", "values": {}}}

Rules. An order whose *term* is below the highest seen is refused: an older control has been
replaced. Terms are counted by each state for itself: an order may name its `store`, and one of a
store that was never seen begins anew, and ends the say of the one before. A supervisor that starts
has seen none, since whoever gave orders before it ended with its predecessor. A start for a known
uid at the same *epoch* changes nothing (it is the same order, sent again); at a lower one it is
refused; at a higher one the old process is stopped first. A stop of something that has ended
forgets it; a stop of something unknown is answered as done; and after a stop no start at that epoch
or a lower one is carried out: it was sent before, and is late. The `seq` of an answer says which
observations are younger: those of the same `boot` from it on. `observe` answers at once when its
`after` is below the current `seq` or belongs to another `boot` of the supervisor, else when
something changes or `wait_s` has passed.

A plan with `ranks` is one member of a gang: its program runs once per rank, below one leader that
starts them, passes signals on (SIGTERM, then SIGCONT), and tells how each ended. `tail` without
`rank` gives the lines of all of them as they came, and says whose each is (-1: the leader's) and
when it came, in Unix seconds; with `"first": true` the first lines of the attempt instead of the
last. `progress` gives whole lines of one rank's progress file from a byte offset on. Of a member
`seq` counts the end of a rank, a stall and its end, a new checkpoint and the first step; not every
step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

VERSION = 1
LINE_BYTES_MAX = 1 << 20
"""No order and no answer is longer; a longer line closes the connection."""

READY_FD = "MADANG_READY_FD"
"""Environment variable: the file descriptor on which a child announces itself, one JSON line."""

RANKS_MAX = 64
"""Of one plan."""

Verb = Literal["start", "stop", "observe", "tail", "signal", "progress"]
State = Literal["running", "waiting", "exited"]
"""running; waiting for its next restart; exited (for good: its plan says never to restart)."""


@dataclass(frozen=True, slots=True)
class RankPlan:
    """One rank of a gang: the plan's program is started once for each."""

    rank: int
    """Among all of the gang, also those on other nodes."""
    env: Mapping[str, str] = field(default_factory=dict)
    """What its environment has beyond the plan's."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a rank may make no progress before it counts as stalled."""

    first_s: float = 1800.0
    """Before its first step, after its last, and in a phase that was never seen to end; 0: ever."""
    least_s: float = 60.0
    steps: float = 5.0
    """Then as many times its median step, or the longest such phase; never below `least_s`."""
    fixed_s: float = 0.0
    """Above 0: so long, whatever was learnt, once the first step is done."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder that is seen at another place than its own."""

    source: str
    place: str
    is_writable: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the ranks of a member see of their machine: a bare system, and this at its own place."""

    mounts: tuple[Mount, ...] = ()
    """And these at theirs."""

    reads: tuple[str, ...] = ()
    """Files and folders that may be read; left out where they are not there."""
    writes: tuple[str, ...] = ()
    """Folders that may be written too. That for progress is one without being named."""
    devices: tuple[str, ...] = ()
    network: Literal["private", "shared"] = "private"
    """private: a loopback of its own. shared: the machine's, and all that listens on it."""
    uid: int = 0
    """The member's own number, where the supervisor may give one; 0: that of the supervisor. What
    it reads and writes must be within its reach then."""
    shm_bytes: int = 1 << 30
    tmp_bytes: int = 256 << 20
    file_bytes: int = 0
    """No file may be longer; 0: no limit."""
    data_bytes: int = 0
    """Memory of each process that is not shared; 0: no limit."""
    processes: int = 0
    """Of the member's own uid; 0: no limit."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All that is needed to start one process, and nothing that decides whether to."""

    uid: str
    """What it is: `[a-z0-9-]{1,63}`; also the name of its log file."""
    epoch: int
    """How many times this uid has been given accelerators; a higher one replaces a lower."""
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """The whole environment, apart from what the supervisor adds: READY_FD, and a mark."""
    cwd: str | None = None
    restart: Literal["always", "never"] = "never"
    """`always`: the supervisor itself starts it again, with back-off (control, gateway)."""
    accelerators: tuple[str, ...] = ()
    """Names of the accelerators it holds; kept for the report."""
    grace_s: float = 10.0
    """Time between SIGTERM and SIGKILL when it is stopped."""
    ranks: tuple[RankPlan, ...] = ()
    """A member of a gang: these ranks of it run here. Empty: a plain process."""
    progress: str = ""
    """A folder, made if it is missing, for the ranks' files `progress-<rank>.jsonl`: one folder for
    each epoch, because a file of an earlier attempt would be read as this one's."""
    patience: Patience = Patience()
    sandbox: Sandbox | None = None
    """Of a member: None: it sees what its supervisor sees."""
    memory_bytes: int = 0
    """Of a member: so much all its processes may hold together, what they share counted once; its
    ranks are killed once it is more. 0: no limit."""


@dataclass(frozen=True, slots=True)
class Rank:
    """What the supervisor knows of one rank: its process, and what it says of its own progress."""

    rank: int
    pid: int = 0
    """0: not started yet, or ended."""
    exit_code: int | None = None
    """Negative: minus the number of the signal that ended it."""
    ended_at: float | None = None
    error: str = ""
    """Why its program could not be started."""
    step: int = -1
    """-1: none yet."""
    total: int = 0
    step_s: float = 0.0
    """Median of its last step times; 0: not known."""
    phase: str = ""
    """What it does instead of steps: `evaluation`, …"""
    quiet_s: float = 0.0
    """Since its last progress, on a clock that stands still while the machine sleeps."""
    stalled: bool = False
    """Quiet for longer than the plan's patience. Whether that means anything is for whoever sees
    the whole gang: a rank may never say a thing, and leave that to rank 0."""
    halted: bool = False
    """Stopped by a signal, or waiting for a disk: of ranks that are quiet the likely cause."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of each."""
    checkpoint: str = ""
    """Name of the newest checkpoint it says it has written: a claim."""
    bad_lines: int = 0
    """Lines of its progress file that could not be read."""


@dataclass(frozen=True, slots=True)
class Process:
    """What the supervisor knows of one process."""

    uid: str
    epoch: int
    state: State
    pid: int = 0
    """0 while waiting for a restart."""
    started_at: float = 0.0
    """Unix seconds."""
    ended_at: float | None = None
    exit_code: int | None = None
    """Negative: minus the number of the signal that ended it."""
    restarts: int = 0
    announced: Mapping[str, Any] | None = None
    """The JSON object the child wrote to READY_FD: at least `url` for an engine. One whose plan
    says to restart it always may write further ones, and the newest counts."""
    accelerators: tuple[str, ...] = ()
    rss_bytes: int = 0
    cpu_s: float = 0.0
    """Processor time that all processes of its session have used; 0: not known."""
    halted: bool = False
    """Stopped by a signal; it does nothing until it is told to go on."""
    ranks: tuple[Rank, ...] = ()
    over_bytes: int = 0
    """So much a member held when its ranks were killed for it; 0: they were not."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line that a process printed."""

    text: str
    rank: int = -1
    """Of a gang, whose it is; -1: of none."""
    at: float = 0.0
    """When it came, in Unix seconds; 0: nobody noted it."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment in one life of a supervisor."""

    boot: str
    seq: int


@dataclass(frozen=True, slots=True)
class Observation:
    """Every process of one supervisor at one moment."""

    seq: int
    boot: str
    processes: tuple[Process, ...]

    def shows(self, moment: Moment) -> bool:
        """Tell whether it was made at that moment or later, in the same life of the supervisor."""
        return self.boot == moment.boot and self.seq >= moment.seq


def encode(message: Mapping[str, Any]) -> bytes:
    """Write one message as a JSON line; a lone surrogate becomes its JSON escape."""
    text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"


def order(verb: Verb, order_id: int, term: int, **arguments: Any) -> dict[str, Any]:
    """Build an order; a LaunchPlan among the arguments becomes a JSON object.

    >>> order("tail", 1, 2, uid="a", lines=3)
    {'v': 1, 'id': 1, 'verb': 'tail', 'term': 2, 'uid': 'a', 'lines': 3}
    """
    plain = {k: _plain(v) if isinstance(v, LaunchPlan) else v for k, v in arguments.items()}
    return {"v": VERSION, "id": order_id, "verb": verb, "term": term, **plain}


def plan_from(body: Mapping[str, Any]) -> LaunchPlan:
    """Read a LaunchPlan; unknown keys raise TypeError."""
    read: dict[str, Any] = {k: tuple(body[k]) for k in ("argv", "accelerators") if k in body}
    if "ranks" in body:
        read["ranks"] = tuple(RankPlan(**rank) for rank in body["ranks"])
    if "patience" in body:
        read["patience"] = Patience(**body["patience"])
    if body.get("sandbox") is not None:
        box = body["sandbox"]
        lists = {name: tuple(box[name]) for name in ("reads", "writes", "devices") if name in box}
        mounts = tuple(Mount(**mount) for mount in box.get("mounts", ()))
        read["sandbox"] = Sandbox(**{**box, **lists, "mounts": mounts})
    return LaunchPlan(**{**body, **read})


def lines_from(body: Mapping[str, Any]) -> tuple[Line, ...]:
    """Read what a tail is answered with; what is none raises TypeError or ValueError.

    >>> lines_from({"lines": ["a"]}), lines_from({"lines": ["a"], "ranks": [1], "at": [0.5]})
    ((Line(text='a', rank=-1, at=0.0),), (Line(text='a', rank=1, at=0.5),))
    """
    texts = tuple(body.get("lines", ()))
    ranks = body.get("ranks", (-1,) * len(texts))
    return tuple(map(Line, texts, ranks, body.get("at", (0.0,) * len(texts))))


def process_from(body: Mapping[str, Any]) -> Process:
    """Read a Process; unknown keys raise TypeError."""
    ranks = tuple(Rank(**rank) for rank in body.get("ranks", ()))
    accelerators = tuple(body.get("accelerators", ()))
    return Process(**{**body, "accelerators": accelerators, "ranks": ranks})


def _plain(plan: LaunchPlan) -> dict[str, Any]:
    """Write a plan; what only members of a gang have is left out of others.

    So an older supervisor, which outlives the control that started it, understands them.
    """
    body = asdict(plan)
    if not plan.ranks:
        for name in ("ranks", "progress", "patience", "sandbox"):
            del body[name]
    if not plan.memory_bytes:
        del body["memory_bytes"]
    return body
