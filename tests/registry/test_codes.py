"""Programs that go along with jobs: the same files, the same digest; nothing hostile gets out."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from madang.cli.code import bring, names_a_file, pack
from madang.cli.documents import Document
from madang.errors import Rejected
from madang.registry import codes as room
from madang.registry.codes import FileCodes

LAB = "acme/lab"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "program"
    (folder / "package").mkdir(parents=True)
    (folder / "train.py").write_text("print(1)")
    (folder / "package" / "모델.py").write_bytes(bytes(range(256)))
    (folder / "run.sh").write_text("true")
    (folder / "run.sh").chmod(0o755)
    for name in (".git/config", ".venv/bin/python", "package/__pycache__/a.pyc", ".env"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not of the program")
    return folder


def names(folder: Path) -> list[str]:
    plain = zlib.decompress(base64.b64decode(pack(folder).text))
    return [name for name, _, _ in json.loads(plain)["files"]]


def test_what_is_packed_is_what_lies_there_later(program: Path, tmp_path: Path) -> None:
    codes, found = FileCodes(tmp_path / "codes"), pack(program)
    assert not codes.has(LAB, found.digest)
    codes.add(LAB, found.digest, found.text)
    codes.add(LAB, found.digest, found.text)
    assert codes.has(LAB, found.digest)
    assert not codes.has("acme/room", found.digest), "what others have sent is theirs"
    folder = codes.folder(LAB, found.digest)
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert files["package/모델.py"].read_bytes() == bytes(range(256))
    assert {name: p.stat().st_mode & 0o777 for name, p in files.items()} == {
        "package/모델.py": 0o644, "run.sh": 0o755, "train.py": 0o644,
    }  # fmt: skip
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_the_same_files_have_the_same_digest_whenever_they_were_written(
    program: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    for name in ("train.py", "run.sh", "package/모델.py"):
        (again / name).parent.mkdir(parents=True, exist_ok=True)
        (again / name).write_bytes((program / name).read_bytes())
    (again / "run.sh").chmod(0o700)
    os.utime(again / "train.py", (0, 0))
    assert pack(again).digest == pack(program).digest
    (again / "train.py").write_text("print(2)")
    assert pack(again).digest != pack(program).digest


def test_a_madangignore_leaves_out_what_it_names(program: Path) -> None:
    (program / "data").mkdir()
    (program / "data" / "large").touch()
    (program / "package" / "notes.txt").touch()
    (program / ".madangignore").write_text("# no program\ndata/\n/package/*.txt\n\n")
    assert names(program) == [".madangignore", "package/모델.py", "run.sh", "train.py"]


def test_links_go_along_as_what_they_name_and_never_lead_out(program: Path) -> None:
    (program / "again.py").symlink_to("train.py")
    assert "again.py" in names(program)
    for there in ("/etc/passwd", "..", "nowhere", "package"):
        (program / "out").symlink_to(there)
        with pytest.raises(Rejected) as told:
            pack(program)
        assert (told.value.code, told.value.subject) == ("code.link-out", "out")
        (program / "out").unlink()


def test_too_much_is_refused_before_it_is_sent(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program / "random").write_bytes(os.urandom(3_000_000))
    with pytest.raises(Rejected) as told:
        pack(program)
    assert told.value.code == "code.too-large"
    (program / "random").unlink()
    monkeypatch.setattr("madang.cli.code.FILES_MAX", 2)
    with pytest.raises(Rejected) as told:
        pack(program)
    assert told.value.code == "code.too-many-files"


def packed(plain: bytes) -> tuple[str, str]:
    digest = f"sha256:{hashlib.sha256(plain).hexdigest()}"
    return digest, base64.b64encode(zlib.compress(plain)).decode()


def files(*listed: Any) -> bytes:
    return json.dumps({"form": 1, "files": listed}).encode()


HOSTILE: dict[str, bytes] = {
    "up": files(["../out", "", ""]),
    "up below": files(["a/../../out", "", ""]),
    "absolute": files(["/tmp/out", "", ""]),
    "nothing": files(["", "", ""]),
    "here": files(["./a", "", ""]),
    "acts on terminals": files(["a\x1b[2J", "", ""]),
    "null": files(["a\0b", "", ""]),
    "no text": files(["a\ud800", "", ""]),
    "long": files(["a/" * 300 + "a", "", ""]),
    "long name": files(["a" * 300, "", ""]),
    "twice": files(["a", "", ""], ["a", "", ""]),
    "file and folder": files(["a", "", ""], ["a/b", "", ""]),
    "mode": files(["a", "link", "L2V0Yw=="]),
    "no base64": files(["a", "", "?"]),
    "too few": files(["a", ""]),
    "none": files(),
    "no list": b'{"form": 1, "files": {}}',
    "another form": b'{"form": 2, "files": [["a", "", ""]]}',
    "deep": b"[" * 100_000,
    "no JSON": b"\x1f\x8b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_nobody_would_pack_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    codes = FileCodes(tmp_path / "codes")
    with pytest.raises(Rejected):
        codes.add(LAB, *packed(HOSTILE[name]))
    assert list((tmp_path / "codes").glob("*/*")) == []
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_a_bomb_is_never_unpacked(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as told:
        FileCodes(tmp_path).add(LAB, *packed(bytes(200 << 20)))
    assert told.value.code == "code.too-large"


def test_what_is_not_what_it_says_it_is_is_refused(program: Path, tmp_path: Path) -> None:
    codes, found = FileCodes(tmp_path / "codes"), pack(program)
    more = base64.b64encode(base64.b64decode(found.text) + b"more").decode()
    for digest, text in (
        (f"sha256:{'0' * 64}", found.text), (found.digest, found.text[:-8]), (found.digest, "?"),
        (found.digest, more),
    ):  # fmt: skip
        with pytest.raises(Rejected):
            codes.add(LAB, digest, text)
    assert not codes.has(LAB, "../../etc")


def test_what_no_job_names_goes_after_a_while(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, found = FileCodes(tmp_path / "codes"), pack(program)
    codes.add(LAB, found.digest, found.text)
    codes.keep_only(set())
    assert codes.has(LAB, found.digest), "its job may be on the way"
    monkeypatch.setattr(room, "KEPT_S", -60.0)
    codes.keep_only({(LAB, found.digest)})
    assert codes.has(LAB, found.digest)
    codes.keep_only({("acme/room", found.digest)})
    assert not codes.has(LAB, found.digest)


def test_a_folder_goes_along_where_the_command_names_something_in_it(program: Path) -> None:
    for words, is_named in (
        (["python", "train.py"], True), (["python", "-m", "package.모델"], True),
        (["python", "-m", "train"], True), (["sleep", "2"], False), (["sh", "run.sh"], True),
        (["python", str(program / "train.py")], False), (["ls", "-l"], False),
    ):  # fmt: skip
        assert names_a_file(words, program) == is_named, words


def test_paths_of_a_document_are_meant_from_where_it_stands(program: Path) -> None:
    file = str(program / "madang.yaml")
    job = {"kind": "job", "name": "a", "command": "python train.py"}
    told, sent = bring([
        Document({"kind": "volume", "name": "v", "path": "."}, file, 1),
        Document({"kind": "volume", "name": "w", "path": "/srv"}, file, 1),
        Document(job, file, 1), Document({**job, "code": ""}, file, 1),
        Document({**job, "command": "true"}, file, 1),
        Document({**job, "code": "package", "project": LAB}, file, 1),
        Document(job, "-", 1), Document(7, file, 1),
    ])  # fmt: skip
    values = [document.value for document in told]
    assert [values[0]["path"], values[1]["path"]] == [str(program), "/srv"]
    assert values[2]["code"] == pack(program).digest
    assert (values[3]["code"], values[4].get("code")) == ("", None)
    assert values[5]["code"] == pack(program / "package").digest
    assert (values[6], values[7]) == (job, 7)
    assert sent == [("", pack(program)), (LAB, pack(program / "package"))]
