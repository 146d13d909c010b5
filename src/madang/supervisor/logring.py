"""What a process printed: two files per uid, which keep the newest output and spare the disk.

Each rank of a gang has two of its own and one for its first lines, and shares the disk with those
beside it.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any

FOLDER = "logs"
RING_BYTES = 4 << 20
"""Size of each of the two files, unless the supervisor is told another."""
RINGS_MAX = 1000
"""Rings kept, the newest ones; those of running processes come back with their next line."""
LOGS_BYTES_MAX = 2 << 30
"""All of them together, the newest; the ring of a service is small beside it, and a gang's too."""
TAIL_BYTES_MAX = 128 << 10
"""No tail is longer, so that its answer fits into one line of the protocol."""


HEAD_BYTES = 64 << 10
"""The first output of a rank is kept as well: what went wrong later often began there."""
RANK_RING_BYTES_MIN = 64 << 10
LINE_CHARS_MAX = 16 << 10
"""Longer lines of a rank are cut in two."""
STAMP_CHARS = 14
"""Before each line of a rank: when it came, in microseconds, 13 hexadecimal digits and a space."""


class LogRing:
    """The output of one process. A full disk loses lines, and says how many once it can."""

    def __init__(self, uid: str, limit_bytes: int = RING_BYTES) -> None:
        self._path = f"{FOLDER}/{uid}.log"
        self._limit_bytes = limit_bytes
        self.lost_lines = 0

    def write(self, chunk: bytes) -> None:
        """Keep these bytes; the older file goes when the newer one is full."""
        self._keep(chunk)

    def _keep(self, chunk: bytes, stamp: bytes = b"") -> None:
        note = b"%b[%d lines lost: no space]\n" % (stamp, self.lost_lines)
        note = note if self.lost_lines else b""
        written = 0
        if not note + chunk:
            return
        with suppress(OSError):
            written = self._append(note + chunk)
        if written >= len(note):
            self.lost_lines = chunk[written - len(note) :].count(b"\n")
        else:
            self.lost_lines += chunk.count(b"\n")

    def _append(self, data: bytes) -> int:
        """Write it; return how much of it is there. Where space ends, the last line is whole."""
        with suppress(FileNotFoundError):
            if os.stat(self._path).st_size + len(data) > self._limit_bytes:
                os.replace(self._path, self._path + ".1")
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            written = os.write(file, data)
            if written < len(data):
                whole = data.rfind(b"\n", 0, written) + 1
                os.ftruncate(file, os.fstat(file).st_size - written + whole)
                written = whole
            return written
        finally:
            os.close(file)


