"""A machine under a supervisor: its clock, processes, pipes and files, none of them real.

The supervisor's code is the product's. While it works, the names of its modules by which it reaches
the operating system mean the machine that it stands on; `installed` sees to that.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from madang.supervisor import children, journal, logring, orders
from madang.supervisor.processes import Entry, Vitals
from madang.supervisor.protocol import LaunchPlan

SIGNALED = int(signal.SIGKILL)
SUPERVISOR = 1
"""Its number on each machine."""


class Crash(BaseException):
    """The supervisor dies at this very point; nothing of its code may go on."""


@dataclass(slots=True, eq=False)
class Pipe:
    """What a process has written and nobody has read yet."""

    data: bytes = b""
    ended: bool = False

    def read(self) -> bytes:
        """Return what is there; raises BlockingIOError where nothing is, but may come."""
        if not self.data and not self.ended:
            raise BlockingIOError
        data, self.data = self.data, b""
        return data


@dataclass(slots=True, eq=False)
class Living:
    """One process of the machine."""

    pid: int
    session: int
    parent: int
    plan: LaunchPlan
    ready: int = -1
    is_child: bool = True
    """Of the supervisor itself, with which it dies."""
    is_dying: bool = False
    has_begun: bool = False
    """False between its fork and its first instruction."""
    behaviour: Any = None


@dataclass
class Edges:
    """What a machine tells of, and asks for."""

    now: Callable[[], float]
    monotonic: Callable[[], float]
    after: Callable[[float, Callable[[], None]], object]
    """Call later, on the simulated clock."""
    die_s: Callable[[], float]
    """How long a killed process takes to vanish."""
    fails: Callable[[str], bool]
    """Whether `fork` or `exec` fails now, or the supervisor dies at `crash`."""
    begun: Callable[[Living], None]
    terminated: Callable[[Living], None]
    ended: Callable[[Living, int], None]
    poke: Callable[[int], None]
    """A descriptor has something to read."""
    child_ended: Callable[[], None]
    """SIGCHLD."""


@dataclass
class Machine:
    """Processes by number, and files by name. Starts of it are told apart by `boot`."""

    name: str
    edges: Edges
    boot: int = 0
    processes: dict[int, Living] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    pipes: dict[int, Pipe] = field(default_factory=dict)
    zombies: list[tuple[int, int]] = field(default_factory=list)
    number: int = 100

    def next_number(self) -> int:
        """Return a number that no process and no descriptor has had."""
        self.number += 1
        return self.number

    def end(self, living: Living, status: int) -> None:
        """Let a process end; its parent is told."""
        if self.processes.pop(living.pid, None) is None:
            return
        for descriptor in (living.ready, living.ready - 1) if living.ready > 0 else ():
            if pipe := self.pipes.get(descriptor):
                pipe.ended = True
                self.edges.poke(descriptor)
        for orphan in self.processes.values():
            if orphan.parent == living.pid:
                orphan.parent = SUPERVISOR
        self.edges.ended(living, status)
        if living.parent == SUPERVISOR:
            self.zombies.append((living.pid, status))
            self.edges.child_ended()

    def lose_supervisor(self) -> None:
        """End the supervisor: its own children die with it, those below them live on."""
        self.pipes.clear()
        self.zombies.clear()
        for living in list(self.processes.values()):
            if living.is_child:
                self.end(living, SIGNALED)
        for living in self.processes.values():
            living.parent = 0
        self.zombies.clear()

    def restart(self) -> None:
        """Start the machine anew: nothing lives, files stay."""
        self.boot += 1
        self.lose_supervisor()
        for living in list(self.processes.values()):
            self.end(living, SIGNALED)

    def step(self) -> None:
        """Pass a point at which the supervisor may die."""
        if self.edges.fails("crash"):
            raise Crash

    # What `madang.supervisor.processes` offers.

    def entry(self, pid: int) -> Entry | None:
        """See `processes.entry`."""
        living = self.processes.get(pid)
        return Entry(pid, living.parent, living.session, pid) if living else None

    def mark(self, uid: str = "", epoch: int = 0) -> str:
        """See `processes.mark`."""
        return f"{self.name}/" + (f"{uid}/{epoch}/" if uid else "")

    def members(self, sessions: Set[int], mark: str, reaper: int | None) -> list[Entry]:
        """See `processes.members`."""
        found = {
            p.pid
            for p in self.processes.values()
            if reaper in (None, p.parent) and self._marked(p).startswith(mark)
        }
        while True:
            more = {
                p.pid
                for p in self.processes.values()
                if p.session in sessions or p.parent in found or p.pid in found
            }
            if more == found:
                return [
                    Entry(p, self.processes[p].parent, self.processes[p].session, p)
                    for p in sorted(found)
                ]
            found = more

    def _marked(self, living: Living) -> str:
        return self.mark(living.plan.uid, living.plan.epoch) if living.has_begun else ""

    def kill(self, sessions: Set[int], mark: str, reaper: int | None, last: int = 0) -> list[int]:
        """See `processes.kill`."""
        del last  # no gang runs here
        self.step()
        pids = [member.pid for member in self.members(sessions, mark, reaper)]
        for pid in pids:
            self._kill(self.processes[pid])
        return pids

    def _kill(self, living: Living) -> None:
        if not living.is_dying:
            living.is_dying = True
            self.edges.after(self.edges.die_s(), lambda: self.end(living, SIGNALED))

    def vitals(self) -> dict[int, Vitals]:
        """See `processes.vitals`."""
        return {
            p.pid: Vitals(1 << 20, p.behaviour.cpu_s(self.edges.monotonic()), halted=False)
            for p in self.processes.values()
            if p.pid == p.session and p.has_begun
        }

    def boot_id(self) -> str:
        """See `processes.boot_id`."""
        return f"{self.name}-{self.boot}"

    def spawn(self, plan: LaunchPlan, enlist: Callable[[int], None]) -> tuple[int, int, int]:
        """See `processes.spawn`."""
        self.step()
        if self.edges.fails("fork"):
            raise OSError(12, "no memory to fork")
        pid, output, ready = (self.next_number() for _ in range(3))
        living = self.processes[pid] = Living(pid, pid, SUPERVISOR, plan, ready)
        try:
            enlist(pid)
            self.step()
            if self.edges.fails("exec"):
                raise OSError(8, "no such program")
        except (OSError, Crash):
            del self.processes[pid]
            raise
        self.pipes |= {output: Pipe(), ready: Pipe()}
        living.has_begun = True
        self.edges.begun(living)
        return pid, output, ready

    def say(self, living: Living, line: bytes) -> None:
        """Let a process announce itself."""
        if living.pid in self.processes and living.ready in self.pipes:
            self.pipes[living.ready].data += line
            self.edges.poke(living.ready)

    # What the modules `os` and `time` offer.

    def signal(self, pid: int, number: int) -> None:
        """See `os.kill` and `os.killpg`."""
        living = self.processes.get(pid)
        if living is None:
            raise ProcessLookupError(3, "no such process")
        if number == signal.SIGKILL:
            self._kill(living)
        elif number == signal.SIGTERM:
            self.edges.terminated(living)

    def wait(self) -> tuple[int, int]:
        """See `os.waitpid(-1, WNOHANG)`."""
        if not self.zombies:
            return 0, 0
        return self.zombies.pop(0)

    def pause(self, seconds: float) -> None:
        """See `time.sleep`: whoever is dying has died by then."""
        del seconds
        for living in [p for p in self.processes.values() if p.is_dying]:
            self.end(living, SIGNALED)

    def open(self, path: str, mode: str = "r") -> Any:
        """See `open`."""
        self.step()
        if "w" in mode:
            return _Written(self, path)
        if path not in self.files:
            raise FileNotFoundError(2, "no such file", path)
        data = self.files[path]
        return io.BytesIO(data) if "b" in mode else io.StringIO(data.decode())

    def replace(self, old: str, new: str) -> None:
        """See `os.replace`."""
        self.step()
        self.files[new] = self.files.pop(old)


class _Written(io.StringIO):
    def __init__(self, machine: Machine, path: str) -> None:
        super().__init__()
        self._machine, self._path = machine, path

    def close(self) -> None:
        if not self.closed:
            self._machine.files[self._path] = self.getvalue().encode()
        super().close()


class Rings:
    """What processes print is not simulated; their logs stay empty."""

    RING_BYTES = logring.RING_BYTES

    class LogRing:
        """See `logring.LogRing`."""

        def __init__(self, uid: str, limit_bytes: int) -> None:
            self.uid, self.limit_bytes = uid, limit_bytes

        def write(self, chunk: bytes) -> None:
            """Keep nothing."""

    @staticmethod
    def prune() -> None:
        """See `logring.prune`."""

    @staticmethod
    def told(uid: str, lines: int, rank: int | None, first: bool) -> dict[str, Any]:
        """See `logring.told`."""
        del rank, first
        return {"lines": [f"last of {lines} lines of {uid}"]}


class _Standing:
    """Whichever machine the running code stands on."""

    machine: Machine


class _Os:
    """The module `os`, as far as a supervisor uses it on processes, pipes and its journal."""

    WNOHANG = os.WNOHANG
    waitstatus_to_exitcode = staticmethod(os.waitstatus_to_exitcode)
    path = os.path

    def kill(self, pid: int, number: int) -> None:
        _Standing.machine.signal(pid, number)

    killpg = kill

    def waitpid(self, _pid: int, _options: int) -> tuple[int, int]:
        return _Standing.machine.wait()

    def read(self, descriptor: int, _count: int) -> bytes:
        return _Standing.machine.pipes[descriptor].read()

    def close(self, descriptor: int) -> None:
        _Standing.machine.pipes.pop(descriptor, None)

    def set_blocking(self, _descriptor: int, _blocking: bool) -> None:
        pass

    def replace(self, old: str, new: str) -> None:
        _Standing.machine.replace(old, new)

    def getpid(self) -> int:
        return SUPERVISOR

    def urandom(self, count: int) -> bytes:
        machine = _Standing.machine
        return f"{machine.boot_id()}-{machine.next_number()}".encode().ljust(count)


class _Time:
    def time(self) -> float:
        return _Standing.machine.edges.now()

    def monotonic(self) -> float:
        return _Standing.machine.edges.monotonic()

    def sleep(self, seconds: float) -> None:
        _Standing.machine.pause(seconds)


class _Processes:
    """The module `processes`, on whichever machine the running code stands."""

    Vitals = Vitals

    def __getattr__(self, name: str) -> Any:
        return getattr(_Standing.machine, name)


@contextmanager
def installed() -> Iterator[None]:
    """Let the supervisor's modules reach machines instead of the operating system."""
    system, clock, processes = _Os(), _Time(), _Processes()

    def spawn(plan: LaunchPlan, enlist: Callable[[int], None]) -> tuple[int, int, int]:
        return _Standing.machine.spawn(plan, enlist)

    def opened(path: str, mode: str = "r") -> Any:
        return _Standing.machine.open(path, mode)

    known: dict[Any, dict[str, Any]] = {
        children: {"os": system, "time": clock, "processes": processes, "spawn": spawn,
                   "logring": Rings},
        journal: {"os": system, "time": clock, "processes": processes, "open": opened},
        orders: {"os": system},
    }  # fmt: skip
    with ExitStack() as stack:
        for module, names in known.items():
            for name, stand_in in names.items():
                stack.enter_context(mock.patch.object(module, name, stand_in, create=True))
        yield


@contextmanager
def standing_on(machine: Machine) -> Iterator[None]:
    """Run supervisor's code on this machine."""
    before = getattr(_Standing, "machine", machine)
    _Standing.machine = machine
    try:
        yield
    finally:
        _Standing.machine = before
