"""What jobs keep on disk: for each a folder to work in, one of progress per attempt, checkpoints.

All of it is written by the job, so nothing in it is believed: no link is followed, no file is read
that is none, and a checkpoint is one only when every byte of it is what its manifest says.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import madang.job
from madang.errors import Rejected, Unavailable, Value
from madang.registry import volumes
from madang.resources.attempt import Attempt
from madang.resources.job import Checkpoint, Job

MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 4 << 20
FILES_MAX = 10_000
FORM = 1
CHUNK_BYTES = 4 << 20
FOLDER_ONLY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class FileSaves:
    """The folders of jobs under one folder, by the uid of the job."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self, job: Job, attempt: Attempt, owner: int) -> None:
        """Make the folders that an attempt writes to, for that number."""
        for folder in (self.checkpoints(job), self.work(job), self.progress(job, attempt)):
            volumes.make(Path(folder), owner)
        package = Path(self.library(job)) / "madang"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        shutil.copyfile(madang.job.__file__, package / "job.py")
        for path in (package.parent, package, *package.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)  # any number reads it where it is mounted

    def library(self, job: Job) -> str:
        """Return the folder from which a job's Python takes `madang.job`."""
        return str(self._root / job.uid / "library")

    def checkpoints(self, job: Job) -> str:
        """Return the folder in which a job saves."""
        return str(self._root / job.uid / "checkpoints")

    def work(self, job: Job) -> str:
        """Return the folder in which a job starts."""
        return str(self._root / job.uid / "work")

    def progress(self, job: Job, attempt: Attempt) -> str:
        """Return the folder in which the ranks of an attempt say how far they are."""
        return str(self._root / job.uid / f"attempt-{attempt.spec.number}")

    def read(self, job: Job, attempt: Attempt, name: str) -> Checkpoint:
        """Read a checkpoint from end to end; raises `Rejected` for what is none, or another's.

        Its manifest must name the job and the attempt that calls it its own: what an older attempt
        writes that still runs somewhere is not published.
        """
        with self._folder(job, name) as folder:
            manifest, digest, at = _manifest(folder, name)
            number = attempt.spec.number
            if (manifest.get("job"), manifest.get("epoch")) != (job.uid, number):
                raise Rejected("checkpoint.of-another", name, attempt=number)
            size = _check_files(folder, name, manifest)
        step = manifest.get("step")
        write_s = manifest.get("write_s", 0.0)
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**53:
            raise _bad(name, "step")
        is_time = isinstance(write_s, int | float) and 0 <= write_s < 86_400
        return Checkpoint(
            name=name, step=step, attempt=number, digest=digest, size_bytes=size, at=at,
            write_s=float(write_s) if is_time else 0.0,
        )  # fmt: skip

    def is_whole(self, job: Job, checkpoint: Checkpoint) -> bool:
        """Tell whether it still is what it was when it was read."""
        try:
            with self._folder(job, checkpoint.name) as folder:
                manifest, digest, _ = _manifest(folder, checkpoint.name)
                _check_files(folder, checkpoint.name, manifest)
        except Rejected:
            return False
        return digest == checkpoint.digest

    def keep_only(self, job: Job, names: Collection[str]) -> None:
        """Remove the checkpoints of a job but these, and none that is still being written."""
        root = Path(self.checkpoints(job))
        with suppress(FileNotFoundError):
            for found in os.scandir(root):
                if found.name in names or not found.is_dir(follow_symlinks=False):
                    continue
                if (root / found.name / MANIFEST).exists():
                    shutil.rmtree(found.path, ignore_errors=True)

    def forget(self, job: Job) -> None:
        """Remove all that was the job's own; raises `Unavailable` where something is left."""
        root = self._root / job.uid
        _open_up(root)
        shutil.rmtree(root, ignore_errors=True)
        if os.path.lexists(root):
            raise Unavailable("job.files-left", job.name, folder=str(root))

    @contextmanager
    def _folder(self, job: Job, name: str) -> Iterator[int]:
        """Open the folder of a checkpoint, which is no link; raises `Rejected`."""
        if not NAME.fullmatch(name):
            raise Rejected("checkpoint.bad-name", name[:128])
        try:
            fd = os.open(
                Path(self.checkpoints(job)) / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            )
        except OSError as error:
            raise Rejected("checkpoint.unreadable", name, cause=error.strerror or "") from error
        try:
            yield fd
        finally:
            os.close(fd)


def _open_up(root: Path) -> None:
    """Let what its owner has closed to itself be removed; nothing of the job runs any more."""
    for folder, names, _ in os.walk(root):
        for found in (Path(folder) / name for name in names):
            if not found.is_symlink():
                found.chmod(0o700)


def _bad(name: str, what: str, **values: Value) -> Rejected:
    return Rejected("checkpoint.bad-manifest", name, what=what, **values)


def _manifest(folder: int, name: str) -> tuple[dict[str, Any], str, float]:
    """Return the manifest, its digest, and when it was written."""
    with _file(folder, MANIFEST, name) as file:
        status = os.fstat(file.fileno())
        if status.st_size > MANIFEST_BYTES_MAX:
            raise _bad(name, "size")
        text = file.read(MANIFEST_BYTES_MAX + 1)
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(name, "json") from error
    if not isinstance(manifest, dict) or manifest.get("form") != FORM:
        raise _bad(name, "form")
    return manifest, hashlib.sha256(text).hexdigest(), status.st_mtime


def _check_files(folder: int, name: str, manifest: dict[str, Any]) -> int:
    """Read every file that a manifest names, and return how large they are together."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not 0 < len(files) <= FILES_MAX:
        raise _bad(name, "files")
    total = 0
    for path, said in files.items():
        if not isinstance(said, dict) or not all(map(NAME.fullmatch, path.split("/"))):
            raise _bad(name, "files", file=path[:128])
        with _file(folder, path, name) as file:
            size, digest = os.fstat(file.fileno()).st_size, hashlib.sha256()
            if size != said.get("bytes"):
                raise Rejected("checkpoint.torn", name, file=path)
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        if digest.hexdigest() != said.get("sha256"):
            raise Rejected("checkpoint.flipped", name, file=path)
        total += size
    return total


@contextmanager
def _file(folder: int, path: str, name: str) -> Iterator[BinaryIO]:
    """Open a regular file below a folder, and nothing that would wait; raises `Rejected`."""
    *above, last = path.split("/")
    try:
        with ExitStack() as stack:
            for part in above:
                folder = os.open(part, FOLDER_ONLY, dir_fd=folder)
                stack.callback(os.close, folder)
            fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        values = {"file": path, "cause": error.strerror or ""}
        raise Rejected("checkpoint.file-unreadable", name, **values) from error
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Rejected("checkpoint.no-file", name, file=path)
        yield file
