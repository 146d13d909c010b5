"""Folders that jobs mount: whose they are on the machine, how full they are, and their end.

What is in them is written by jobs, so no link in them is ever followed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from madang.resources.volume import Volume

NUMBERS_FROM, NUMBERS = 0x7000_0000, 1 << 27
"""User numbers that nothing else gives away (systemd, "Users, Groups, UIDs and GIDs": 1879048192 to
2147483647 are unused). Two projects may get the same one, and still see nothing of each other:
what a job is not given is not in its sandbox."""
ENTRIES_MAX = 1_000_000
"""So many files and folders are looked at when a volume is measured."""
BLOCK_BYTES = 512
"""The unit of st_blocks."""


def number_of(project: str) -> int:
    """Return the user number of a project's jobs, where Madang may give numbers away.

    >>> number_of("acme/lab") == number_of("acme/lab") != number_of("acme/room")
    True
    """
    digest = hashlib.sha256(f"project/{project}".encode()).digest()
    return NUMBERS_FROM + int.from_bytes(digest[:4], "big") % NUMBERS


def make(folder: Path, owner: int) -> None:
    """Make a folder for that number alone; all in it changes hands where it had another owner."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not owner or folder.stat().st_uid == owner:
        return
    for _, below, names, fd in os.fwalk(folder):
        for name in (*below, *names):
            with suppress(FileNotFoundError):
                os.chown(name, owner, owner, dir_fd=fd, follow_symlinks=False)
    os.chown(folder, owner, owner)


class FileVolumes:
    """The folders of volumes under one folder, by the uid of the volume."""

    def __init__(self, root: Path, numbers: bool = False) -> None:
        self._root, self._numbers = root, numbers

    def owner(self, project: str) -> int:
        """See `Volumes.owner`."""
        return number_of(project) if self._numbers else 0

    def folder(self, volume: Volume) -> Path:
        """See `Volumes.folder`."""
        return Path(volume.spec.path) if volume.spec.path else self._root / volume.uid

    def make(self, volume: Volume) -> Path:
        """See `Volumes.make`."""
        folder = self.folder(volume)
        if not volume.spec.path:
            make(folder, self.owner(volume.project))
        return folder

    def measure(self, volume: Volume) -> tuple[int, int]:
        """See `Volumes.measure`."""
        used = count = 0
        seen: set[tuple[int, int]] = set()
        for status in _entries(self.folder(volume)):
            count += 1
            if status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            used += status.st_blocks * BLOCK_BYTES
            if count >= ENTRIES_MAX:
                break
        return used, count

    def kept(self) -> Collection[str]:
        """See `Volumes.kept`."""
        with suppress(FileNotFoundError):
            return [path.name for path in self._root.iterdir()]
        return ()

    def remove(self, uid: str) -> None:
        """See `Volumes.remove`."""
        shutil.rmtree(self._root / uid, ignore_errors=True)


def _entries(root: Path) -> Iterator[os.stat_result]:
    """Return every file and folder below one, on its own file system; links are what they are."""
    with suppress(FileNotFoundError):  # of the first folder alone: below it, what is gone is passed
        for _, below, names, fd in os.fwalk(root):
            for name in (*below, *names):
                with suppress(OSError):
                    yield os.stat(name, dir_fd=fd, follow_symlinks=False)
