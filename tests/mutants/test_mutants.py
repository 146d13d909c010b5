"""The lists of mutants stay true: each edit can still be made, and leaves a program."""

from __future__ import annotations

import ast

import pytest

from .run import ROOT, Mutant, mutants

MUTANTS = mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_every_mutant_can_be_made(mutant: Mutant) -> None:
    ast.parse(mutant.text())
    path, _, name = mutant.test.partition("::")
    assert (ROOT / path).exists()
    assert name.partition("[")[0] in (ROOT / path).read_text()


def test_there_are_enough_of_them_and_no_two_are_the_same() -> None:
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant.text() for mutant in MUTANTS}) == len(MUTANTS)
