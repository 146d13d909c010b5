"""The orders a supervisor takes, on one page: versioned JSON lines, over any carrier.

Each line to the supervisor is an *order*, each line back is its *answer*, matched by `id`:

    {"v": 1, "id": 7, "verb": "start",   "term": 3, "plan": {…LaunchPlan…}}
    {"v": 1, "id": 8, "verb": "stop",    "term": 3, "uid": "…", "epoch": 2, "grace_s": 10}
    {"v": 1, "id": 9, "verb": "observe", "term": 3, "after": 41, "wait_s": 5}
    {"v": 1, "id": 10, "verb": "tail",   "term": 3, "uid": "…", "lines": 50}
    {"v": 1, "id": 11, "verb": "signal", "term": 3, "uid": "…", "epoch": 2, "signal": "SIGTERM"}

    {"id": 7, "ok": {"seq": 42, "boot": "…", …}}   start, stop, signal: the process as it is now
    {"id": 9, "ok": {"seq": 42, "boot": "…", "processes": [{…Process…}]}}
    {"id": 10, "ok": {"lines": ["…"]}}
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

Verb = Literal["start", "stop", "observe", "tail", "signal"]
State = Literal["running", "waiting", "exited"]
"""running; waiting for its next restart; exited (for good: its plan says never to restart)."""


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
    """The JSON object the child wrote to READY_FD: at least `url` for an engine."""
    accelerators: tuple[str, ...] = ()
    rss_bytes: int = 0
    cpu_s: float = 0.0
    """Processor time that all processes of its session have used; 0: not known."""
    halted: bool = False
    """Stopped by a signal; it does nothing until it is told to go on."""


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
    plain = {k: asdict(v) if isinstance(v, LaunchPlan) else v for k, v in arguments.items()}
    return {"v": VERSION, "id": order_id, "verb": verb, "term": term, **plain}


def plan_from(body: Mapping[str, Any]) -> LaunchPlan:
    """Read a LaunchPlan; unknown keys raise TypeError."""
    sequences = {k: tuple(body[k]) for k in ("argv", "accelerators") if k in body}
    return LaunchPlan(**{**body, **sequences})


def process_from(body: Mapping[str, Any]) -> Process:
    """Read a Process; unknown keys raise TypeError."""
    return Process(**{**body, "accelerators": tuple(body.get("accelerators", ()))})
