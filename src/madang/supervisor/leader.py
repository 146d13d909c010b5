"""The first process of a member of a gang: starts its ranks, passes signals on, tells of ends.

Run as `python -I -S leader.py` with descriptors from its supervisor: its orders, the way to report,
and one pipe per rank, which is that rank's output. It decides nothing: a rank that ends badly is
reported, and whoever sees the whole gang stops it. All that the ranks leave behind, however they
hide it, becomes the leader's in the end, and ends before it does. Needs the standard library only,
and nothing of Madang: in a sandbox this file is all there is.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from contextlib import suppress
from typing import Any, NoReturn

REPORT_FD, ORDERS_FD, FIRST_OUTPUT_FD = 3, 4, 5
CANNOT_START = 127
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOST = signal.SIGRTMIN
"""Sent by the kernel when the supervisor has died."""
PASSED_ON = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
)
HEARD = PASSED_ON | {signal.SIGCHLD, LOST}
_libc = ctypes.CDLL(None)


class Leader:
    """Its ranks, by process number while they live."""

    def __init__(self) -> None:
        self.exit_code = 0
        self._alive: dict[int, int] = {}

    def start(self, argv: list[str], ranks: list[dict[str, Any]]) -> None:
        """Start every rank, in order; one that can't be started has ended with `CANNOT_START`."""
        for output, each in enumerate(ranks, FIRST_OUTPUT_FD):
            try:
                pid = start(argv, each["env"], output)
            except OSError as error:
                self._end(each["rank"], CANNOT_START, errno=error.errno, error=str(error.strerror))
            else:
                self._alive[pid] = each["rank"]
                report(rank=each["rank"], pid=pid)
            os.close(output)

    def follow(self) -> None:
        """Pass signals on until no rank lives, or nobody wants to know any more."""
        while self._alive:
            number = signal.sigwaitinfo(HEARD).si_signo
            if number == signal.SIGCHLD:
                self._reap()
            elif number == LOST:
                return
            else:
                self._pass_on(number)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if (rank := self._alive.pop(ended[0], None)) is not None:
                    self._end(rank, os.waitstatus_to_exitcode(ended[1]))

    def _end(self, rank: int, exit_code: int, **why: object) -> None:
        self.exit_code = self.exit_code or (exit_code if exit_code >= 0 else 128 - exit_code)
        report(rank=rank, exit_code=exit_code, ended_at=time.time(), **why)

    def _pass_on(self, number: int) -> None:
        """Tell every rank. What is stopped hears nothing until it goes on.

        Only the rank itself is asked to end: it needs what it has started (loaders of data, say)
        for its last checkpoint. All that is left of it is killed later.
        """
        for pid in self._alive:
            with suppress(OSError):
                os.kill(pid, number)
            if number in (signal.SIGTERM, signal.SIGCONT):
                with suppress(OSError):
                    os.killpg(pid, signal.SIGCONT)


def report(**told: object) -> None:
    """Tell the supervisor; where there is none any more, nobody."""
    with suppress(OSError):
        os.write(REPORT_FD, json.dumps(told).encode() + b"\n")


def start(argv: list[str], env: dict[str, str], output: int) -> int:
    """Start one rank in a process group of its own; return its pid. Raises OSError."""
    said, say = os.pipe()
    leader, pid = os.getpid(), os.fork()
    if pid == 0:
        become(argv, env, leader, (output, say))
    os.close(say)
    with suppress(OSError):
        os.setpgid(pid, pid)  # whoever of the two comes first
    with open(said, "rb") as file:
        cause = file.read()  # ends with the exec
    if cause:
        os.waitpid(pid, 0)
        errno, _, text = cause.decode(errors="replace").partition(" ")
        raise OSError(int(errno), text)
    return pid


def become(argv: list[str], env: dict[str, str], leader: int, ends: tuple[int, int]) -> NoReturn:
    """Run a rank's program in this freshly forked process."""
    output, say = ends
    try:
        os.setpgid(0, 0)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == leader:
            os.dup2(output, 1)
            os.dup2(output, 2)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execvpe(argv[0], argv, env)  # noqa: S606
    except (OSError, ValueError, TypeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        told = f"{getattr(error, 'errno', 0)} {argv[0][:100]}: {cause}"
        os.write(say, told[:500].encode(errors="replace"))
    finally:
        os._exit(CANNOT_START)


def end_all() -> None:
    """Kill whatever lives below us: who loses its parent becomes our child, again and again."""
    with suppress(ChildProcessError):
        while True:
            for pid in children():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def children() -> list[int]:
    """Return the processes that have us as their parent."""
    found, own = [], str(os.getpid()).encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            stat = file.read()
            if stat[stat.rfind(b")") + 2 :].split()[1] == own:
                found.append(int(name))
    return found


def main() -> int:
    """Carry out the orders; return 0, or what the first rank that ended badly returned."""
    with open(ORDERS_FD, "rb") as file:
        orders = json.load(file)
    for fd in range(REPORT_FD, FIRST_OUTPUT_FD + len(orders["ranks"])):
        with suppress(OSError):
            os.set_inheritable(fd, False)  # each rank gets one of them, and none of the others
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    if os.getpid() != 1:  # in a sandbox the kernel does both for us
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _libc.prctl(PR_SET_PDEATHSIG, int(LOST), 0, 0, 0)
    leader = Leader()
    if os.getppid() == orders["parent"] or os.getpid() == 1:
        leader.start(orders["argv"], orders["ranks"])
        leader.follow()
    end_all()
    return leader.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
