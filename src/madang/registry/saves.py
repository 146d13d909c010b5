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
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import madang.job
from madang.errors import Rejected, Unavailable, Value
from madang.ports import Where
from madang.registry import volumes
from madang.resources.attempt import Attempt
from madang.resources.job import Checkpoint, Job

MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 4 << 20
FILES_MAX = 10_000
LOOKS_MAX = 10
"""So many checkpoints of others are read from end to end, at most, to find one that is whole."""
FORM = 1
CHUNK_BYTES = 4 << 20
FOLDER_ONLY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class FileSaves:
    """The folders of jobs under one folder, by the uid of the job."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(
        self, job: Job, attempt: Attempt, owner: int, where: Where | None = None
    ) -> None:  # fmt: skip
        """See `Saves.make`."""
        for folder in (self.checkpoints(job), self.work(job), self.progress(job, attempt)):
            volumes.make(Path(folder), owner)
        if where:
            _make_below(where, owner)
        self._make_library()

    def library(self) -> str:
        """See `Saves.library`; named by what it holds, so that another version has another."""
        return str(self._root / f"library-{_sdk_digest()[:16]}")

    def _make_library(self) -> None:
        """Make the folder that all jobs read `madang.job` from, unless it is there; all at once."""
        if os.path.lexists(self.library()):
            return
        self._root.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".library-", dir=self._root))
        package = made / "madang"
        package.mkdir()
        (package / "__init__.py").touch()
        shutil.copyfile(madang.job.__file__, package / "job.py")
        for path in (*package.iterdir(), package, made):
            path.chmod(0o755 if path.is_dir() else 0o444)  # any user number reads it
        try:
            made.rename(self.library())
        except OSError:  # another job was faster
            shutil.rmtree(made)

    def checkpoints(self, job: Job) -> str:
        """Return the folder in which a job saves."""
        return str(self._root / job.uid / "checkpoints")

    def work(self, job: Job) -> str:
        """Return the folder in which a job starts."""
        return str(self._root / job.uid / "work")

    def progress(self, job: Job, attempt: Attempt) -> str:
        """Return the folder in which the ranks of an attempt say how far they are."""
        return str(self._root / job.uid / f"attempt-{attempt.spec.number}")

    def read(
        self, job: Job, attempt: Attempt, name: str, where: Where | None = None
    ) -> Checkpoint:  # fmt: skip
        """Read a checkpoint from end to end; raises `Rejected` for what is none, or another's.

        Its manifest must name the job and the attempt that calls it its own: what an older attempt
        writes that still runs somewhere is not published.
        """
        with self._around(job, where, name) as root, _folder(root, name) as folder:
            found = _checked(folder, name, (job.uid, attempt.spec.number))
        return found.model_copy(update={"job": ""})

    def of_another(
        self, job: Job, where: Where, strangers: Collection[str] = ()
    ) -> Checkpoint | None:  # fmt: skip
        """See `Saves.of_another`."""
        found: list[tuple[float, str]] = []
        with suppress(Rejected), self._around(job, where, "") as root:
            for entry in islice(os.scandir(root), FILES_MAX):
                with suppress(Rejected), _folder(root, entry.name) as folder:
                    manifest, _, at = _manifest(folder, entry.name)
                    writer = manifest.get("job")
                    if isinstance(writer, str) and writer not in {"", job.uid, *strangers}:
                        found.append((at, entry.name))
            for _, name in sorted(found, reverse=True)[:LOOKS_MAX]:
                with suppress(Rejected), _folder(root, name) as folder:
                    return _checked(folder, name)
        return None

    def is_whole(self, job: Job, checkpoint: Checkpoint, where: Where | None = None) -> bool:
        """Tell whether it still is what it was when it was read."""
        name = checkpoint.name
        try:
            with self._around(job, where, name) as root, _folder(root, name) as folder:
                manifest, digest, _ = _manifest(folder, name)
                _check_files(folder, name, manifest)
        except Rejected:
            return False
        return digest == checkpoint.digest

    def keep_only(
        self, job: Job, kept: Collection[Checkpoint], where: Where | None = None
    ) -> None:  # fmt: skip
        """See `Saves.keep_only`; nothing that is being written is touched either."""
        names = {checkpoint.name for checkpoint in kept}
        newest = max(((c.attempt, c.step) for c in kept if not c.job), default=(-1, -1))
        with suppress(Rejected), self._around(job, where, "") as root:
            for found in os.scandir(root):
                if found.name not in names and _is_older(job, root, found.name, newest):
                    shutil.rmtree(found.name, ignore_errors=True, dir_fd=root)

    def forget(self, job: Job) -> None:
        """Remove all that was the job's own; raises `Unavailable` where something is left."""
        root = self._root / job.uid
        _open_up(root)
        shutil.rmtree(root, ignore_errors=True)
        if os.path.lexists(root):
            raise Unavailable("job.files-left", job.name, folder=str(root))

    @contextmanager
    def _around(self, job: Job, where: Where | None, name: str) -> Iterator[int]:
        """Open the folder with its checkpoints, to which no link leads; raises `Rejected`."""
        where = where or Where(Path(self.checkpoints(job)))
        with ExitStack() as stack:
            try:
                fd = os.open(where.root, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, fd)
                for part in filter(None, where.below.split("/")):
                    fd = os.open(part, FOLDER_ONLY, dir_fd=fd)
                    stack.callback(os.close, fd)
            except OSError as error:
                raise Rejected("checkpoint.unreadable", name, cause=error.strerror or "") from error
            yield fd


