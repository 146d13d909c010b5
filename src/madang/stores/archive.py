"""The form of a backup: one file of named members, each compressed, with a list of all at its end.

    madang-backup/1 LF | members, one zlib stream each | list (JSON) | its length, SHA-256, end mark

The list gives name, size, packed size and SHA-256 of each member, in order; the end seals the list.
A reader checks it before it believes a size, takes no name but those below, no link, no folder and
no mode from the file, and stops at the declared size. No other archiver reads or writes this form.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from madang.errors import Corrupt, Rejected, Unavailable
from madang.stores import swap

FORMAT = 1
MAGIC = b"madang-backup/1\n"
_ANY_MAGIC = re.compile(rb"madang-backup/(\d{1,6})\n")
_HASH = re.compile("[0-9a-f]{64}")
_END = struct.Struct(">Q32s16s")
_END_MARK = b"madang-backup-end"[:16]

CHUNK_BYTES = 1 << 18
LIST_BYTES_MAX = 32 << 20
MEMBERS_MAX = 20_000
MEMBER_BYTES_MAX = 1 << 40
PACKED_LEVEL = 1
"""100,000 events, 17 MB of database: 0.09 s at level 1 for 3.2 MB, 0.20 s at level 6 for 2.8."""

STATE = "state.db"
NAMES = re.compile(
    r"state\.db|admin\.key|secret\.key|listen\.json|first-run\.json|gateway/usage\.jsonl"
    r"|gateway/usage-[0-9]+-[0-9]+-[0-9a-f]+\.[0-9]{6}\.log"
    r"|fleet\.json|audit\.key|audit\.pub|blobs/sha256-[0-9a-f]{64}\.json"
)
"""All that a backup may hold; a home is made of nothing else that cannot be made anew."""

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


def untold(_done: int, _whole: int) -> None:
    """Take progress that nobody waits for."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a backup."""

    name: str
    bytes: int
    packed_bytes: int
    sha256: str
    packed_sha256: str
    """Of the packed bytes: some flipped bits unpack to the same, and tell of a failing disk."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a backup says of itself: its members, and what it is a backup of."""

    members: tuple[Member, ...]
    about: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Size of everything in it, unpacked."""
        return sum(member.bytes for member in self.members)


def packed(files: Mapping[str, Path], about: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield a backup of these files piece by piece; each is read as long as it is at first."""
    yield MAGIC
    members = []
    for name, path in files.items():
        assert NAMES.fullmatch(name), name
        try:
            members.append(asdict((yield from _packed(name, path))))
        except FileNotFoundError:
            if not name.startswith("gateway/usage-"):  # else control has taken it meanwhile
                raise
    body = {"format": FORMAT, "members": members, "about": dict(about)}
    content = json.dumps(body, ensure_ascii=True, sort_keys=True).encode()
    yield content
    yield _END.pack(len(content), hashlib.sha256(content).digest(), _END_MARK)


def _packed(name: str, path: Path) -> Generator[bytes, None, Member]:
    seen, sent = hashlib.sha256(), hashlib.sha256()
    packer = zlib.compressobj(PACKED_LEVEL)
    done = packed_bytes = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while done < size and (chunk := file.read(min(CHUNK_BYTES, size - done))):
            seen.update(chunk)
            done += len(chunk)
            if piece := packer.compress(chunk):
                packed_bytes += len(piece)
                sent.update(piece)
                yield piece
    piece = packer.flush()
    packed_bytes += len(piece)
    sent.update(piece)
    yield piece
    return Member(name, done, packed_bytes, seen.hexdigest(), sent.hexdigest())


def read(path: Path) -> Listing:
    """Read what a backup says of itself; raises `Rejected` or `Corrupt` with code `backup.*`."""
    with _opened(path) as file:
        return _listing(file, path)


