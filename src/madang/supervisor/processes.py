"""Processes as the kernel has them: which live, in which session; how one starts and all end."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import stat
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from madang.supervisor import sandbox
from madang.supervisor.protocol import READY_FD, LaunchPlan, Sandbox

READY_NUMBER = 3
"""Every child finds READY_FD under this number."""
MARK = "MADANG_PROCESS"
"""Environment variable of every child: its home and which process it belongs to."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_FILES_BEFORE = resource.getrlimit(resource.RLIMIT_NOFILE)
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 1 << 18
STAGE_BYTES = 1 << 20
"""Of names alone: what is mounted there lies elsewhere."""
_libc = ctypes.CDLL(None, use_errno=True)  # here: nothing may be loaded between fork and exec


class Entry(NamedTuple):
    """One living process."""

    pid: int
    parent: int
    session: int
    start_ticks: int
    """Since the machine started: tells a process from a later one with the same number."""


def entry(pid: int) -> Entry | None:
    """Read one process; None when it is gone or only waits to be reaped.

    Raises OSError when it can't be seen, for want of descriptors or memory: that is not "gone".
    """
    fields = _stat(pid)
    return Entry(pid, int(fields[1]), int(fields[3]), int(fields[19])) if fields else None


def mark(uid: str = "", epoch: int = 0) -> str:
    """Return what the environment of a child says, and of all below it; without uid: of any child.

    Sessions are known to us only while their parents live; this stays with whoever leaves them.
    """
    home = os.stat(".")
    return f"{home.st_dev}-{home.st_ino}/" + (f"{uid}/{epoch}/" if uid else "")


def members(sessions: Set[int], mark: str, reaper: int | None) -> list[Entry]:
    """Return the living processes of these sessions and all descended from them; raises OSError.

    And whoever has left them, is a child of `reaper` by now (None: of anybody) and bears the mark.
    One of `reaper` that becomes another program just now can't be seen: it has no mark to read.
    """
    said, own = f"\0{MARK}={mark}".encode(), os.getpid()
    rest = [e for name in os.listdir("/proc") if name.isdigit() and (e := entry(int(name)))]
    near = [e for e in rest if reaper in (None, e.parent)]
    found = {e.pid: e for e in near if _says(e.pid, said, bool(reaper))}
    while True:
        rest = [e for e in rest if e.pid not in found and e.pid != own]
        joined = {e.pid: e for e in rest if e.session in sessions or e.parent in found}
        if not joined:
            found.pop(own, None)
            return list(found.values())
        found |= joined


def _says(pid: int, said: bytes, surely: bool) -> bool:
    """Tell whether its environment says so; `surely`: raises OSError while there is none to read.

    What becomes another program has neither environment nor arguments for a moment.
    """
    environ = _read(f"/proc/{pid}/environ")
    if surely and not environ:
        if not _read(f"/proc/{pid}/cmdline") and entry(pid):
            raise BlockingIOError(errno.EAGAIN, "it becomes another program", str(pid))
        environ = _read(f"/proc/{pid}/environ")
    return said in b"\0" + environ


def kill(sessions: Set[int], mark: str, reaper: int | None, last: int = 0) -> list[int]:
    """Kill all that `members` finds; return who may still live: ask again until nobody does.

    `last` is spared until it is alone: to it falls what has lost its parent, and hides from us.
    """
    try:
        pids = [member.pid for member in members(sessions, mark, reaper)]
    except OSError:
        return [*sessions, 0]  # who can't be seen now is not gone
    pids = [pid for pid in pids if pid != last] or pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


class Vitals(NamedTuple):
    """How one session of processes is, with all descended from its leader."""

    rss_bytes: int
    """What they hold together: each its own, and once the most that one of them shares."""
    cpu_s: float
    """Processor time of all of them that live."""
    halted: bool
    """Whether the leader is stopped by a signal."""
    pids: tuple[int, ...] = ()


def vitals() -> dict[int, Vitals]:
    """Look at every living session, by its leader; what can't be read now is left out."""
    stats: dict[int, list[bytes]] = {}
    with suppress(OSError):
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if fields := _stat(pid):
                stats[pid] = fields
    own: dict[int, list[int]] = {}
    for pid in stats:
        for leader in _leaders(pid, stats):
            own.setdefault(leader, []).append(pid)
    tick = os.sysconf("SC_CLK_TCK")
    return {
        leader: Vitals(
            _held_bytes(pids, stats),
            sum(int(stats[pid][11]) + int(stats[pid][12]) for pid in pids) / tick,
            stats[leader][0] in b"Tt",
            tuple(pids),
        )
        for leader, pids in own.items()
    }


def _leaders(pid: int, stats: dict[int, list[bytes]]) -> set[int]:
    """Return the leader of its session, and whichever of its ancestors lead one, below us."""
    session, us = int(stats[pid][3]), os.getpid()
    found = {session} & stats.keys()
    while pid in stats and pid != us:
        if int(stats[pid][3]) == pid:
            found.add(pid)
        pid = int(stats[pid][1])
    return found


def _held_bytes(pids: list[int], stats: dict[int, list[bytes]]) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    if len(pids) == 1:
        return int(stats[pids[0]][21]) * page
    own = most = 0
    for pid in pids:
        with suppress(OSError, ValueError), open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
            own, most = own + resident - shared, max(most, shared)
    return (own + most) * page


