"""What a docstring shows is what happens."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import madang

SOURCE = Path(madang.__file__).parent
SHOWN = sorted(path for path in SOURCE.rglob("*.py") if ">>>" in path.read_text())


def named(path: Path) -> str:
    """Return the name by which a file of the source is imported."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("module", [named(path) for path in SHOWN])
def test_every_example_of_a_docstring_is_true(module: str) -> None:
    found = doctest.testmod(import_module(module))
    assert found.attempted, "what looks like an example is none"
    assert not found.failed, "the difference is printed above"