class RankLog(LogRing):
    """The output of one rank: whole lines only, each with the time at which it came."""

    _newest_us = 0  # of all ranks here: no two chunks came at once

    def __init__(self, uid: str, rank: int, limit_bytes: int) -> None:
        super().__init__(f"{uid}.{rank}", max(limit_bytes, RANK_RING_BYTES_MIN))
        self._head = f"{FOLDER}/{uid}.{rank}.head"
        self._head_left = HEAD_BYTES
        self._begun = b""
        with suppress(FileNotFoundError):
            os.unlink(self._head)  # of an earlier attempt

    def write(self, chunk: bytes) -> None:
        """Keep the lines that are whole by now; an empty chunk says that nothing more will come."""
        text = self._begun + chunk
        end = text.rfind(b"\n") + 1 or text.rfind(b"\r") + 1  # a bar that is drawn again and again
        end = len(text) - (len(text) - end) % LINE_CHARS_MAX if chunk else len(text)
        whole, self._begun = text[:end], text[end:]
        if whole:
            self._keep_lines(whole.removesuffix(b"\n").split(b"\n"))

    def _keep_lines(self, lines: list[bytes]) -> None:
        RankLog._newest_us = max(RankLog._newest_us + 1, time.time_ns() // 1000)
        stamp = b"%013x " % RankLog._newest_us
        data = stamp + (b"\n" + stamp).join(_cut(lines)) + b"\n"
        if self._head_left:
            end = data.rfind(b"\n", 0, self._head_left) + 1
            with suppress(OSError), open(self._head, "ab") as file:
                file.write(data[:end])
            self._head_left = self._head_left - end if end == len(data) else 0
        start, most = 0, self._limit_bytes // 2
        while start < len(data):
            end = data.rfind(b"\n", start, start + most) + 1
            self._keep(data[start:end], stamp)
            start = end


def _cut(lines: list[bytes]) -> list[bytes]:
    """Cut what is too long."""
    if max(map(len, lines)) <= LINE_CHARS_MAX:
        return lines
    starts = ((line, range(0, len(line) or 1, LINE_CHARS_MAX)) for line in lines)
    return [line[at : at + LINE_CHARS_MAX] for line, each in starts for at in each]


def tail(uid: str, lines: int) -> list[str]:
    """Return the last lines of that uid's ring; empty when it has none, told when unreadable."""
    try:
        text = _last_bytes(uid)
    except OSError as error:
        text = f"[cannot read this log now: {error.strerror}]\n".encode()
    kept = text.decode(errors="replace").splitlines()
    return kept[-lines:] if lines > 0 else []


Line = tuple[int, int, str]
"""When it came, in microseconds; which rank's; what it says."""


def told(uid: str, lines: int, rank: int | None = None, first: bool = False) -> dict[str, Any]:
    """Return what a tail is answered with: of ranks also whose each line is, and when it came."""
    try:
        ranks = [rank] if rank is not None else _ranks_of(uid)
        if not ranks:
            return {"lines": tail(uid, lines)}
        found = _of_ranks(uid, max(lines, 0), ranks, first)
        if rank is None and not first and len(found) < lines:
            found = [(0, -1, line) for line in tail(uid, lines - len(found))] + found
    except OSError as error:
        found = [(0, -1, f"[cannot read this log now: {error.strerror}]")]
    return {
        "lines": [text for _, _, text in found],
        "ranks": [rank for _, rank, _ in found],
        "at": [at_us / 1e6 for at_us, _, _ in found],
    }


def _ranks_of(uid: str) -> list[int]:
    """Return of which ranks there are logs."""
    names = (name.split(".") for name in os.listdir(FOLDER) if name.startswith(f"{uid}."))
    return sorted({int(name[1]) for name in names if name[1].isdigit()})


def _of_ranks(uid: str, lines: int, ranks: list[int], first: bool) -> list[Line]:
    """Return the last lines, or the first, as they came, within what an answer may hold."""
    found = list(heapq.merge(*(_lines(uid, rank, lines, first) for rank in ranks)))
    found = found if first else found[::-1]
    sizes = accumulate(len(text.encode()) for _, _, text in found[:lines])
    found = found[: sum(size <= TAIL_BYTES_MAX for size in sizes)]
    return found if first else found[::-1]


def _lines(uid: str, rank: int, lines: int, first: bool) -> Iterator[Line]:
    if first:
        text = b""
        with suppress(FileNotFoundError), open(f"{FOLDER}/{uid}.{rank}.head", "rb") as file:
            text = file.read(HEAD_BYTES)
        kept = text.split(b"\n")[:lines]
    else:
        text = _last_bytes(f"{uid}.{rank}")
        if len(text) == TAIL_BYTES_MAX:  # it was cut somewhere in a line
            text = text.partition(b"\n")[2]
        kept = text.split(b"\n")[-lines - 1 :]
    for line in kept:
        if line:
            drawn = line[STAMP_CHARS:].rstrip(b"\r").rpartition(b"\r")[2]
            yield int(line[:STAMP_CHARS], 16), rank, drawn.decode(errors="replace")


def _last_bytes(name: str) -> bytes:
    """Return the newest of a ring, as much as a tail may be; raises OSError."""
    text = b""
    for path in (f"{FOLDER}/{name}.log.1", f"{FOLDER}/{name}.log"):
        with suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES_MAX))
            text += file.read()
    return text[-TAIL_BYTES_MAX:]


def prune() -> None:
    """Remove the oldest files of rings beyond RINGS_MAX, or beyond LOGS_BYTES_MAX together."""
    paths = [f"{FOLDER}/{name}" for name in os.listdir(FOLDER)]
    newest = sorted(((os.stat(path), path) for path in paths), key=lambda each: -each[0].st_mtime)
    total = 0
    for number, (status, path) in enumerate(newest):
        total += status.st_size
        if number >= 2 * RINGS_MAX or total > LOGS_BYTES_MAX:
            os.unlink(path)
