"""Where a state file lies: on a disk of this machine, and held by one control only."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from madang.errors import Rejected, Unavailable

MOUNTS = Path("/proc/self/mountinfo")
NETWORK_FILE_SYSTEMS = frozenset({
    "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
    "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
})  # fmt: skip
"""A write-ahead log needs memory shared and locks kept by one kernel; these have neither."""


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system below `path`; empty where the kernel does not say."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    mounted = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        mounted[_unescaped(before.split(" ")[4])] = after.split(" ")[0]
    real = path.resolve()
    return next((mounted[str(p)] for p in (real, *real.parents) if str(p) in mounted), "")


def _unescaped(field: str) -> str:
    r"""Undo the kernel's octal escapes.

    >>> _unescaped(r"/mnt/my\040disk")
    '/mnt/my disk'
    """
    for code, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, plain)
    return field


def refuse_network(path: Path, kind: str) -> None:
    """Raise `Rejected` if a file system of that kind is shared over a network."""
    if kind in NETWORK_FILE_SYSTEMS:
        raise Rejected("store.network-file-system", str(path), filesystem=kind)


READERS_S = 10.0
"""So long a start waits for those who only read the state."""


class Hold:
    """The right to be the one control of a home, for as long as the process lives."""

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take it, if need be after who only reads; again is a no-op.

        Raises `Unavailable` naming the process that has it.
        """
        if self._descriptor is not None:
            return
        try:
            make_private(self._lock)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable("store.write-failed", cause=str(error)) from error
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise Unavailable("store.held", str(self._lock.parent), pid=holder or "?") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; again is a no-op. The file stays, empty of meaning."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    """Lock it whole: `doctor` may be reading, which ends soon; another control does not."""
    until_s = time.monotonic() + READERS_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            if time.monotonic() > until_s:
                raise
            time.sleep(0.02)
        else:
            return


def read_only(state: Path) -> str:
    """Return the address under which SQLite opens a state file and leaves it as it is.

    Without a log the file is read as it is; with one, SQLite must look into both.
    """
    log = state.with_name(state.name + "-wal")
    is_settled = not log.exists() or log.stat().st_size == 0
    return f"{state.absolute().as_uri()}?{'immutable=1' if is_settled else 'mode=ro'}"


def make_private(path: Path) -> None:
    """Make a file, and the folders above it, that only its owner can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def settle(part: Path, path: Path) -> None:
    """Give a finished file its name, durably; a crash leaves the old name or the new one."""
    _sync(part)
    part.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
