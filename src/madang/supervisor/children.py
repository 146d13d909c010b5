"""Every process of this node: started, watched, restarted, ended. Knows no orders, no sockets."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from madang.supervisor import logring, processes, progress
from madang.supervisor.gang import LOOK_S, Gang, Take
from madang.supervisor.journal import Journal
from madang.supervisor.loop import BREATH_S, Callback, Loop
from madang.supervisor.processes import spawn
from madang.supervisor.protocol import LaunchPlan, Process

BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
STEADY_S = 60.0
"""A process that lived this long starts again with the first back-off."""
LIVING_MAX = 512
RANKS_LIVING_MAX = 1024
ENDED_MAX = 4096
"""What one supervisor knows at most; the oldest ended and stopped ones are forgotten first."""
READ_BYTES = 256 << 10
READ_PAUSE_S = 0.02
"""So much is read of a pipe at once, and then not before so long: few large reads cost little."""
HURRY_BYTES = 64 << 10
"""After as much the pause is a quarter: whoever prints that fast shall not wait for us."""
VITALS_S = 1.0
"""Memory and processor time are read from the kernel this often at most."""
ANNOUNCED_BYTES_MAX = 1024
ANNOUNCED_AGAIN_BYTES_MAX = 64 << 10
"""Of a line with which one of ours announces itself anew: the watch of the accelerators does."""
PROGRAM_CHARS_MAX = 200
"""How much of a program's name is told back."""


