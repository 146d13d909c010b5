"""How a plan becomes a process: own session, no inherited descriptor, dead when we are dead."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from madang.supervisor.protocol import READY_FD, LaunchPlan

READY_NUMBER = 3
"""Every child finds READY_FD under this number."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)  # loaded here, because nothing may be loaded between fork and exec


def adopt_orphans() -> None:
    """Make this process the parent of everything below it that loses its own."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(plan: LaunchPlan, enlist: Callable[[int], None]) -> tuple[int, int, int]:
    """Start the plan's program; return its pid, its output and its ready pipe (read ends).

    `enlist(pid)` is called before the program runs its first instruction. Raises OSError, and then
    nothing runs. Call from the main thread: PDEATHSIG watches the thread that forked.
    """
    ends: list[int] = []
    kept: tuple[int, ...] = ()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        for _ in range(4):
            ends += os.pipe()
        output, child_output, ready, child_ready, child_go, go, errors, child_errors = ends
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(plan, parent, child_output, child_ready, (child_go, child_errors, go))
        enlist(pid)
        os.write(go, b"!")
        os.close(ends.pop())
        if cause := os.read(errors, 4096).decode(errors="replace"):
            raise OSError(cause)
        kept = (output, ready)
        return pid, output, ready
    finally:
        for end in ends:
            if end not in kept:
                os.close(end)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become(
    plan: LaunchPlan, parent: int, output: int, ready: int, pipes: tuple[int, int, int]
) -> NoReturn:
    """Run the plan's program in this freshly forked process."""
    go, errors, parents_go = pipes
    try:
        os.setsid()
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.close(parents_go)
        if os.getppid() != parent or not os.read(go, 1):
            raise ProcessLookupError  # the supervisor died meanwhile, or could not enlist us
        null = os.open(os.devnull, os.O_RDWR)
        sources = [null, output, output, ready, errors]
        *high, errors = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in sources]
        for number, fd in enumerate(high):
            os.dup2(fd, number)
        if plan.cwd:
            os.chdir(plan.cwd)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(plan.argv[0], plan.argv, {**plan.env, READY_FD: str(READY_NUMBER)})  # noqa: S606
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        os.write(errors, cause.encode(errors="replace")[:4096])
    finally:
        os._exit(127)
