"""The clock of a queue, by which waits are counted: it goes only as far as somebody watched.

It is stored with its queue, and advanced by what this control has watched since, on a clock that
only goes forward. Of time that nobody watched, since control was down or the wall clock was set, a
step counts and no more: no jump makes all who wait look as if they had waited too long. While
somebody waits it is written down once a step; so who restarts control loses nobody's wait.
"""

from __future__ import annotations

from madang.planning.snapshot import Snapshot
from madang.resources.queue import Queue

STEP_S = 3600.0
UNSEEN_S_MAX = 86_400.0
"""Of such time so much counts for what projects went short of, and for services, which are not
asked to make room."""


def passed_s(snapshot: Snapshot, uid: str, stamp: float) -> float:
    """Return how long ago a stamp was written: as watched, else as the clock has it, to a bound."""
    watched = snapshot.age_s(uid, stamp)
    return min(max(snapshot.now - stamp, watched), watched + UNSEEN_S_MAX)


def clock_s(queue: Queue | None, snapshot: Snapshot) -> float:
    """Return what the clock of a queue shows now, in seconds since it was first known."""
    if queue is None:
        return 0.0
    status = queue.status
    watched_s = snapshot.age_s(queue.uid, status.at)
    unseen_s = max(0.0, snapshot.now - status.at - watched_s)
    return status.clock_s + watched_s + min(unseen_s, STEP_S)


def step_due_s(queue: Queue, snapshot: Snapshot) -> float:
    """Return the seconds until the clock of a queue is to be written down; 0: it is time."""
    return max(0.0, queue.status.clock_s + STEP_S - clock_s(queue, snapshot))
