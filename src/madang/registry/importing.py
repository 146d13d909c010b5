"""Taking a model in: what is hashed is the very file that was inspected, opened once."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote, urlsplit

from madang.errors import Rejected
from madang.registry.apart import inspect_apart
from madang.registry.blobs import FileBlobs, Progress, digest_of, ignore_progress, opened
from madang.resources.model import ModelVersion

SOURCE_LENGTH_MAX = 4096
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
