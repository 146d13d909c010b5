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
        try:
            if _size(self._path) + len(chunk) > self._limit_bytes:
                os.replace(self._path, self._path + ".1")
            written = _append(self._path, note + chunk)
        except OSError:
            written = 0
        if note and written >= len(note):
            self.lost_lines = 0
        self.lost_lines += chunk[max(0, written - len(note)) :].count(b"\n")


def tail(uid: str, lines: int) -> list[str]:
    """Return the last lines of that uid's ring; empty when it has none."""
    path = f"{FOLDER}/{uid}.log"
    text = b""
    for name in (path + ".1", path):
        try:
            with open(name, "rb") as file:
                file.seek(-min(TAIL_BYTES_MAX, os.fstat(file.fileno()).st_size), os.SEEK_END)
                text += file.read()
        except OSError:
            continue
    kept = text[-TAIL_BYTES_MAX:].decode(errors="replace").splitlines()
    return kept[-lines:] if lines > 0 else []


def prune() -> None:
    """Remove the oldest rings beyond RINGS_MAX."""
    with suppress(OSError):
        paths = [f"{FOLDER}/{name}" for name in os.listdir(FOLDER)]
        if len(paths) > 2 * RINGS_MAX:
            oldest_first = sorted(paths, key=lambda path: os.stat(path).st_mtime)
            for path in oldest_first[: -2 * RINGS_MAX]:
                os.unlink(path)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _append(path: str, data: bytes) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)
