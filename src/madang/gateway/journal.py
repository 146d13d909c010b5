"""The usage file: one JSON line for each record, appended in groups, emptied once delivered.

Used from one thread. A crash may tear the last line; that line is cut when the file is opened.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import DecodeError, json

from madang.traffic.table import Usage

FILE_BYTES_MAX = 64 << 20
"""Some 200,000 requests; beyond it the oldest records stay and new ones are counted as lost."""
BATCH_RECORDS_MAX = 500
BATCH_BYTES_MAX = 1 << 19

log = logging.getLogger("madang.gateway")


class Journal:
    """The records that control has not taken yet."""

    def __init__(self, path: Path, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path = path
        self._file_bytes_max = file_bytes_max
        self._fd = -1
        self._size = 0
        self._delivered = 0
        self.lost = 0
        """Records refused since the start, for lack of room."""

    def open(self) -> None:
        """Open or create the file and cut a torn last line."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size, ends = os.fstat(self._fd).st_size, -1
        while size and ends < 0:
            start = max(0, size - BATCH_BYTES_MAX)
            ends = os.pread(self._fd, size - start, start).rfind(b"\n")
            size = start + ends + 1
        self._size = size
        os.ftruncate(self._fd, self._size)

    def append(self, records: Sequence[Usage]) -> None:
        """Write a group in one go; returns when it is on disk. OSError: none of it is kept."""
        lines = [json.encode(record) + b"\n" for record in records]
        kept, size = [], self._size
        for line in lines:
            if size + len(line) > self._file_bytes_max:
                break
            kept.append(line)
            size += len(line)
        data = b"".join(kept)
        try:
            if os.pwrite(self._fd, data, self._size) != len(data):
                raise OSError("the disk took only a part")
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size = size
        self._lose(len(lines) - len(kept))

    def _lose(self, count: int) -> None:
        if count:
            self.lost += count
            log.error("the usage file is full: %d records lost, %d in all", count, self.lost)

    def batch(self) -> tuple[list[bytes], int]:
        """Return the oldest undelivered records, as JSON, and the position behind them; 0: none."""
        if self._delivered == self._size:
            return [], 0
        data = os.pread(self._fd, BATCH_BYTES_MAX, self._delivered)
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)[:BATCH_RECORDS_MAX]
        end = self._delivered + (sum(map(len, lines)) or len(data))
        return [line for line in lines if _is_whole(line)], end

    def delivered(self, end: int) -> None:
        """Forget the records before a position; the file is emptied when none is left."""
        self._delivered = end
        if self._delivered == self._size:
            os.ftruncate(self._fd, 0)
            self._delivered = self._size = 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def _is_whole(line: bytes) -> bool:
    try:
        json.decode(line, type=Usage)
    except (DecodeError, UnicodeDecodeError):
        log.warning("a damaged usage record was passed over: %r", line[:200])
        return False
    return True
