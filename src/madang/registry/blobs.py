"""Files by digest, left where they lie: a record says where, how big and as of when.

Knows nothing of what is in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from madang.errors import Corrupt, Rejected, Unavailable, refuse_lack

CHUNK_BYTES = 4 << 20
"""Read and hashed at a time; progress is told as often."""

FILE_BYTES_MAX = 8 << 40
"""No larger file is taken in."""

RECORD_BYTES_MAX = 64 << 10
PART = ".part"
"""How the name of a record ends that is being written."""
COPY = ".file"
"""How the name of a file of our own ends."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


def ignore_progress(_done: int, _total: int) -> None:
    """For whom nobody waits."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, and nothing that would wait or act; raises `Rejected`.

    At the end raises `Unavailable` if the file has been written to meanwhile.
    """
    try:
        entered = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - see `with`
    except IsADirectoryError as error:
        raise Rejected("model.source-not-a-file", str(path)) from error
    except (OSError, ValueError) as error:
        refuse_lack(error)
        raise Rejected("model.source-unreadable", str(path), cause=str(error)) from error
    with entered as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("model.source-not-a-file", str(path))
        if status.st_size > FILE_BYTES_MAX:
            raise Rejected("model.source-too-large", str(path), limit=FILE_BYTES_MAX)
        yield file
        after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise Unavailable("model.source-changing", str(path))


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def digest_of(file: BinaryIO, progress: Progress = ignore_progress) -> str:
    """Return `sha256:…` of an open file, as long as it is now."""
    size = os.fstat(file.fileno()).st_size
    seen = hashlib.sha256()
    done = 0
    file.seek(0)
    while done < size and (chunk := file.read(min(CHUNK_BYTES, size - done))):
        seen.update(chunk)
        done += len(chunk)
        progress(done, size)
    return f"sha256:{seen.hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Record:
    path: str
    size_bytes: int
    mtime_ns: int
    ctime_ns: int = 0
    """Unlike the other time, nobody can set it: a file made to look unchanged is read again."""

    def fits(self, status: os.stat_result) -> bool:
        return self.is_like(status) and self.ctime_ns == status.st_ctime_ns

    def is_like(self, status: os.stat_result) -> bool:
        """Tell whether it fits but for that time: a link or another owner change it too."""
        return (self.size_bytes, self.mtime_ns) == (status.st_size, status.st_mtime_ns)


class FileBlobs:
    """`madang.ports.Blobs` over files that stay where they are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, source: Path) -> tuple[str, int]:
        """See `Blobs.add`. The file is not copied: keep it."""
        with opened(source) as file:
            status, digest = os.fstat(file.fileno()), digest_of(file)
        self.refer(digest, source, status)
        return digest, status.st_size

    def refer(self, digest: str, source: Path, status: os.stat_result) -> None:
        """Record that a file with that digest, as it was then, lies at `source`."""
        record = _Record(
            str(source.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )
        self._write(digest, record)

    def path(self, digest: str) -> Path:
        """See `Blobs.path`. Reads the whole file again when its time or size has changed."""
        record = self._read(digest)
        path = Path(record.path)
        try:
            if not record.fits(path.stat()):
                self._read_again(digest, path)
        except (OSError, Rejected) as error:
            refuse_lack(error)
            raise Unavailable("blob.missing", digest, path=record.path) from error
        return path

    def check(self, digest: str, may_read: Callable[[], bool]) -> None:
        """See `Blobs.check`."""
        record = self._read(digest)

        def go_on(_done: int = 0, _total: int = 0) -> None:
            if not may_read():
                raise Unavailable("blob.touched", digest, path=record.path)

        path = Path(record.path)
        try:
            status = path.stat()
            if record.fits(status):
                return
            if not record.is_like(status):
                raise Unavailable("blob.touched", digest, path=record.path)
            go_on()
            self._read_again(digest, path, go_on)
        except (OSError, Rejected) as error:
            refuse_lack(error)
            raise Unavailable("blob.missing", digest, path=record.path) from error

    def _read_again(self, digest: str, path: Path, progress: Progress = ignore_progress) -> None:
        """Read a file that may be another one by now, and record how it is if it isn't."""
        with opened(path) as file:
            status, found = os.fstat(file.fileno()), digest_of(file, progress)
        if found != digest:
            raise Unavailable("blob.changed", digest, path=str(path))
        self.refer(digest, path, status)

    def copy(self, file: BinaryIO) -> Path:
        """Keep a copy of an open file, by its digest: what it is of may be changed by others."""
        part = self._folder / f"{threading.get_ident()}{PART}"
        seen = hashlib.sha256()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with part.open("wb") as kept:
                while chunk := file.read(CHUNK_BYTES):
                    seen.update(chunk)
                    kept.write(chunk)
                kept.flush()
                os.fchmod(kept.fileno(), 0o644)  # a job may mount it
                os.fsync(kept.fileno())
            path = self._place(f"sha256:{seen.hexdigest()}").with_suffix(COPY)
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise Unavailable("blob.write-failed", seen.hexdigest(), cause=str(error)) from error
        return path

    def drop(self, path: Path) -> None:
        """Let go of a copy that turned out to be no model, unless it is one by another name."""
        if not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)

    def remove(self, digest: str) -> None:
        """See `Blobs.remove`. A file that is not our own copy stays."""
        if _DIGEST.fullmatch(digest):
            self._place(digest).unlink(missing_ok=True)
            self._place(digest).with_suffix(COPY).unlink(missing_ok=True)

    def keep_only(self, digests: Collection[str]) -> None:
        """See `Blobs.keep_only`."""
        kept = {self._place(digest).with_suffix(s) for digest in digests for s in (".json", COPY)}
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path not in kept and path.suffix in {".json", COPY, PART}:
                    path.unlink(missing_ok=True)

    def _place(self, digest: str) -> Path:
        return self._folder / f"{digest.replace(':', '-')}.json"

    def _read(self, digest: str) -> _Record:
        if not _DIGEST.fullmatch(digest):
            raise Unavailable("blob.missing", digest, path="")
        try:
            with self._place(digest).open("rb") as file:
                return _Record(**json.loads(file.read(RECORD_BYTES_MAX)))
        except FileNotFoundError as error:
            raise Unavailable("blob.missing", digest, path="") from error
        except (OSError, ValueError, TypeError) as error:
            refuse_lack(error)
            raise Corrupt("blob.record-damaged", digest, cause=str(error)) from error

    def _write(self, digest: str, record: _Record) -> None:
        part = self._place(digest).with_suffix(f".{threading.get_ident()}{PART}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with part.open("w") as file:
                json.dump(asdict(record), file)
                file.flush()
                os.fsync(file.fileno())
            part.rename(self._place(digest))
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise Unavailable("blob.write-failed", digest, cause=str(error)) from error
