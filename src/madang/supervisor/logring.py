"""What a process printed: two files per uid, which keep the newest output and spare the disk."""

from __future__ import annotations

import os
from contextlib import suppress

FOLDER = "logs"
RING_BYTES = 4 << 20
"""Size of each of the two files, unless the supervisor is told another."""
RINGS_MAX = 1000
"""Rings kept, the newest ones; those of running processes come back with their next line."""
TAIL_BYTES_MAX = 128 << 10
"""No tail is longer, so that its answer fits into one line of the protocol."""


class LogRing:
    """The output of one process. A full disk loses lines, and says how many once it can."""

    def __init__(self, uid: str, limit_bytes: int = RING_BYTES) -> None:
        self._path = f"{FOLDER}/{uid}.log"
        self._limit_bytes = limit_bytes
        self.lost_lines = 0

    def write(self, chunk: bytes) -> None:
        """Keep these bytes; the older file goes when the newer one is full."""
        note = f"[{self.lost_lines} lines lost: no space]\n".encode() if self.lost_lines else b""
        written = 0
        with suppress(OSError):
            written = self._append(note + chunk)
        if written >= len(note):
            self.lost_lines = chunk[written - len(note) :].count(b"\n")
        else:
            self.lost_lines += chunk.count(b"\n")

    def _append(self, data: bytes) -> int:
        with suppress(FileNotFoundError):
            if os.stat(self._path).st_size + len(data) > self._limit_bytes:
                os.replace(self._path, self._path + ".1")
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return os.write(file, data)
        finally:
            os.close(file)


def tail(uid: str, lines: int) -> list[str]:
    """Return the last lines of that uid's ring; empty when it has none, told when unreadable."""
    text = b""
    try:
        for path in (f"{FOLDER}/{uid}.log.1", f"{FOLDER}/{uid}.log"):
            with suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES_MAX))
                text += file.read()
    except OSError as error:
        text += f"[cannot read this log now: {error.strerror}]\n".encode()
    kept = text[-TAIL_BYTES_MAX:].decode(errors="replace").splitlines()
    return kept[-lines:] if lines else []


def prune() -> None:
    """Remove the oldest rings beyond RINGS_MAX."""
    paths = [f"{FOLDER}/{name}" for name in os.listdir(FOLDER)]
    if len(paths) > 2 * RINGS_MAX:
        for path in sorted(paths, key=lambda path: os.stat(path).st_mtime)[: -2 * RINGS_MAX]:
            os.unlink(path)