class Refused(ValueError):
    """An order that is not carried out, with the code and values of its answer."""

    def __init__(self, code: str, subject: str = "", **values: str | int) -> None:
        super().__init__(code, subject, values)
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
    asked: bool = False
    """Whether it has got its SIGTERM."""
    exit_code: int | None = None
    """Set once its leader has ended, also while others of its sessions still live."""
    sessions: set[int] = field(default_factory=set)
    pipes: dict[int, Callback] = field(default_factory=dict)
    said: bytes = b""
    gang: Gang | None = None

    def target(self) -> int:
        """Return which process hears the signals that are meant for it."""
        return self.gang.leader() if self.gang else self.now.pid

    def trace(self) -> tuple[set[int], str, int]:
        """Return by what all of it can be found."""
        return self.sessions, processes.mark(self.plan.uid, self.plan.epoch), os.getpid()


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
        self._stopped: dict[str, int] = {}  # the highest epoch of each uid that was told to stop
        self._alive: dict[int, Child] = {}
        self._vitals: dict[int, processes.Vitals] = {}
        self._looked_at = -VITALS_S

    def all_gone(self) -> bool:
        """Whether everything has ended after `close`."""
        return self.closing and not self._alive

    def reports(self) -> list[Process]:
        """Return every process; one that is being replaced stands before its successor."""
        both = [c for child in self._known.values() for c in (child.old, child) if c]
        vitals = self._look()
        return [_alive(c, vitals.get(c.now.pid and c.target())) for c in both]

    def _look(self) -> dict[int, processes.Vitals]:
        """Return how all sessions are, as they were within the last second."""
        if time.monotonic() >= self._looked_at + VITALS_S:
            self._looked_at, self._vitals = time.monotonic(), processes.vitals()
        return self._vitals

    def start(self, plan: LaunchPlan) -> Process:
        """Start it, unless it is there; end the process of a lower epoch first."""
        child = self._known.get(plan.uid)
        newest = max(child.plan.epoch if child else 0, self._stopped.get(plan.uid, -1) + 1)
        if newest > plan.epoch:
            raise Refused("supervisor.stale-epoch", plan.uid, newest=newest)
        if child and child.plan.epoch == plan.epoch:
            return child.now
        if self.closing:
            raise Refused("supervisor.closing", plan.uid)
        self._make_room(plan)
        old = (child if child.now.pid else child.old) if child else None
        self._forget(plan.uid)
        waiting = Process(plan.uid, plan.epoch, "waiting", accelerators=plan.accelerators)
        child = Child(plan, logring.LogRing(plan.uid, self._ring_bytes), waiting, old)
        child.gang = Gang(plan, self._ring_bytes) if plan.ranks else None
        self._known[plan.uid] = child
        if old:
            self._end(old, old.plan.grace_s)
            self._changed()
            return child.now
        child.stopping = plan.restart == "never"  # what can't start is never seen: it isn't there
        if cause := self._run(child):
            program = plan.argv[0][:PROGRAM_CHARS_MAX]
            raise Refused("supervisor.spawn-failed", plan.uid, program=program, cause=cause)
        return child.now

    def _make_room(self, plan: LaunchPlan) -> None:
        """Refuse a plan that is too much beside what lives."""
        living = [child for child in self._known.values() if child.now.state != "exited"]
        if len(living) >= LIVING_MAX:
            raise Refused("supervisor.full", plan.uid, limit=LIVING_MAX)
        if sum(len(c.plan.ranks) for c in living) + len(plan.ranks) > RANKS_LIVING_MAX:
            raise Refused("supervisor.full", plan.uid, limit=RANKS_LIVING_MAX)

    def stop(self, uid: str, epoch: int, grace_s: float) -> Process | None:
        """End it and forget it once it is gone; what has replaced it is left alone."""
        self._stopped[uid] = max(epoch, self._stopped.pop(uid, epoch))
        for forgotten in list(self._stopped)[:-ENDED_MAX]:
            del self._stopped[forgotten]
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
        if child.gang and number == signal.SIGTERM:
            child.gang.ask_to_end()
        if child.exit_code is None:
            os.kill(child.target(), number)
        return child.now

    def tail(self, uid: str, lines: int, rank: int | None, first: bool) -> dict[str, Any]:
        """Return what it has printed so far, also what would be read in a moment."""
        if child := self._known.get(uid):
            for read in list(child.pipes.values()):
                read()
        return logring.told(uid, lines, rank, first)

    def progress(self, uid: str, epoch: int, rank: int, after: int) -> dict[str, Any]:
        """Return whole lines of a rank's progress file from that byte on."""
        child = self._known.get(uid)
        if child is None or child.gang is None or child.plan.epoch != epoch:
            raise Refused("supervisor.unknown-process", uid)
        lines, following = progress.lines_from(child.gang.progress_path(rank), after)
        return {"lines": lines, "next": following}

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
                    self._sweep_soon(child)

    def _sweep_soon(self, child: Child) -> None:
        """Sweep it now, or once there is memory for it: nobody tells us twice that it has ended."""
        try:
            self._sweep(child)
        except MemoryError:
            self._loop.alarm(child, BREATH_S, lambda: self._sweep(child))

    def record(self) -> None:
        """Write the journal; raises OSError."""
        running = [
            {"uid": c.plan.uid, "epoch": c.plan.epoch, "pid": pid, "start_ticks": c.start_ticks}
            | {"accelerators": c.plan.accelerators}
            for pid, c in self._alive.items()
        ]
        self._journal.write(running)

    def _run(self, child: Child) -> str:
        """Start its process; return why that failed, or nothing."""

        def enlist(pid: int) -> None:
            found = processes.entry(pid)
            child.start_ticks = found.start_ticks if found else 0
            self._alive[pid] = child
            self.record()

        try:
            logring.prune()
            pid, pipes = self._spawn(child, enlist)
        except (OSError, MemoryError) as error:
            self._alive = {pid: c for pid, c in self._alive.items() if c is not child}
            cause = getattr(error, "strerror", "") or str(error) or "out of memory"
            line = f"[cannot start {child.plan.argv[0][:PROGRAM_CHARS_MAX]}: {cause}]\n"
            child.ring.write(line.encode(errors="replace"))
            self._settle(child, 127)
            return cause
        child.exit_code, child.said, child.sessions, child.stopping = None, b"", {pid}, False
        child.steady_at = time.monotonic() + STEADY_S
        child.now = Process(
            child.plan.uid, child.plan.epoch, "running", pid, time.time(),
            restarts=child.now.restarts, accelerators=child.plan.accelerators,
        )  # fmt: skip
        for fd, take in pipes:
            self._follow(child, fd, take)
        self._look_soon(child)
        self._changed()
        return ""

    def _spawn(
        self, child: Child, enlist: Callable[[int], None]
    ) -> tuple[int, list[tuple[int, Take]]]:
        """Start its process; return its pid, and each of its pipes with what takes it."""
        outputs: list[tuple[int, Take]] = []
        if child.gang:
            pid, output, ready, outputs = child.gang.spawn(enlist)
        else:
            pid, output, ready = spawn(child.plan, enlist)
        return pid, [(output, child.ring.write), (ready, lambda c: self._hear(child, c)), *outputs]

    def _look_soon(self, child: Child) -> None:
        """Look at the progress of its ranks, again and again while it lives."""

        def look() -> None:
            if child.gang and child.gang.look(time.monotonic()):
                self._changed()
            if child.gang and child.plan.memory_bytes:
                self._weigh(child, child.gang)
            self._look_soon(child)

        if child.gang and child.now.pid:
            self._loop.alarm(child.gang, LOOK_S, look)

    def _weigh(self, child: Child, gang: Gang) -> None:
        """Kill all ranks of a member that hold more together than it may."""
        most, found = child.plan.memory_bytes, self._look().get(child.target())
        held = processes.shared_out_bytes(found.pids, most) if found else 0
        if held > most and not child.now.over_bytes:
            child.now = replace(child.now, over_bytes=held)
            self._changed()
        if child.now.over_bytes:
            gang.kill()

    def _end(self, child: Child, grace_s: float) -> None:
        """Ask it to end, and make it end after its grace."""
        if child.exit_code is None:
            child.stopping = True
            try:
                if not child.asked:  # whose sessions we must know before they lose their parent
                    child.sessions |= {e.session for e in processes.members(*child.trace())}
                    child.asked = True
                    if child.gang:
                        child.gang.ask_to_end()
                    os.killpg(child.target(), signal.SIGTERM)
                    with suppress(ProcessLookupError):
                        os.killpg(child.target(), signal.SIGCONT)  # what is stopped hears nothing
                self._loop.alarm(child, grace_s, lambda: self._sweep(child))
            except OSError:
                self._loop.alarm(child, BACKOFF_FIRST_S, lambda: self._end(child, grace_s))

    def _sweep(self, child: Child, pause_s: float = 0.01) -> None:
        """Kill what is left of it, and look again until nothing is and its leader is reaped."""
        last = child.now.pid if child.gang else 0
        if processes.kill(*child.trace(), last) or child.exit_code is None:
            again_s = min(1.0, pause_s * 2)
            self._loop.alarm(child, pause_s, lambda: self._sweep(child, again_s))
            return
        self._loop.cancel(child)
        for fd, last_read in list(child.pipes.items()):
            last_read()
            self._shut(child, fd)
        if child.gang:
            self._loop.cancel(child.gang)
            child.gang.lose(child.exit_code)
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

    def _follow(self, child: Child, fd: int, take: Callable[[bytes], object]) -> None:
        """Give what comes out of a pipe to `take`, until that says that it has enough."""

        def read() -> None:
            with suppress(BlockingIOError):
                chunk = os.read(fd, READ_BYTES)
                if take(chunk) or not chunk:
                    self._shut(child, fd)
                else:
                    hurry = 4 if len(chunk) >= HURRY_BYTES else 1
                    self._loop.rest(fd, READ_PAUSE_S / hurry)

        os.set_blocking(fd, False)
        child.pipes[fd] = read
        self._loop.watch(fd, read)

    def _shut(self, child: Child, fd: int) -> None:
        if child.pipes.pop(fd, None):
            self._loop.unwatch(fd)
            os.close(fd)

    def _hear(self, child: Child, chunk: bytes) -> bool:
        """Take the one line in which it says that it is ready; true once there is no more.

        Of what is always started again the newest line counts, for as long as it lives. Of a gang
        take what its leader reports, to its end.
        """
        if child.gang:
            if child.gang.hear(chunk):
                self._changed()
            return False
        if child.plan.restart == "always":
            *lines, child.said = (child.said + chunk).split(b"\n")
            for line in lines[-1:]:
                self._announced(child, line)
            return len(child.said) > ANNOUNCED_AGAIN_BYTES_MAX
        child.said, end, _ = (child.said + chunk).partition(b"\n")
        if end and len(child.said) <= ANNOUNCED_BYTES_MAX:
            self._announced(child, child.said)
        return bool(end) or len(child.said) > ANNOUNCED_BYTES_MAX

    def _announced(self, child: Child, line: bytes) -> None:
        """Keep what it says of itself, if that is an object, and another one than before."""
        with suppress(ValueError, RecursionError):
            said = json.loads(line)
            if isinstance(said, dict) and said != child.now.announced:
                child.now = replace(child.now, announced=said)
                self._changed()


def _alive(child: Child, vitals: processes.Vitals | None) -> Process:
    """Return what is reported of it, as the kernel has it now."""
    now = replace(child.now, ranks=child.gang.ranks()) if child.gang else child.now
    if not (now.pid and vitals):
        return now
    return replace(
        now, rss_bytes=vitals.rss_bytes, cpu_s=vitals.cpu_s, halted=vitals.halted
    )  # fmt: skip
