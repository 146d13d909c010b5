"""Reading a stranger's file apart: in a short-lived process that can do next to nothing.

The reader is ours and bounded, but it reads what an attacker wrote. So it runs where a mistake in
it costs a refusal: little memory, little time, no file and no socket that was not given to it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any, BinaryIO

from madang.errors import Rejected, Unavailable, refuse_lack
from madang.registry.inspect import Found, inspect

MEMORY_BYTES_MAX = 512 << 20
CPU_S_MAX = 2
WALL_S_MAX = 20.0
"""A slow disk may take longer to read a header than a processor."""
ANSWER_BYTES_MAX = 64 << 10
READER = ("-m", "madang.registry.apart")
_PDEATHSIG, _NO_NEW_PRIVILEGES = 1, 38
_CAUSES = {
    signal.SIGXCPU: f"reading it took more than {CPU_S_MAX} s of computing",
    signal.SIGKILL: f"reading it took more than {WALL_S_MAX:.0f} s, or more memory than there is",
}


def inspect_apart(file: BinaryIO, size_bytes: int) -> Found:
    """See `inspect`; raises `Rejected` too when the reader ran into a limit or died of the file.

    Blocks for at most `WALL_S_MAX`: call it in a thread.
    """
    with _started(file.fileno(), size_bytes) as child:
        try:
            said = _said(child, time.monotonic() + WALL_S_MAX)
            status = child.wait()
        finally:
            child.kill()
    return _understood(said, status)


def _said(child: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Return what the child writes until it ends; kill one that writes too much or for too long."""
    assert child.stdout
    end = child.stdout.fileno()
    ready, said = select.poll(), b""
    ready.register(end)
    while len(said) <= ANSWER_BYTES_MAX and ready.poll(max(0, deadline - time.monotonic()) * 1000):
        chunk = os.read(end, ANSWER_BYTES_MAX)
        if not chunk:
            return said
        said += chunk
    child.kill()
    return said


def _started(number: int, size_bytes: int) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", *READER, str(number), str(size_bytes)]
    try:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=(number,), env={}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        refuse_lack(error)
        raise Unavailable("model.no-reader", cause=error.strerror or str(error)) from error


def _understood(said: bytes, status: int) -> Found:
    """Turn the child's answer into ours; it is not trusted either."""
    with suppress(ValueError, TypeError, KeyError):
        answer = json.loads(said[:ANSWER_BYTES_MAX])
        if "found" in answer:
            return Found(**answer["found"])
        raise Rejected(str(answer["refused"]), **answer["values"])
    known = {-number: cause for number, cause in _CAUSES.items()}
    cause = known.get(status, f"its reader ended with status {status}")
    raise Rejected("model.unreadable", cause=cause)


def _confine() -> None:
    """Give up everything that reading an open file does not need."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (
            resource.RLIMIT_NOFILE,
            0,
        ),  # no file and no socket can be opened any more
    ):
        resource.setrlimit(what, (limit, limit + (what == resource.RLIMIT_CPU)))


def main() -> None:
    """Be the child: read the header of an open file, and say what it is as JSON."""
    number, size_bytes = map(int, sys.argv[1:])
    with os.fdopen(number, "rb") as file:
        _confine()
        try:
            answer: dict[str, Any] = {"found": asdict(inspect(file, size_bytes))}
        except Rejected as error:
            answer = {"refused": error.code, "values": error.values}
        except MemoryError:
            cause = f"reading it took more than {MEMORY_BYTES_MAX >> 20} MiB of memory"
            answer = {"refused": "model.unreadable", "values": {"cause": cause}}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