def shared_out_bytes(pids: tuple[int, ...], enough: int) -> int:
    """Return what processes hold together, what they share shared out among all that have it.

    Up to `enough` it may be less than said: each page is looked at only where that matters.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    sizes = {pid: _read(f"/proc/{pid}/statm").split() for pid in pids}
    most = sum(int(fields[1]) for fields in sizes.values() if fields) * page
    if most <= enough:
        return most
    return sum(_pss_bytes(pid, sizes[pid], page) for pid in pids)


def _pss_bytes(pid: int, fields: list[bytes], page: int) -> int:
    """Return a process's part; of one that lets nobody look into it, what it shares with none."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return (int(fields[1]) - int(fields[2])) * page if fields else 0


def is_halted(pid: int) -> bool:
    """Tell whether it is stopped by a signal, or waits for a disk as nothing else can interrupt."""
    fields: list[bytes] = []
    with suppress(OSError):
        fields = _stat(pid)
    return bool(fields) and fields[0] in b"TtD"


def boot_id() -> str:
    """Name this start of the machine: process numbers and ticks mean nothing in another."""
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def become_root() -> None:
    """Adopt all below us that loses its parent, make files for us alone, open all that we may.

    Children get the limit of open files that was there before.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES_BEFORE[1],) * 2)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(
    plan: LaunchPlan, enlist: Callable[[int], None], given: tuple[int, ...] = ()
) -> tuple[int, int, int]:
    """Start the plan's program; return its pid, its output and its ready pipe (read ends).

    `enlist(pid)` is called before the program runs its first instruction; it finds the descriptors
    `given` from READY_NUMBER + 1 on. Raises OSError, and then nothing runs. Call from the main
    thread: PDEATHSIG watches the thread that forked.
    """
    ends: list[int] = []
    kept: tuple[int, ...] = ()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        for _ in range(4):
            ends += os.pipe()
        output, child_output, ready, child_ready, child_go, go, errors, child_errors = ends
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            os.close(go)
            _become(plan, parent, (child_output, child_ready, *given, child_errors), child_go)
        enlist(pid)
        os.write(go, b"!")
        os.close(ends.pop())
        if cause := os.read(errors, 4096):
            raise OSError(cause.decode(errors="replace"))
        kept = (output, ready)
        return pid, output, ready
    finally:
        for end in ends:
            if end not in kept:
                os.close(end)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become(plan: LaunchPlan, parent: int, ends: tuple[int, ...], go: int) -> NoReturn:
    """Run the plan's program in this freshly forked process."""
    output, *more, errors = ends
    try:
        os.setsid()
        said = {READY_FD: str(READY_NUMBER), MARK: mark(plan.uid, plan.epoch)}
        if plan.sandbox:
            confine(plan.sandbox)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent or not os.read(go, 1):
            raise ProcessLookupError  # the supervisor died meanwhile, or could not enlist us
        sources = [os.open(os.devnull, os.O_RDWR), output, output, *more, errors]
        above = 10 + len(sources)
        *high, errors = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in sources]
        for number, fd in enumerate(high):
            os.dup2(fd, number)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        resource.setrlimit(resource.RLIMIT_NOFILE, _FILES_BEFORE)
        os.chdir(plan.cwd or ".")
        os.execvpe(plan.argv[0], plan.argv, {**plan.env, **said})  # noqa: S606
    except (OSError, ValueError, TypeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        os.write(errors, cause.encode(errors="replace"))
    finally:
        os._exit(127)


def confine(box: Sandbox) -> None:
    """Give up what a member may not have; before PDEATHSIG is set, which a new uid takes away.

    For a process of its own, that will be its sandbox's builder. Raises OSError.
    """
    limits = {
        resource.RLIMIT_FSIZE: box.file_bytes,
        resource.RLIMIT_DATA: box.data_bytes,
        resource.RLIMIT_NPROC: box.processes,
    }
    for kind, most in limits.items():
        if most:
            resource.setrlimit(kind, (most, most))
    if box.uid:
        _put_on_stage(sandbox.stage(box))
        os.setgroups([])
        os.setresgid(*(box.uid,) * 3)
        os.setresuid(*(box.uid,) * 3)


def _put_on_stage(places: Mapping[str, str]) -> None:
    """Mount each source at its place, where this process alone and what it starts can see it.

    They are opened before the stage hides what lies below it.
    """
    _call(_libc.unshare, CLONE_NEWNS)
    _call(_libc.mount, None, b"/", None, MS_REC | MS_PRIVATE, None)
    opened = {place: os.open(source, os.O_PATH) for source, place in places.items()}
    options = f"size={STAGE_BYTES},mode=755".encode()
    _call(_libc.mount, b"stage", sandbox.STAGE.encode(), b"tmpfs", 0, options)
    for place, fd in opened.items():
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o600))
        flags = MS_BIND | MS_REC
        _call(_libc.mount, b"/proc/self/fd/%d" % fd, place.encode(), None, flags, None)
        os.close(fd)


def _call(function: Any, *words: object) -> None:
    if function(*words) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def children(parent: int) -> list[int]:
    """Return the living processes that have this one as their parent; raises OSError."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if (found := entry(pid)) and found.parent == parent]


def child_known_as(parent: int, inner: int) -> int:
    """Return the child of `parent` that has this number in its own namespace; 0: none."""
    with suppress(OSError):
        for pid in children(parent):
            for line in _read(f"/proc/{pid}/status").splitlines():
                if line.startswith(b"NSpid:") and line.split()[-1] == b"%d" % inner:
                    return pid
    return 0


def _stat(pid: int) -> list[bytes]:
    """Read the fields behind a process's name; none when it is gone or only waits to be reaped."""
    stat = _read(f"/proc/{pid}/stat")
    fields = stat[stat.rfind(b")") + 2 :].split()
    return [] if fields and fields[0] in b"ZX" else fields


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or never ours
        return b""
