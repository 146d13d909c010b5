"""The list of mutants stays true: each edit can still be made, and leaves a program."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())["mutant"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant["name"] for mutant in MUTANTS])
def test_every_mutant_can_be_made(mutant: dict[str, str]) -> None:
    text = (ROOT / mutant["file"]).read_text()
    assert text.count(mutant["old"]) == 1
    ast.parse(text.replace(mutant["old"], mutant["new"]))
    assert (ROOT / mutant["test"]).exists()
