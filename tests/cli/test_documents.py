"""YAML on disk: a folder is one apply, in the order of its paths; mistakes have their place."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from madang.cli import documents
from madang.cli.documents import path_of, read, write
from madang.errors import Conflict, Rejected


def put(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path = path.with_name(path.name + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def refused(source: Path) -> Rejected:
    with pytest.raises(Rejected) as error:
        read(str(source))
    return error.value


def test_a_folder_is_read_with_all_below_it_in_the_order_of_its_paths(tmp_path: Path) -> None:
    put(tmp_path, b="name: b1\n---\nname: b2\n", a__z="name: z\n", a__c__d="# none\n")
    (tmp_path / "notes.txt").write_text("not: [yaml")
    put(tmp_path, **{".git__x": "not: [yaml"})
    found = [(d.value["name"], Path(d.file).name, d.line) for d in read(str(tmp_path))]
    assert found == [("z", "z.yaml", 1), ("b1", "b.yaml", 1), ("b2", "b.yaml", 3)]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "real", a="name: a\n")
    put(tmp_path / "elsewhere", b="name: b\n")
    (tmp_path / "real" / "b.yaml").symlink_to(tmp_path / "elsewhere" / "b.yaml")
    (tmp_path / "real" / "c").symlink_to(tmp_path / "elsewhere")
    assert [d.value["name"] for d in read(str(tmp_path / "real"))] == ["a"]


def test_a_mistake_in_yaml_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    put(tmp_path, a="name: a\n", b="name: b\nneeds: {memory: 1GB\n")
    error = refused(tmp_path)
    assert (error.code, error.subject) == ("apply.not-yaml", str(tmp_path / "b.yaml"))
    assert error.values["line"] in {2, 3}


@pytest.mark.parametrize("text", ["\x00", "a: \x07", "!!python/object:os.x {}", "- [" * 2000])
def test_what_yaml_does_not_take_is_refused(tmp_path: Path, text: str) -> None:
    assert refused(put(tmp_path, a=text)).code == "apply.not-yaml"


def test_a_folder_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, a="name: a\n", b="name: b\n", c="name: c\n")
    with monkeypatch.context() as patched:
        patched.setattr(documents, "BODY_BYTES_MAX", 20)
        assert refused(tmp_path).code == "apply.too-large"
    monkeypatch.setattr(documents, "FILES_MAX", 2)
    assert refused(tmp_path).code == "apply.too-many-files"
    assert refused(put(tmp_path / "empty", a="# nothing\n")).code == "apply.empty"
    assert refused(tmp_path / "absent").code == "apply.unreadable"


def test_a_refusal_is_placed_by_number_or_by_what_it_is_about(tmp_path: Path) -> None:
    text = "kind: service\nname: a\n---\nkind: project\nname: acme/lab\n"
    found = read(str(put(tmp_path, a=text)))
    by_number = Rejected("manifest.unknown-kind", document=2)
    by_subject = Conflict("resource.being-deleted", "project/lab")
    neither = Rejected("api.body-cut")
    for error in (by_number, by_subject, neither):
        documents.blame(error, found)
    file = str(tmp_path / "a.yaml")
    assert (by_number.values["file"], by_number.values["line"]) == (file, 4)
    assert (by_subject.values["file"], by_subject.values["line"]) == (file, 4)
    assert "file" not in neither.values


def test_every_object_has_a_file_of_its_own_in_its_project() -> None:
    assert str(path_of("organization", "acme", "acme")) == "acme/organization.yaml"
    assert str(path_of("user", "acme", "kim")) == "acme/user.kim.yaml"
    assert str(path_of("site", "", "acme")) == "site.acme.yaml"
    assert str(path_of("project", "서울시/민원", "민원")) == "서울시/민원/project.yaml"
    assert str(path_of("model", "서울시/민원", "라마")) == "서울시/민원/model.라마.yaml"


@pytest.mark.parametrize(("kind", "project", "name"), [
    ("service", "acme/lab", "../x"), ("service", "../..", "x"), ("service", "acme/lab", "a/b"),
    ("service", "/etc", "x"), ("../x", "acme/lab", "x"), ("service", "acme/lab", ""),
    ("service", "acme/lab", normalize("NFD", "민원")),
    ("service", "acme//lab", "x"), ("service", "a/b", ".git"),
])  # fmt: skip
def test_no_name_from_outside_leads_out_of_the_folder(kind: str, project: str, name: str) -> None:
    with pytest.raises(Rejected) as error:
        path_of(kind, project, name)
    assert error.value.code == "export.bad-name"


def test_writing_again_touches_nothing_and_removes_what_is_gone(tmp_path: Path) -> None:
    bodies = {path_of("service", "a/b", n): {"kind": "service", "name": n} for n in ("x", "마당")}
    assert write(tmp_path, bodies) == (2, 0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.yaml")}
    assert write(tmp_path, bodies) == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.yaml")} == before
    put(tmp_path, mine="kind: service\nname: mine\n")
    bodies.pop(path_of("service", "a/b", "x"))
    assert write(tmp_path, bodies) == (0, 1)
    assert sorted(p.name for p in tmp_path.rglob("*.yaml")) == ["mine.yaml", "service.마당.yaml"]


def test_a_file_of_somebody_else_is_never_overwritten(tmp_path: Path) -> None:
    path = path_of("service", "a/b", "x")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("mine")
    with pytest.raises(Rejected) as error:
        write(tmp_path, {path: {"kind": "service", "name": "x"}})
    assert error.value.code == "export.not-ours"
    assert (tmp_path / path).read_text() == "mine"


def test_a_day_is_read_as_it_is_written(tmp_path: Path) -> None:
    put(tmp_path, a="from: 2026-12-01\nuntil: '2027-03-01'\ncount: 8\nat: 2026-12-01 10:00:00\n")
    (found,) = read(str(tmp_path))
    assert found.value == {
        "from": "2026-12-01", "until": "2027-03-01", "count": 8, "at": "2026-12-01 10:00:00",
    }  # fmt: skip
