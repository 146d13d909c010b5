"""The gateway as machine code: never of other files, never half, and with the same classes."""

from __future__ import annotations

import ast
import shutil
import sys
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from madang import compiled


def classes(module: str) -> list[tuple[str, dict[str, object]]]:
    """Return the classes of a module, and what their statements say beside bases."""
    tree = ast.parse(compiled.source(module).read_text(encoding="utf-8"))
    return [
        (each.name, {str(word.arg): ast.literal_eval(word.value) for word in each.keywords})
        for each in tree.body
        if isinstance(each, ast.ClassDef)
    ]


def test_what_was_not_built_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert not compiled.use({})
    with pytest.raises(ImportError, match="make compile"):
        compiled.use({compiled.WANTED: "on"})
    compiled.place().mkdir(parents=True)
    assert not compiled.use({}), "nothing lies there"


def test_another_byte_in_any_file_or_another_python_is_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compiled.place()
    shutil.copytree(compiled.SOURCES, tmp_path / "madang")
    monkeypatch.setattr(compiled, "SOURCES", tmp_path / "madang")
    assert compiled.place() == before
    for name in (*compiled.MODULES, "traffic.table", "months"):
        with compiled.source(name).open("a") as file:
            file.write("\n")
        assert compiled.place() != before
        before = compiled.place()
    monkeypatch.setattr(sys, "version", "4")
    assert compiled.place() != before


@pytest.mark.parametrize("name", compiled.MODULES)
def test_a_class_is_what_its_file_says_also_where_it_was_compiled(name: str) -> None:
    """mypyc passes no words of a class statement on: what msgspec needs, a base must say."""
    module = import_module(f"madang.{name}")
    for each, words in classes(name):
        found = getattr(module, each)
        if isinstance(found, type(msgspec.Struct)):
            config = found.__struct_config__
            for word in words.keys() & set(dir(config)):
                assert getattr(config, word) == words[word], f"{each}: {word}"
            assert "tag" not in words
            assert "array_like" not in words


def test_all_is_loaded_from_what_was_built_or_nothing() -> None:
    found = {str(import_module(f"madang.{name}").__file__) for name in compiled.MODULES}
    machine_code = {file for file in found if file.startswith(str(compiled.place()))}
    assert machine_code == (found if compiled.is_used() else set())
