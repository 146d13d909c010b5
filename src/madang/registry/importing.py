"""Taking a model in: what is hashed is the very file that was inspected, opened once."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from madang.errors import Rejected, refuse_lack
from madang.registry.apart import inspect_apart
from madang.registry.blobs import FileBlobs, Progress, digest_of, ignore_progress, opened
from madang.resources.model import ModelVersion, volume_path

SOURCE_LENGTH_MAX = 4096
IN = os.O_RDONLY | os.O_NOFOLLOW
NOT_YET = frozenset({"hf", "s3"})
"""Schemes of the design that cannot be fetched from yet."""


def import_model(
    source: str, blobs: FileBlobs, progress: Progress = ignore_progress
) -> ModelVersion:
    """Inspect, hash and record the file at an absolute path or `file:///…`.

    Blocks: call it in a thread. `progress` is told after every few megabytes, and may raise to
    stop. The version comes without number and time; whoever stores it gives both. Raises
    `Rejected` with code `model.*`, or `Unavailable`.
    """
    path = locate(source)
    with opened(path) as file:
        status = os.fstat(file.fileno())
        found = inspect_apart(file, status.st_size)
        digest = digest_of(file, progress)
    blobs.refer(digest, path, status)
    return ModelVersion(
        number=0, digest=digest, source=source, size_bytes=status.st_size, **asdict(found)
    )


def import_from(blobs: FileBlobs, folder: Path, source: str) -> ModelVersion:
    """Copy the file of `volume://NAME/PATH` out of the volume's folder, and import the copy.

    Whoever works on the volume may change it later, or make a link of it: none is followed.
    Blocks, and raises, as `import_model` does.
    """
    _, path = volume_path(source)
    with opened_below(folder, path) as file:
        copy = blobs.copy(file)
    try:
        found = import_model(str(copy), blobs)
    except Rejected:
        blobs.drop(copy)
        raise
    return found.model_copy(update={"source": source})


@contextmanager
def opened_below(folder: Path, path: str) -> Iterator[BinaryIO]:
    """Open a regular file below a folder, following no link on the way; raises `Rejected`."""
    *parts, name = path.split("/")
    held: list[int] = []
    try:
        held.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        for part in parts:
            held.append(os.open(part, IN | os.O_DIRECTORY, dir_fd=held[-1]))
        file = os.open(name, IN | os.O_NONBLOCK, dir_fd=held[-1])
    except OSError as error:
        refuse_lack(error)
        raise Rejected("model.source-unreadable", path, cause=error.strerror or "") from error
    finally:
        for fd in held:
            os.close(fd)
    with os.fdopen(file, "rb") as found:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise Rejected("model.source-not-a-file", path)
        yield found


def locate(source: str) -> Path:
    """Return the absolute path that a source names; raises `Rejected`.

    >>> locate("file:///models/%EA%B0%80.gguf")
    PosixPath('/models/가.gguf')
    """
    if len(source) > SOURCE_LENGTH_MAX or not source.isprintable():
        raise Rejected("model.source-unknown", ascii(source[:80]))
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source)
    path = Path(source) if scheme is None else _local(source, scheme[1].lower())
    if not path.is_absolute():
        raise Rejected("model.source-not-absolute", source)
    return path


def _local(source: str, scheme: str) -> Path:
    if scheme in NOT_YET:
        raise Rejected("model.source-not-yet", source, scheme=scheme)
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise Rejected("model.source-unknown", source) from error
    if scheme != "file" or parts.netloc or parts.query or parts.fragment:
        raise Rejected("model.source-unknown", source)
    return Path(unquote(parts.path))
