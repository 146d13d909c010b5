"""Programs that people send along with jobs, by project and digest; each a folder, never changed.

What arrives is zlib of JSON: {"form": 1, "files": [["train.py", "", "BASE64"], …]}, sorted by path,
with "x" for what may be executed. There is no way in it to say a link, a device or an owner.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from madang.errors import Rejected, Unavailable, refuse_lack

FORM = 1
PLAIN_BYTES_MAX = 16 << 20
"""Of the JSON: no more is ever unpacked, whatever was sent."""
FILES_MAX = 2_000
PATH_BYTES_MAX = 512
NAME_BYTES_MAX = 255
CODES_MAX = 1_000
"""Of one project, that are there at the same time."""
KEPT_S = 3_600.0
"""So long it stays without a job that names it: one may just be on its way."""
PART = ".part"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class FileCodes:
    """Folders of code under one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, project: str, digest: str) -> Path:
        """See `Codes.folder`."""
        return self._home(project) / digest.replace(":", "-")

    def has(self, project: str, digest: str) -> bool:
        """See `Codes.has`."""
        return bool(_DIGEST.fullmatch(digest)) and self.folder(project, digest).is_dir()

    def add(self, project: str, digest: str, packed: str) -> None:
        """See `Codes.add`."""
        folder = self.folder(project, digest)
        files = list(_files(_plain(packed, digest)))
        part = folder.with_name(f"{secrets.token_hex(8)}{PART}")
        try:
            if sum(1 for _ in _listed(folder.parent)) >= CODES_MAX:
                raise Rejected("code.too-many", limit=CODES_MAX)
            part.mkdir(parents=True)
            for path, is_program, content in files:
                _write(part / path, content, 0o755 if is_program else 0o644)
            _open_to_all(part)
            with suppress(FileExistsError):
                part.rename(folder)
        except OSError as error:
            if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
                raise _bad("path") from error
            refuse_lack(error)
            if not folder.is_dir():  # else somebody else was faster
                raise Unavailable("code.write-failed", digest, cause=str(error)) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def keep_only(self, named: Collection[tuple[str, str]]) -> None:
        """See `Codes.keep_only`."""
        kept = {self.folder(project, digest) for project, digest in named}
        for home in _listed(self._root):
            for folder in _listed(home):
                with suppress(FileNotFoundError):
                    if folder not in kept and time.time() - folder.stat().st_ctime > KEPT_S:
                        shutil.rmtree(folder, ignore_errors=True)

    def _home(self, project: str) -> Path:
        return self._root / hashlib.sha256(f"project/{project}".encode()).hexdigest()[:32]


def _listed(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from list(folder.iterdir())


def _bad(what: str, file: str = "") -> Rejected:
    return Rejected("code.unreadable", file, what=what)


def _plain(packed: str, digest: str) -> bytes:
    """Return the JSON that was packed, never more than is allowed; raises `Rejected`."""
    try:
        reader = zlib.decompressobj()
        plain = reader.decompress(base64.b64decode(packed, validate=True), PLAIN_BYTES_MAX + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise _bad("zlib") from error
    if len(plain) > PLAIN_BYTES_MAX:
        raise Rejected("code.too-large", limit_bytes=PLAIN_BYTES_MAX)
    if not reader.eof or reader.unused_data:
        raise _bad("zlib")
    if f"sha256:{hashlib.sha256(plain).hexdigest()}" != digest:
        raise _bad("digest")
    return plain


def _files(plain: bytes) -> Iterator[tuple[PurePosixPath, bool, bytes]]:
    """Return what is in it; raises `Rejected` for what nobody would pack."""
    said: Any = None
    with suppress(ValueError, RecursionError):
        said = json.loads(plain)
    files = said.get("files") if isinstance(said, dict) and said.get("form") == FORM else None
    if not isinstance(files, list):
        raise _bad("form")
    if not 0 < len(files) <= FILES_MAX:
        raise Rejected("code.too-many-files", limit=FILES_MAX)
    for each in files:
        match each:
            case [str(path), ("" | "x") as mode, str(text)] if _is_inside(path):
                with suppress(binascii.Error, ValueError):
                    yield PurePosixPath(path), mode == "x", base64.b64decode(text, validate=True)
                    continue
        raise _bad("path", str(each)[:80])


def _is_inside(path: str) -> bool:
    """Tell whether it is a plain path that leads below the folder it starts in."""
    parts = path.split("/")
    return (
        path.isprintable()
        and len(path.encode(errors="replace")) <= PATH_BYTES_MAX
        and not {"", ".", ".."} & {*parts}
        and all(len(part.encode()) <= NAME_BYTES_MAX for part in parts)
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(path, "wb", opener=lambda name, _flags: os.open(name, flags, mode)) as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _open_to_all(folder: Path) -> None:
    """Let every number read it: where it is not mounted, nobody can reach it."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o755)