def unpack(path: Path, folder: Path | None, progress: Progress = untold) -> Listing:
    """Check every member against its hash, and write it below a new folder if one is given.

    Files get mode 600 and are on disk when this returns. Raises `Rejected`, `Corrupt` or, where
    the disk does not take it, `Unavailable`.
    """
    with _opened(path) as file:
        listing = _listing(file, path)
        file.seek(len(MAGIC))
        done = 0
        for member in listing.members:
            with _target(folder, member.name) as write:
                for chunk in _unpacked(file, member, path):
                    write(chunk)
                    done += len(chunk)
                    progress(done, listing.bytes)
    return listing


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - see `with`
    except OSError as error:
        raise Rejected("backup.unreadable", str(path), cause=error.strerror or "") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Rejected("backup.not-ours", str(path))
        yield file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _listing(file: BinaryIO, path: Path) -> Listing:
    """Check the two ends of the file and the list between; `file` is at its start."""
    size = os.fstat(file.fileno()).st_size
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        known = _ANY_MAGIC.match(magic)
        if known and int(known[1]) > FORMAT:
            raise Rejected("backup.newer", str(path), found=int(known[1]), known=FORMAT)
        raise Rejected("backup.not-ours", str(path))
    if size < len(MAGIC) + _END.size:
        raise Corrupt("backup.truncated", str(path))
    file.seek(size - _END.size)
    length, digest, mark = _END.unpack(file.read(_END.size))
    if mark != _END_MARK:
        raise Corrupt("backup.truncated", str(path))
    room = size - _END.size - len(MAGIC)
    if length > min(room, LIST_BYTES_MAX):
        raise Corrupt("backup.damaged", str(path), member="list")
    file.seek(size - _END.size - length)
    content = file.read(length)
    if hashlib.sha256(content).digest() != digest:
        raise Corrupt("backup.damaged", str(path), member="list")
    return _parsed(content, room - length, path)


def _parsed(content: bytes, packed_bytes: int, path: Path) -> Listing:
    """Read a list whose hash is right; one that a stranger wrote is still not believed."""
    try:
        body = json.loads(content)
        members = tuple(Member(**each) for each in body["members"][: MEMBERS_MAX + 1])
        about = dict(body["about"])
        names = [str(member.name) for member in members]
        sizes = [n for m in members for n in (m.bytes, m.packed_bytes)]
        fits = (
            len(members) <= MEMBERS_MAX
            and len(set(names)) == len(names)
            and all(NAMES.fullmatch(name) for name in names)
            and all(type(n) is int and 0 <= n <= MEMBER_BYTES_MAX for n in sizes)
            and all(_HASH.fullmatch(str(h)) for m in members for h in (m.sha256, m.packed_sha256))
            and sum(member.packed_bytes for member in members) == packed_bytes
            and STATE in names
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Rejected("backup.not-ours", str(path)) from error
    if not fits:
        raise Rejected("backup.not-ours", str(path))
    return Listing(members, about)


def _unpacked(file: BinaryIO, member: Member, path: Path) -> Iterator[bytes]:
    """Yield what a member holds; never more than it declared."""
    unpacker, seen, sent = zlib.decompressobj(), hashlib.sha256(), hashlib.sha256()
    left, missing = member.packed_bytes, member.bytes
    wrong = Corrupt("backup.damaged", str(path), member=member.name)
    while left and (piece := file.read(min(CHUNK_BYTES, left))):
        left -= len(piece)
        sent.update(piece)
        for chunk in _inflated(unpacker, piece, wrong):
            missing -= len(chunk)
            if missing < 0:
                raise wrong
            seen.update(chunk)
            yield chunk
    if missing or unpacker.unused_data or not unpacker.eof:
        raise wrong
    if (seen.hexdigest(), sent.hexdigest()) != (member.sha256, member.packed_sha256):
        raise wrong


def _inflated(unpacker: Any, piece: bytes, wrong: Corrupt) -> Iterator[bytes]:
    """Yield what one piece unpacks to, in chunks of bounded size."""
    while True:
        try:
            chunk = unpacker.decompress(piece, CHUNK_BYTES)
        except zlib.error as error:
            raise wrong from error
        yield chunk
        piece = unpacker.unconsumed_tail
        if not piece and len(chunk) < CHUNK_BYTES:
            return


@contextmanager
def _target(folder: Path | None, name: str) -> Iterator[Callable[[bytes], object]]:
    if folder is None:
        yield len
        return
    path = folder / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file.write
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise Unavailable("backup.write-failed", str(path), cause=error.strerror or "") from error


@contextmanager
def keeping(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Take a backup piece by piece into a file that has its name once all of it was checked.

    Mode 600, on disk when the block has ended. Raises `Rejected` with code `backup.exists`, what
    `read` raises for pieces that are no backup, or `Unavailable`.
    """
    refuse_existing(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield lambda piece: _write(file, piece)
                file.flush()
                os.fsync(file.fileno())
            unpack(part, None)
            refuse_existing(path)
            part.rename(path)
            swap.sync(path.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable("backup.write-failed", str(path), cause=error.strerror or "") from error


def _write(file: BinaryIO, piece: bytes) -> None:
    file.write(piece)


def refuse_existing(path: Path) -> None:
    """Raise `Rejected` where that name is taken, be it by a broken link."""
    if os.path.lexists(path):
        raise Rejected("backup.exists", str(path))
