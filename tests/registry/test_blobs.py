"""Files by digest, left where they lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from madang.errors import Corrupt, MadangError, Unavailable
from madang.registry import blobs as room
from madang.registry.blobs import FileBlobs, Progress, digest_of, ignore_progress

CONTENT = b"weights" * 1000


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_found_again_by_its_digest(blobs: FileBlobs, source: Path) -> None:
    digest, size_bytes = blobs.add(source)
    assert digest == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert size_bytes == len(CONTENT)
    assert blobs.add(source) == (digest, size_bytes)
    assert blobs.path(digest) == source


def test_a_link_is_recorded_as_what_it_leads_to(blobs: FileBlobs, source: Path) -> None:
    link = source.with_name("link")
    link.symlink_to(source)
    digest, _ = blobs.add(link)
    link.unlink()
    assert blobs.path(digest) == source


def test_an_untouched_file_is_not_read_again(
    blobs: FileBlobs, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, _ = blobs.add(source)
    monkeypatch.setattr(room, "digest_of", lambda *_: pytest.fail("it was read"))
    assert blobs.path(digest) == source


def test_a_touched_file_is_read_once_more_and_trusted_again(
    blobs: FileBlobs, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, _ = blobs.add(source)
    os.utime(source, (1, 1))
    assert blobs.path(digest) == source
    monkeypatch.setattr(room, "digest_of", lambda *_: pytest.fail("it was read"))
    assert blobs.path(digest) == source


def gladly() -> bool:
    return True


def until_ctime_differs(source: Path, act: Callable[[], object]) -> None:
    """Act, again where a disk's clock is coarse: what comes soon after has the same time there."""
    before = source.stat().st_ctime_ns
    while source.stat().st_ctime_ns == before:
        act()


def link_once_more(source: Path) -> None:
    backup = source.with_name("backup")
    backup.unlink(missing_ok=True)
    backup.hardlink_to(source)


def change_content(source: Path) -> None:
    source.write_bytes(CONTENT.swapcase())


def cut(source: Path) -> None:
    status = source.stat()
    os.truncate(source, 10)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove(source: Path) -> None:
    source.unlink()


def replace_by_folder(source: Path) -> None:
    source.unlink()
    source.mkdir()


@pytest.mark.parametrize(("harm", "code"), [
    (change_content, "blob.changed"), (cut, "blob.changed"), (remove, "blob.missing"),
    (replace_by_folder, "blob.missing"),
])  # fmt: skip
def test_what_is_no_longer_the_same_file_is_never_handed_out(
    blobs: FileBlobs, source: Path, harm: object, code: str
) -> None:
    digest, _ = blobs.add(source)
    os.utime(source, (1, 1))
    blobs.path(digest)
    assert callable(harm)
    harm(source)
    for _ in range(2):
        with pytest.raises(Unavailable) as refusal:
            blobs.path(digest)
        assert refusal.value.code == code
        assert refusal.value.values["path"] == str(source)


def test_a_file_that_comes_back_is_served_again(blobs: FileBlobs, source: Path) -> None:
    digest, _ = blobs.add(source)
    source.unlink()
    with pytest.raises(Unavailable):
        blobs.path(digest)
    moved = source.with_name("elsewhere")
    moved.write_bytes(CONTENT)
    assert blobs.add(moved)[0] == digest
    assert blobs.path(digest) == moved


def test_removing_forgets_the_record_and_leaves_the_file(blobs: FileBlobs, source: Path) -> None:
    digest, _ = blobs.add(source)
    blobs.remove(digest)
    blobs.remove(digest)
    assert source.read_bytes() == CONTENT
    with pytest.raises(Unavailable) as refusal:
        blobs.path(digest)
    assert refusal.value.code == "blob.missing"


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../etc/passwd", "../x", "a" * 64])
def test_what_is_no_digest_names_nothing(blobs: FileBlobs, tmp_path: Path, digest: str) -> None:
    (tmp_path / "x.json").write_text("{}")
    blobs.remove(digest)
    assert (tmp_path / "x.json").exists()
    with pytest.raises(Unavailable) as refusal:
        blobs.path(digest)
    assert refusal.value.code == "blob.missing"


