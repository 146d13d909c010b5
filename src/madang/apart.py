"""Work apart: in a short-lived process of its own, with little memory and time, that ends with us.

What it says is not trusted: it is bytes, bounded, and the end of the process is told beside them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from madang.errors import Unavailable, refuse_lack

_PDEATHSIG, _NO_NEW_PRIVILEGES = 1, 38


@dataclass(frozen=True, slots=True)
class Limits:
    """What it may use."""

    memory_bytes: int
    cpu_s: int
    wall_s: float
    answer_bytes: int


def asked(
    program: Sequence[str], limits: Limits, *,
    stdin: int = subprocess.DEVNULL, hand: Sequence[int] = (),
) -> tuple[bytes, int]:  # fmt: skip
    """Run a program of ours (Python's arguments) apart; return what it printed, and its status.

    `stdin` and `hand` are open files that it is given. A negative status is the signal that ended
    it: SIGKILL where it took or said too much. Blocks for at most `wall_s`: call it in a thread.
    Raises `Unavailable` where no process can be started.
    """
    argv = [sys.executable, "-I", *program]
    try:
        started = subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=tuple(hand), env={}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        refuse_lack(error)
        raise Unavailable("apart.no-process", cause=error.strerror or str(error)) from error
    with started as child:
        try:
            said = _said(child, time.monotonic() + limits.wall_s, limits.answer_bytes)
            return said, child.wait()
        finally:
            child.kill()


def _said(child: subprocess.Popen[bytes], deadline: float, bytes_max: int) -> bytes:
    """Return what the child writes until it ends; kill one that writes too much or for too long."""
    assert child.stdout
    end = child.stdout.fileno()
    ready, said = select.poll(), list[bytes]()
    ready.register(end)
    left = bytes_max
    while left >= 0 and ready.poll(max(0, deadline - time.monotonic()) * 1000):
        chunk = os.read(end, 64 << 10)
        if not chunk:
            return b"".join(said)
        said.append(chunk)
        left -= len(chunk)
    child.kill()
    return b"".join(said)[:bytes_max]


def confine(limits: Limits) -> None:
    """In the child: give up everything that work on open files does not need."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for what, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),  # no file and no socket can be opened any more
    ):
        resource.setrlimit(what, (limit, limit + (what == resource.RLIMIT_CPU)))
