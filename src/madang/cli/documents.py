"""YAML documents on disk: read with the place of each; written as one file per object."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from madang.errors import MadangError, Rejected, Unavailable, Unfit
from madang.settings import BODY_BYTES_MAX

FILES_MAX = 1000
"""As many as one `apply` may bring objects."""
FOLDERS_MAX = 1000
SUFFIXES = frozenset({".yaml", ".yml"})
HEADER = (
    "# Written by madang export; madang apply -f reads it. What is no longer there goes away.\n"
)
"""First line of what `export` may overwrite or remove again."""


class Document(NamedTuple):
    """One document, and where it stands."""

    value: Any
    file: str
    line: int


def read(source: str) -> list[Document]:
    """Read the documents of a file, of a folder and all below it, or of the standard input (-).

    Raises `Rejected` naming file and line of the first mistake.
    """
    found: list[Document] = []
    left = BODY_BYTES_MAX
    for file in _files(source):
        content = _content(file, left)
        left -= len(content)
        if left < 0:
            raise Rejected("apply.too-large", source, limit_bytes=BODY_BYTES_MAX)
        found += _parsed(content, file)
    if not found:
        raise Rejected("apply.empty", source)
    return found


def _files(source: str) -> Sequence[str]:
    """Return the YAML files that are meant, in the order of their paths; links are not followed."""
    if source == "-" or not Path(source).is_dir():
        return [source]
    found: list[str] = []
    for count, (folder, below, names) in enumerate(os.walk(source)):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found += [str(p) for p in paths if p.suffix in SUFFIXES and not p.is_symlink()]
        if len(found) > FILES_MAX or count >= FOLDERS_MAX:
            raise Rejected("apply.too-many-files", source, limit=FILES_MAX)
    return sorted(found)


def _content(file: str, left: int) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(left + 1)
    try:
        with Path(file).open("rb") as opened:
            return opened.read(left + 1)
    except OSError as error:
        raise Rejected("apply.unreadable", file, cause=error.strerror or str(error)) from error


def _parsed(content: bytes, file: str) -> Iterator[Document]:
    import yaml

    loader = None
    try:
        loader = yaml.SafeLoader(content)
        loader.yaml_implicit_resolvers = _without_days(loader.yaml_implicit_resolvers)
        while loader.check_node():
            node = loader.get_node()
            value = loader.construct_document(node) if node else None
            if node and value is not None:
                yield Document(value, file, node.start_mark.line + 1)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        cause = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else 0
        raise Rejected("apply.not-yaml", file, line=line, cause=cause) from error
    finally:
        if loader is not None:
            loader.dispose()


def _without_days(resolvers: Mapping[str, Any]) -> dict[str, Any]:
    """Return YAML's rules for plain words without the one for days: 2026-12-01 is text here."""
    days = "tag:yaml.org,2002:timestamp"
    return {first: [r for r in rules if r[0] != days] for first, rules in resolvers.items()}


def blame(error: MadangError, documents: Sequence[Document]) -> None:
    """Add to an error which document of which file it is about, where that can be told."""
    number = error.values.get("document")
    if isinstance(number, int) and 0 < number <= len(documents):
        guilty: Document | None = documents[number - 1]
    else:
        named = (d for d in documents if isinstance(d.value, dict))
        guilty = next((d for d in named if _subject(d.value) == error.subject), None)
    if guilty is not None:
        error.values |= {"file": guilty.file, "line": guilty.line}


def _subject(value: Mapping[str, Any]) -> str:
    return f"{value.get('kind')}/{str(value.get('name')).rpartition('/')[2]}"


def path_of(kind: str, project: str, name: str) -> Path:
    """Return where an object's file lies: a folder per organization, and in it one per project.

    What belongs to the whole site lies beside them.

    Raises `Rejected` for what is no name of ours: no string from outside becomes a path unseen.

    >>> path_of("service", "acme/lab", "bot"), path_of("project", "acme/lab", "lab")
    (PosixPath('acme/lab/service.bot.yaml'), PosixPath('acme/lab/project.yaml'))
    """
    from madang.resources.resource import canonical, check_name

    place = project.split("/") if project else []
    try:
        for part in (*place, name, kind):
            if check_name(part) != canonical(part):
                raise Unfit("value.name-form")
    except Unfit as error:
        raise Rejected("export.bad-name", ascii(f"{kind}/{name}"), **error.why()) from error
    own = kind in {"organization", "project"}
    return Path(*place, f"{kind}.yaml" if own else f"{kind}.{name}.yaml")


def write(folder: Path, bodies: Mapping[Path, Mapping[str, Any]]) -> tuple[int, int]:
    """Make the folder hold these objects; return how many files were written, and removed.

    A file that says the same already is not touched, and one that `export` did not write stays.
    """
    fresh = {path: HEADER + _written(body) for path, body in bodies.items()}
    try:
        written = sum(_put(folder / path, text) for path, text in sorted(fresh.items()))
        removed = sum(_drop(Path(file), folder, fresh) for file in _files(str(folder)))
    except OSError as error:
        raise Unavailable("export.failed", str(folder), cause=str(error)) from error
    return written, removed


def _written(body: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(body), allow_unicode=True, sort_keys=False, width=100)
    return text


def _put(path: Path, text: str) -> bool:
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
        return False
    if os.path.lexists(path) and not _is_ours(path):
        raise Rejected("export.not-ours", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return True


def _drop(path: Path, folder: Path, fresh: Mapping[Path, str]) -> bool:
    """Remove the file of an object that is no longer there."""
    if path.relative_to(folder) in fresh or not _is_ours(path):
        return False
    path.unlink()
    return True


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(len(HEADER)) == HEADER
