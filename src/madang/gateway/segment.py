"""One file of entries: written by one process, read by it or by who comes after its death.

Each line is the CRC-32 of what follows, in eight digits, and one entry as JSON. A lock on the file
tells that its writer lives: the kernel lets go of it when that dies, however it does.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from msgspec import DecodeError, json

from madang.traffic.account import Closed, Entry

READ_BYTES = 1 << 19
"""So much of a file is read at once; no line is longer."""
_CRC = 8

_ENTRIES = json.Decoder(Entry)

log = logging.getLogger("madang.gateway")


def line_of(entry: Entry) -> bytes:
    r"""Write an entry as it is kept.

    >>> from madang.traffic.account import Passed
    >>> line_of(Passed(1.5, (("req-1", 7),)))
    b'183f35dc["p",1.5,[["req-1",7]]]\n'
    """
    body = json.encode(entry)
    return b"%08x%b\n" % (crc32(body), body)


def entry_of(line: bytes) -> Entry | None:
    """Read a line; None, and a word in the log, for one that is not as it was written."""
    if is_whole(line):
        with suppress(DecodeError, UnicodeDecodeError, RecursionError):
            entry: Entry = _ENTRIES.decode(line[_CRC:])
            return entry
    log.warning("a damaged usage record was passed over: %r", line[:200])
    return None


def is_whole(line: bytes) -> bool:
    """Tell whether a line is as it was written."""
    try:
        return int(line[:_CRC], 16) == crc32(line[_CRC:].rstrip(b"\n"))
    except ValueError:
        return False


class Segment:
    """One such file, open and locked; from one thread."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.size = _whole(fd)
        self.delivered = 0
        """Control has all before this position."""

    @classmethod
    def make(cls, path: Path) -> Segment:
        """Begin a new file; OSError where there is no room."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        made = cls(path, _locked(os.open(path, flags, 0o600)))
        _sync(path.parent)
        return made

    @classmethod
    def take(cls, path: Path) -> Segment | None:
        """Take over a file whose writer is dead, and cut a torn last line; None: it lives."""
        with suppress(FileNotFoundError, BlockingIOError):
            fd = _locked(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            if os.fstat(fd).st_nlink:  # else who had it before us has just let it go
                return cls(path, fd)
            os.close(fd)
        return None

    @property
    def name(self) -> str:
        """What control remembers it by."""
        return self.path.name

    @property
    def is_delivered(self) -> bool:
        """Whether control has all of it."""
        return self.delivered >= self.size

    def append(self, data: bytes) -> None:
        """Write whole lines in one go; returns when they are on disk. OSError: none is kept."""
        try:
            if os.pwrite(self._fd, data, self.size) != len(data):
                raise OSError("the disk took only a part")
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def entries(self) -> Iterator[Entry]:
        """Read all, damaged lines passed over."""
        start = 0
        while start < self.size:
            lines, start = self._lines(start)
            yield from filter(None, map(entry_of, lines))

    def closed(self, records_max: int) -> tuple[list[Closed], int]:
        """Return the next accounts that control has not been told of, and the position behind."""
        found: list[Closed] = []
        start = self.delivered
        lines, _ = self._lines(start)
        for line in lines:
            if len(found) == records_max:
                break
            start += len(line)
            entry = entry_of(line)
            if isinstance(entry, Closed):
                found.append(entry)
        return found, start

    def _lines(self, start: int) -> tuple[Sequence[bytes], int]:
        data = os.pread(self._fd, min(READ_BYTES, self.size - start), start)
        end = data.rfind(b"\n") + 1
        return data[:end].splitlines(keepends=True), start + end if end else self.size

    def let_go(self) -> None:
        """Close the file, which stays."""
        os.close(self._fd)

    def remove(self) -> None:
        """Remove the file, while nobody else can take it."""
        self.path.unlink(missing_ok=True)
        os.close(self._fd)


def _locked(fd: int) -> int:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _whole(fd: int) -> int:
    """Cut what was torn off behind the last whole line; return the size that is left."""
    size, end = os.fstat(fd).st_size, 0
    while size and not end:
        start = max(0, size - READ_BYTES)
        end = os.pread(fd, size - start, start).rfind(b"\n") + 1
        size = start + end
    os.ftruncate(fd, size)
    return size


def _sync(folder: Path) -> None:
    """Bring a folder's list of names to disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
