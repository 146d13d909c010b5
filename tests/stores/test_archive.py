"""A backup that is cut, changed, made by a stranger or by a later Madang is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from madang.errors import Corrupt, MadangError, Rejected
from madang.stores import archive

DIGEST = "b" * 64
CONTENT = {"state.db": b"state" * 90_000, "secret.key": b"s\n", f"blobs/sha256-{DIGEST}.json": b""}


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A backup of three members."""
    files = {}
    for number, (name, content) in enumerate(CONTENT.items()):
        files[name] = tmp_path / f"source-{number}"
        files[name].write_bytes(content)
    with archive.keeping(tmp_path / "taken") as write:
        for piece in archive.packed(files, {"term": 3}):
            write(piece)
    return tmp_path / "taken"


def refusal(path: Path) -> MadangError:
    with pytest.raises(MadangError) as refused:
        archive.unpack(path, None)
    return refused.value


def sealed(members: Any, packed: bytes = b"", **more: Any) -> bytes:
    """Return a backup with any list at all, whose seals are right."""
    body = {"format": 1, "members": members, "about": {}, **more}
    content = json.dumps(body).encode()
    seal = archive._END.pack(len(content), hashlib.sha256(content).digest(), archive._END_MARK)
    return archive.MAGIC + packed + content + seal


def member(name: str = "state.db", content: bytes = b"x", **more: Any) -> dict[str, Any]:
    packed = zlib.compress(content)
    return {"name": name, "bytes": len(content), "packed_bytes": len(packed),
            "sha256": hashlib.sha256(content).hexdigest(),
            "packed_sha256": hashlib.sha256(packed).hexdigest(), **more}  # fmt: skip


def test_what_was_packed_comes_out_as_it_was_and_is_private(taken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    listing = archive.unpack(taken, folder)
    assert listing.about == {"term": 3}
    assert {m.name: (folder / m.name).read_bytes() for m in listing.members} == CONTENT
    assert archive.read(taken) == listing
    modes = {p.stat().st_mode & 0o777 for p in [taken, *folder.rglob("*")] if p.is_file()}
    assert modes == {0o600}


def test_a_backup_overwrites_nothing_and_leaves_no_part(taken: Path, tmp_path: Path) -> None:
    before = taken.read_bytes()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("taken", "link"):
        with pytest.raises(Rejected) as refused, archive.keeping(tmp_path / name):
            raise AssertionError("the block is never entered")
        assert refused.value.code == "backup.exists"
    with pytest.raises(Corrupt), archive.keeping(tmp_path / "half") as write:
        write(before[: len(before) // 2])
    with pytest.raises(ZeroDivisionError), archive.keeping(tmp_path / "broken") as write:
        raise ZeroDivisionError
    assert taken.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / "half").exists()


def test_a_file_cut_anywhere_is_refused(taken: Path, tmp_path: Path) -> None:
    whole = taken.read_bytes()
    cut = tmp_path / "cut"
    for length in {0, 1, 15, 16, 17, len(whole) - 1, *range(0, len(whole), 37)}:
        cut.write_bytes(whole[:length])
        expected = "backup.truncated" if length >= len(archive.MAGIC) else "backup.not-ours"
        assert refusal(cut).code == expected, length
    cut.write_bytes(whole + b"x")
    assert refusal(cut).code == "backup.truncated"


def test_any_flipped_bit_is_noticed(taken: Path, tmp_path: Path) -> None:
    whole = taken.read_bytes()
    chance = random.Random(20)
    flipped = tmp_path / "flipped"
    for at in {
        *range(60),
        *range(len(whole) - 60, len(whole)),
        *chance.sample(range(len(whole)), 200),
    }:
        changed = bytearray(whole)
        changed[at] ^= 1 << chance.randrange(8)
        flipped.write_bytes(changed)
        assert refusal(flipped).code.startswith("backup."), at


@pytest.mark.parametrize(("content", "code"), [
    (b"", "backup.not-ours"),
    (b"PK\x03\x04" + b"\0" * 200, "backup.not-ours"),
    (b"SQLite format 3\0" * 20, "backup.not-ours"),
    (b"madang-backup/2\n" + b"\0" * 200, "backup.newer"),
    (b"madang-backup/0\n" + b"\0" * 200, "backup.not-ours"),
])  # fmt: skip
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert refusal(path).code == code


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").code == "backup.not-ours"
    assert refusal(tmp_path).code in {"backup.not-ours", "backup.unreadable"}
    assert refusal(tmp_path / "absent").code == "backup.unreadable"


@pytest.mark.parametrize("change", [
    {"name": "../state.db"}, {"name": "/etc/passwd"}, {"name": "state.db\0"}, {"name": "run/x"},
    {"name": "blobs/../../x.json"}, {"name": "STATE.DB"}, {"name": ""}, {"name": 7},
    {"bytes": -1}, {"bytes": 2**60}, {"bytes": True}, {"packed_bytes": 1.5}, {"sha256": "x"},
    {"mode": 0o777}, {"packed_bytes": 2},
], ids=str)  # fmt: skip
def test_a_list_that_a_stranger_sealed_is_not_believed(
    tmp_path: Path, change: Mapping[str, Any]
) -> None:
    path = tmp_path / "strange"
    packed = zlib.compress(b"x")
    path.write_bytes(sealed([member(), {**member("listen.json"), **change}], packed * 2))
    assert refusal(path).code == "backup.not-ours"
    assert [p.name for p in tmp_path.iterdir()] == ["strange"]


def test_members_come_once_and_the_state_among_them(tmp_path: Path) -> None:
    path = tmp_path / "strange"
    path.write_bytes(sealed([member(), member()], zlib.compress(b"x") * 2))
    assert refusal(path).code == "backup.not-ours"
    path.write_bytes(sealed([member("secret.key")], zlib.compress(b"x")))
    assert refusal(path).code == "backup.not-ours"
    path.write_bytes(sealed(None))
    assert refusal(path).code == "backup.not-ours"
    path.write_bytes(sealed([member()], zlib.compress(b"x"), about=[1]))
    assert refusal(path).code == "backup.not-ours"


def test_a_member_never_unpacks_to_more_than_it_declared(tmp_path: Path) -> None:
    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    path, folder = tmp_path / "bomb", tmp_path / "out"
    folder.mkdir()
    said = {**member(), "bytes": 1000, "packed_bytes": len(bomb)}
    path.write_bytes(sealed([said], bomb))
    with pytest.raises(Corrupt) as refused:
        archive.unpack(path, folder)
    assert refused.value.code == "backup.damaged"
    assert (folder / "state.db").stat().st_size <= archive.CHUNK_BYTES
