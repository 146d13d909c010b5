"""New files that commands write for people: private, and whole or not there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def fresh(path: Path) -> Iterator[BinaryIO]:
    """Give a file of mode 600 that gets its name when the block has ended. Raises `OSError`.

    A name that is taken, be it by a broken link, is refused first, as `FileExistsError`.
    """
    if os.path.lexists(path):
        raise FileExistsError(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
        part.rename(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