@pytest.mark.parametrize("written", ["", "{", "[]", "{}", '{"path": 1, "extra": 2}'])
def test_a_damaged_record_is_corrupt(
    blobs: FileBlobs, source: Path, tmp_path: Path, written: str
) -> None:
    digest, _ = blobs.add(source)
    (record,) = (tmp_path / "blobs").iterdir()
    record.write_text(written)
    with pytest.raises(Corrupt) as refusal:
        blobs.path(digest)
    assert refusal.value.code == "blob.record-damaged"


def test_a_record_that_cannot_be_written_is_unavailable(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MadangError) as refusal:
        FileBlobs(tmp_path / "file").add(source)
    assert isinstance(refusal.value, Unavailable)
    assert refusal.value.code == "blob.write-failed"


def test_a_start_lets_go_of_what_nobody_names_and_of_what_a_crash_left(
    blobs: FileBlobs, source: Path, tmp_path: Path
) -> None:
    digest, _ = blobs.add(source)
    other = tmp_path / "other"
    other.write_bytes(b"other weights")
    forgotten, _ = blobs.add(other)
    part = tmp_path / "blobs" / "sha256-0.1.part"
    part.write_text("{")
    blobs.keep_only({digest})
    assert blobs.path(digest) == source
    with pytest.raises(Unavailable, match=r"blob\.missing"):
        blobs.path(forgotten)
    assert not part.exists()
    assert other.exists(), "the file itself is not ours"


def test_a_record_that_cannot_be_written_leaves_no_part(
    blobs: FileBlobs, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match=r"blob\.write-failed"):
        blobs.add(source)
    assert list((tmp_path / "blobs").iterdir()) == []


def test_other_bytes_of_the_same_size_and_time_are_seen_for_what_they_are(
    blobs: FileBlobs, source: Path
) -> None:
    digest, _ = blobs.add(source)
    blobs.check(digest, gladly)
    before = source.stat()
    source.write_bytes(CONTENT[::-1])
    until_ctime_differs(
        source, lambda: os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    )
    for look in (lambda: blobs.check(digest, gladly), lambda: blobs.path(digest)):
        with pytest.raises(Unavailable, match=r"blob\.changed"):
            look()
    source.unlink()
    with pytest.raises(Unavailable, match=r"blob\.missing"):
        blobs.check(digest, gladly)


def test_a_file_that_got_another_link_is_read_once_and_found_to_be_what_it_was(
    blobs: FileBlobs, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, _ = blobs.add(source)
    until_ctime_differs(source, lambda: link_once_more(source))
    read: list[str] = []

    def counted(file: BinaryIO, progress: Progress = ignore_progress) -> str:
        read.append(file.name)
        return digest_of(file, progress)

    monkeypatch.setattr(room, "digest_of", counted)
    for _ in range(2):
        blobs.check(digest, gladly)
    assert read == [str(source)]


@pytest.mark.parametrize("harm", [change_content, cut])
def test_a_file_of_another_size_or_time_is_not_read_to_be_looked_at(
    blobs: FileBlobs, source: Path, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, _ = blobs.add(source)
    os.utime(source, (1, 1))
    blobs.path(digest)
    harm(source)
    monkeypatch.setattr(room, "digest_of", lambda *_: pytest.fail("it was read"))
    with pytest.raises(Unavailable, match=r"blob\.touched"):
        blobs.check(digest, gladly)


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_look_at_a_file_ends_when_its_time_is_over(
    blobs: FileBlobs, source: Path, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, _ = blobs.add(source)
    until_ctime_differs(source, lambda: source.chmod(0o400))
    monkeypatch.setattr(room, "CHUNK_BYTES", 1000)
    asked: list[None] = []

    def may_read() -> bool:
        asked.append(None)
        return len(asked) <= chunks

    with pytest.raises(Unavailable, match=r"blob\.touched"):
        blobs.check(digest, may_read)
    assert len(asked) == chunks + 1
    assert blobs.path(digest) == source