@contextmanager
def _folder(root: int, name: str) -> Iterator[int]:
    """Open the folder of a checkpoint, which is no link; raises `Rejected`."""
    if not NAME.fullmatch(name):
        raise Rejected("checkpoint.bad-name", name[:128])
    try:
        fd = os.open(name, FOLDER_ONLY, dir_fd=root)
    except OSError as error:
        raise Rejected("checkpoint.unreadable", name, cause=error.strerror or "") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _make_below(where: Where, owner: int) -> None:
    """Make what is missing of a folder in a volume, for that number; raises `Rejected`."""
    with ExitStack() as stack:
        try:
            fd = os.open(where.root, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, fd)
            for part in filter(None, where.below.split("/")):
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=fd)
                    if owner:
                        os.chown(part, owner, owner, dir_fd=fd, follow_symlinks=False)
                fd = os.open(part, FOLDER_ONLY, dir_fd=fd)
                stack.callback(os.close, fd)
        except OSError as error:
            values = {"folder": where.below, "cause": error.strerror or ""}
            raise Rejected("job.no-folder-to-save", where.root.name, **values) from error


def _is_older(job: Job, root: int, name: str, newest: tuple[int, int]) -> bool:
    """Tell whether that is a checkpoint of this job, by an earlier attempt or of a lower step."""
    try:
        with _folder(root, name) as folder:
            manifest, *_ = _manifest(folder, name)
    except Rejected:
        return False
    numbers = manifest.get("epoch"), manifest.get("step")
    is_strange = not all(isinstance(number, int) for number in numbers)
    return manifest.get("job") == job.uid and (is_strange or numbers < newest)


@cache
def _sdk_digest() -> str:
    return hashlib.sha256(Path(madang.job.__file__).read_bytes()).hexdigest()


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


def _checked(folder: int, name: str, own: tuple[str, int] | None = None) -> Checkpoint:
    """Read a checkpoint that must be of that job and attempt; None: of whichever it says."""
    manifest, digest, at = _manifest(folder, name)
    said = manifest.get("job"), manifest.get("epoch")
    if own and said != own:
        raise Rejected("checkpoint.of-another", name, attempt=own[1])
    size = _check_files(folder, name, manifest)
    step, epoch, write_s = manifest.get("step"), said[1], manifest.get("write_s", 0.0)
    for what, number in (("step", step), ("epoch", epoch)):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**53:
            raise _bad(name, what)
    is_time = isinstance(write_s, int | float) and 0 <= write_s < 86_400
    return Checkpoint(
        name=name, step=step, attempt=epoch, digest=digest, size_bytes=size, at=at,
        write_s=float(write_s) if is_time else 0.0, job=str(said[0]),
    )  # fmt: skip


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
