"""Every process of this node: started, watched, restarted, ended. Knows no orders, no sockets."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from madang.supervisor import logring, proc
from madang.supervisor.journal import Journal
from madang.supervisor.loop import Loop
from madang.supervisor.protocol import LaunchPlan, Process
from madang.supervisor.spawn import spawn

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
STEADY_S = 60.0
"""A process that lived this long starts again with the first back-off."""
LIVING_MAX = 512
ENDED_MAX = 4096
"""What one supervisor knows at most; the oldest ended processes are forgotten first."""
ANNOUNCED_BYTES_MAX = 1024
_READ_BYTES = 1 << 16


class Refused(Exception):
    """An order that is not carried out, with the code and values of its answer."""

    def __init__(self, code: str, subject: str = "", **values: str | int) -> None:
        super().__init__(code)
        self.code, self.subject, self.values = code, subject, values


@dataclass(slots=True, eq=False)
class Child:
    """One plan and its process, of which something lives while `now.pid` is set."""

    plan: LaunchPlan
    ring: logring.LogRing
    now: Process
    """What is reported."""
    old: Child | None = None
    """The living process of a lower epoch that must be gone before this one starts."""
    start_ticks: int = 0
    steady_at: float = 0.0
    """Monotonic: from when on it has lived long enough to forget its failures."""
    failures: int = 0
    stopping: bool = False
    exit_code: int | None = None
    """Set once its leader has ended, also while others of its sessions still live."""
    sessions: set[int] = field(default_factory=set)
    output: int = -1
    ready: int = -1
    said: bytes = b""


class Children:
    """The newest child of every uid, in the order of starting."""

    def __init__(self, loop: Loop, journal: Journal, ring_bytes: int) -> None:
        self.seq = int(time.time() * 1000)  # so that it never equals one of an earlier supervisor
        self.on_change: Callable[[], None] = lambda: None
        self.closing = False
        self._loop = loop
        self._journal = journal
        self._ring_bytes = ring_bytes
        self._known: dict[str, Child] = {}
        self._alive: dict[int, Child] = {}

    def all_gone(self) -> bool:
        """Whether everything has ended after `close`."""
        return self.closing and not self._alive

    def reports(self) -> list[Process]:
        """Return every process; one that is being replaced stands before its successor."""
        both = [c for child in self._known.values() for c in (child.old, child) if c]
        return [replace(c.now, rss_bytes=proc.rss_bytes(c.now.pid)) for c in both]

    def start(self, plan: LaunchPlan) -> Process:
        """Start it, unless it is there; end the process of a lower epoch first."""
        child = self._known.get(plan.uid)
        if child and child.plan.epoch >= plan.epoch:
            if child.plan.epoch > plan.epoch:
                raise Refused("supervisor.stale-epoch", plan.uid, newest=child.plan.epoch)
            return child.now
        if self.closing:
            raise Refused("supervisor.closing", plan.uid)
        if len(self._known) - len(self._ended()) >= LIVING_MAX:
            raise Refused("supervisor.full", plan.uid, limit=LIVING_MAX)
        old = (child if child.now.pid else child.old) if child else None
        self._forget(plan.uid)
        waiting = Process(plan.uid, plan.epoch, "waiting", accelerators=plan.accelerators)
        child = Child(plan, logring.LogRing(plan.uid, self._ring_bytes), waiting, old)
        self._known[plan.uid] = child
        if old:
            self._end(old, old.plan.grace_s)
            self._changed()
        elif cause := self._run(child):
            if plan.restart == "never":
                self._forget(plan.uid)
            raise Refused("supervisor.spawn-failed", plan.uid, program=plan.argv[0], cause=cause)
        return child.now

    def stop(self, uid: str, epoch: int, grace_s: float) -> Process | None:
        """End it and forget it once it is gone; what has replaced it is left alone."""
        child = self._known.get(uid)
        if child is None or child.plan.epoch > epoch:
            return None
        if not child.now.pid:
            self._forget(uid)
            self._changed()
            if child.old is None:
                return None
            self._known[uid] = child = child.old
        self._end(child, grace_s)
        return child.now

    def send(self, uid: str, epoch: int, number: int) -> Process:
        """Send a signal to the process itself, not to those below it."""
        child = self._known.get(uid)
        if child is None or child.plan.epoch != epoch or not child.now.pid:
            raise Refused("supervisor.unknown-process", uid)
        if child.exit_code is None:
            os.kill(child.now.pid, number)
        return child.now

    def close(self) -> None:
        """End everything, the last started first."""
        self.closing = True
        for child in reversed(list(self._known.values())):
            self.stop(child.plan.uid, child.plan.epoch, child.plan.grace_s)

    def reap(self) -> None:
        """Collect every process that has ended: children, and orphans of children."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if child := self._alive.get(ended[0]):
                    child.exit_code = os.waitstatus_to_exitcode(ended[1])
                    self._sweep(child)

    def record(self) -> None:
        """Write the journal; raises OSError."""
        self._journal.write(
            {
                "uid": child.plan.uid,
                "epoch": child.plan.epoch,
                "pid": pid,
                "start_ticks": child.start_ticks,
                "accelerators": child.plan.accelerators,
            }
            for pid, child in self._alive.items()
        )

    def _run(self, child: Child) -> str:
        """Start its process; return why that failed, or nothing."""

        def enlist(pid: int) -> None:
            found = proc.entry(pid)
            child.start_ticks = found.start_ticks if found else 0
            self._alive[pid] = child
            self.record()

        try:
            pid, child.output, child.ready = spawn(child.plan, enlist)
        except OSError as error:
            self._alive = {p: c for p, c in self._alive.items() if c is not child}
            cause = error.strerror or str(error)
            child.ring.write(f"[cannot start {child.plan.argv[0]}: {cause}]\n".encode())
            self._settle(child, 127)
            return cause
        logring.prune()
        child.exit_code, child.said, child.sessions = None, b"", {pid}
        child.steady_at = time.monotonic() + STEADY_S
        child.now = replace(
            child.now,
            state="running",
            pid=pid,
            started_at=time.time(),
            ended_at=None,
            exit_code=None,
            announced=None,
        )
        self._loop.watch(child.output, lambda: self._listen(child))
        self._loop.watch(child.ready, lambda: self._hear(child))
        self._changed()
        return ""

    def _end(self, child: Child, grace_s: float) -> None:
        """Ask it to end, and make it end after its grace."""
        if child.exit_code is not None:
            return
        if not child.stopping:
            child.stopping = True
            child.sessions |= {e.session for e in proc.members(child.sessions)}
            os.killpg(child.now.pid, signal.SIGTERM)
        self._loop.alarm(child, grace_s, lambda: _kill(child))

    def _sweep(self, child: Child, pause_s: float = 0.01) -> None:
        """Its leader has ended: kill what is left, and look again until nothing is."""
        if _kill(child):
            again_s = min(1.0, pause_s * 2)
            self._loop.alarm(child, pause_s, lambda: self._sweep(child, again_s))
            return
        self._loop.cancel(child)
        self._listen(child)
        child.output, child.ready = self._shut(child.output), self._shut(child.ready)
        del self._alive[child.now.pid]
        self._settle(child, child.exit_code)
        with suppress(OSError):
            self.record()

    def _settle(self, child: Child, exit_code: int | None) -> None:
        """Nothing of it lives: start its successor, forget it, start it again, or keep its end."""
        child.now = replace(child.now, pid=0, exit_code=exit_code, ended_at=time.time())
        newest = self._known[child.plan.uid]
        if newest is not child:
            newest.old = None
            self._run(newest)
        elif child.stopping:
            self._forget(child.plan.uid)
        elif child.plan.restart == "always":
            self._back_off(child)
        else:
            child.now = replace(child.now, state="exited", announced=None)
            for uid in self._ended()[:-ENDED_MAX]:
                self._forget(uid)
        self._changed()

    def _back_off(self, child: Child) -> None:
        if child.exit_code is not None and time.monotonic() >= child.steady_at:
            child.failures = 0
        delay_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(child.failures, 10))
        child.failures += 1
        child.exit_code = None
        child.now = replace(child.now, state="waiting", restarts=child.now.restarts + 1)
        self._loop.alarm(child, delay_s, lambda: self._run(child))

    def _forget(self, uid: str) -> None:
        child = self._known.pop(uid, None)
        if child and not child.now.pid:
            self._loop.cancel(child)

    def _ended(self) -> list[str]:
        return [uid for uid, child in self._known.items() if child.now.state == "exited"]

    def _changed(self) -> None:
        self.seq += 1
        self.on_change()

    def _listen(self, child: Child) -> None:
        """Keep what it printed."""
        if child.output < 0:
            return
        with suppress(BlockingIOError):
            chunk = os.read(child.output, _READ_BYTES)
            child.ring.write(chunk)
            if not chunk:
                child.output = self._shut(child.output)

    def _hear(self, child: Child) -> None:
        """Take the one line in which it says that it is ready."""
        chunk = os.read(child.ready, ANNOUNCED_BYTES_MAX)
        child.said += chunk
        if chunk and b"\n" not in child.said and len(child.said) < ANNOUNCED_BYTES_MAX:
            return
        child.ready = self._shut(child.ready)
        with suppress(ValueError, RecursionError):
            said = json.loads(child.said.partition(b"\n")[0])
            if isinstance(said, dict):
                child.now = replace(child.now, announced=said)
                self._changed()

    def _shut(self, fd: int) -> int:
        if fd >= 0:
            self._loop.unwatch(fd)
            os.close(fd)
        return -1


def _kill(child: Child) -> int:
    """Kill all that belongs to it; return how many there still were."""
    left = proc.members(child.sessions)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return len(left)
