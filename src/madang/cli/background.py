"""The supervisor as a background process: who holds it, one start, one stop.

The kernel drops a lock when its process dies, so a pid is believed only while the lock is held.
Looking takes that lock for a moment; therefore whoever looks or starts does it `alone`.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import madang
from madang.errors import Unavailable
from madang.settings import LOG_RING_BYTES, Home

PROGRAM = Path(madang.__file__).parent / "supervisor" / "__main__.py"
START_S = 20.0
STOP_S = 45.0
"""Longer than the grace of anything the supervisor stops."""
LOOK_S = 0.5
"""How often an attached command looks whether it was told to end."""
KEPT_BACK = frozenset({"MADANG_DATABASE_URL"})
"""What the supervisor is not given: it holds a password, and control reads it from a file."""
_READY_FD = 3


@contextmanager
def alone(home: Home, wait_s: float) -> Iterator[None]:
    """Wait until no other `up` or `down` works on this home."""
    lock = os.open(home.up_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while not _taken(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise Unavailable("up.busy", str(home.path), seconds=wait_s)
            time.sleep(0.02)
        yield
    finally:
        os.close(lock)


def holder(home: Home) -> int:
    """Return the pid of the living supervisor, 0 where there is none. To be called alone."""
    try:
        lock = os.open(home.supervisor_lock, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        for _ in range(100):
            if _taken(lock, fcntl.LOCK_SH):
                return 0
            if pid := os.pread(lock, 32, 0).strip():
                return int(pid)
            time.sleep(0.01)  # it has the lock and is about to write its pid
    finally:
        os.close(lock)
    raise Unavailable("up.no-pid", str(home.supervisor_lock))


def start(home: Home) -> int:
    """Start the supervisor; return its pid once it has taken its lock. To be called alone."""
    reader, writer = os.pipe()
    with closing(os.fdopen(reader, "rb", buffering=0)) as said:
        try:
            pid = _spawn(home, writer)
        finally:
            os.close(writer)
        message = _first_line(said.fileno(), START_S)
    if message is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise Unavailable("up.supervisor-silent", str(home.path), seconds=START_S)
    if "error" in message:
        os.waitpid(pid, 0)
        told = message["error"]
        values = {"home": str(home.path), **told["values"]}
        raise Unavailable(told["code"], values.pop("subject", str(home.path)), **values)
    if not message:
        _, status = os.waitpid(pid, 0)
        exit_code = os.waitstatus_to_exitcode(status)
        log = _log(home)
        raise Unavailable("up.supervisor-died", str(log), exit_code=exit_code, cause=last_line(log))
    return pid


def stop(home: Home) -> int:
    """End the supervisor, and with it all it started; return its pid, 0 where none ran.

    To be called alone. Returns when it is gone.
    """
    pid = holder(home)
    with _handle(pid) as handle, suppress(ProcessLookupError):
        if not pid or holder(home) != pid:
            return 0
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(handle, number)
            if _ends(handle, STOP_S):
                break
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)  # only where we started it ourselves
    return pid


def wait_for(pid: int, is_told: Callable[[], bool]) -> None:
    """Return when that process has ended, or when somebody has told this one to end."""
    with _handle(pid) as handle:
        while not is_told() and not _ends(handle, LOOK_S):
            pass


def has_ended(pid: int) -> bool:
    """Tell whether that process has ended."""
    with _handle(pid) as handle:
        return _ends(handle, 0)


@contextmanager
def _handle(pid: int) -> Iterator[int]:
    """Open a pidfd: unlike a pid it never means another process. -1 for one that is gone."""
    handle = -1
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid) if pid else -1
    try:
        yield handle
    finally:
        if handle >= 0:
            os.close(handle)


def _ends(handle: int, wait_s: float) -> bool:
    if handle < 0:
        return True
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(wait_s * 1000))


def last_line(log: Path) -> str:
    """Return the last line of a log, or nothing."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _log(home: Home) -> Path:
    return home.logs / "supervisor.log"


def _spawn(home: Home, writer: int) -> int:
    home.logs.mkdir(mode=0o700, exist_ok=True)
    log = _log(home)
    full = log.exists() and log.stat().st_size > LOG_RING_BYTES
    how = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if full else os.O_APPEND)
    argv = [sys.executable, "-I", "-S", str(PROGRAM), str(home.path)]
    return os.posix_spawn(
        sys.executable,
        [*argv, "--ready-fd", str(_READY_FD)],
        {name: value for name, value in os.environ.items() if name not in KEPT_BACK},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), how, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, writer, _READY_FD),
        ],
        setsid=True,
    )


def _first_line(reader: int, wait_s: float) -> dict[str, Any] | None:
    """Return the first message, an empty one when there will be none, None when time is up."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    said = b""
    deadline = time.monotonic() + wait_s
    while b"\n" not in said:
        if not poll.poll(max(0, (deadline - time.monotonic()) * 1000)):
            return None
        chunk = os.read(reader, 4096)
        if not chunk:
            return {}
        said += chunk
    message: dict[str, Any] = json.loads(said)
    return message


def _taken(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
