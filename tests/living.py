"""Looks at every file of a home in use: one that is moved meanwhile is not missed, and no fault."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

TRIES = 100

_Seen = TypeVar("_Seen")


def every(folder: Path, look: Callable[[Path], _Seen]) -> dict[Path, _Seen]:
    """Return what `look` says of all files and folders below one; all again where one was moved."""
    for _ in range(TRIES):
        try:
            return {path: look(path) for path in _below(folder)}
        except FileNotFoundError:
            continue
    raise AssertionError(f"{folder} never stood still in {TRIES} tries")


def holding(folder: Path, *texts: bytes) -> set[Path]:
    """Return the files below a folder in which one of the texts stands."""
    found = every(folder, lambda path: path.is_file() and _has(path.read_bytes(), texts))
    assert found, f"nothing is in {folder}"
    return {path for path, has in found.items() if has}


def _has(content: bytes, texts: tuple[bytes, ...]) -> bool:
    return any(text in content for text in texts)


def _below(folder: Path) -> Iterator[Path]:
    """Every name below a folder; raises FileNotFoundError where one of the folders is moved."""
    for above, folders, files in os.walk(folder, onerror=_refuse):
        yield from (Path(above) / name for name in (*folders, *files))


def _refuse(error: OSError) -> None:
    raise error
