"""A job's program: the folder that goes along with it, packed the same way every time."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import os
import shlex
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from madang.cli.documents import Document
from madang.client import Client
from madang.errors import Rejected

FORM = 1
FILES_MAX = 2_000
PLAIN_BYTES_MAX = 16 << 20
PACKED_BYTES_MAX = 3_000_000
"""What the server takes; it looks at the rest by itself."""
IGNORE = ".madangignore"
LEFT_OUT = (
    ".git", ".hg", ".svn", ".venv", "venv", ".env", "__pycache__", "*.pyc", "node_modules",
    ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".DS_Store",
)  # fmt: skip
"""What is never part of a program: environments, what is made anew, and secrets."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A folder as it is sent."""

    digest: str
    text: str
    """Base64 of zlib of JSON."""


def pack(folder: Path) -> Pack:
    """Pack a folder; the same files give the same digest. Raises `Rejected`."""
    files, left = [], PLAIN_BYTES_MAX
    for path in _paths(folder):
        name = path.relative_to(folder).as_posix()
        try:
            content = path.read_bytes()
            mode = "x" if path.stat().st_mode & 0o100 else ""
        except OSError as error:
            raise Rejected("code.file-unreadable", name, cause=error.strerror or "") from error
        files.append([name, mode, base64.b64encode(content).decode()])
        left -= len(files[-1][2])
        if left < 0:
            raise Rejected("code.too-large", str(folder), limit_bytes=PLAIN_BYTES_MAX)
    if not files:
        raise Rejected("code.empty", str(folder))
    plain = json.dumps({"form": FORM, "files": files}, separators=(",", ":")).encode()
    packed = base64.b64encode(zlib.compress(plain, 9)).decode()
    if len(packed) > PACKED_BYTES_MAX or len(plain) > PLAIN_BYTES_MAX:
        raise Rejected("code.too-large", str(folder), limit_bytes=PACKED_BYTES_MAX)
    return Pack(f"sha256:{hashlib.sha256(plain).hexdigest()}", packed)


def _paths(folder: Path) -> list[Path]:
    """Return what is packed, sorted; raises `Rejected` for a link that leads out."""
    patterns, root = [*LEFT_OUT, *_ignored(folder)], folder.resolve()
    found: list[Path] = []
    for place, below, names in os.walk(folder):
        here = Path(place)
        below[:] = sorted(n for n in below if not _is_left_out(here / n, folder, patterns))
        for path in (here / name for name in (*names, *below)):
            if path.is_symlink() and not _leads_inside(path, root):
                raise Rejected("code.link-out", path.relative_to(folder).as_posix())
            if path.is_file() and not _is_left_out(path, folder, patterns):
                found.append(path)
        if len(found) > FILES_MAX:
            raise Rejected("code.too-many-files", str(folder), limit=FILES_MAX)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _leads_inside(path: Path, root: Path) -> bool:
    """Tell whether a link is to a file of the same folder: then that is packed in its place."""
    try:
        there = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return there.is_file() and there.is_relative_to(root)


def _ignored(folder: Path) -> Iterator[str]:
    try:
        lines = (folder / IGNORE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            yield line.rstrip("/")


def _is_left_out(path: Path, folder: Path, patterns: Sequence[str]) -> bool:
    name, inside = path.name, path.relative_to(folder).as_posix()
    return any(
        fnmatch.fnmatchcase(inside, pattern.lstrip("/"))
        if "/" in pattern
        else fnmatch.fnmatchcase(name, pattern)
        for pattern in patterns
    )


def bring(documents: Sequence[Document]) -> tuple[list[Document], list[tuple[str, Pack]]]:
    """Return documents that mean the same to the server, and what goes along with their jobs.

    Paths are meant from where a document stands: the `path` of a volume, and the `code` of a job,
    which is that folder itself where the job's command names something in it.
    """
    packs: dict[Path, Pack] = {}
    told, sent = [], []
    for document in documents:
        value, here = document.value, Path(document.file).parent
        if not isinstance(value, dict) or document.file == "-":
            told.append(document)
            continue
        value = dict(value)
        path, code = value.get("path"), value.get("code")
        if value.get("kind") == "volume" and isinstance(path, str) and path:
            value["path"] = os.path.abspath(here / path)  # noqa: PTH100 - links are the server's
        elif value.get("kind") == "job" and (folder := _meant(code, value.get("command"), here)):
            if folder not in packs:
                packs[folder] = pack(folder)
            value["code"] = packs[folder].digest
            sent.append((str(value.get("project") or ""), packs[folder]))
        told.append(document._replace(value=value))
    return told, sent


def _meant(code: object, command: object, here: Path) -> Path | None:
    """Return which folder goes along with a job; None: none does, or it is there already."""
    if isinstance(code, str):
        return None if code == "" or code.startswith("sha256:") else here / code
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    return here if code is None and names_a_file(words, here) else None


def names_a_file(command: Sequence[str], folder: Path) -> bool:
    """Tell whether a command needs what is in a folder: a file of it, or `-m` a module of it."""
    for before, word in zip(("", *command), command, strict=False):
        module = word.partition(".")[0] if before == "-m" else ""
        for name in filter(None, (word, module, module and f"{module}.py")):
            if not name.startswith(("/", "-")) and len(name) < 256 and (folder / name).exists():
                return True
    return False


def send(client: Client, found: Pack, project: str = "") -> None:
    """Send it, unless the server has it."""
    if not client.add_code(found.digest, project=project):
        client.add_code(found.digest, found.text, project)
