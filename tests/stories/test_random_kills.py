"""Fifty times one of Madang's processes dies at a random moment while everybody is busy."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from madang.testing.ordeal import Ordeal

KILLS = 50
pytestmark = [pytest.mark.story, pytest.mark.timeout(900)]


def test_nothing_acknowledged_is_lost_and_all_comes_back(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    ordeal = Ordeal(tmp_path / "home", seed)
    rounds = []
    try:
        ordeal.begin()
        while len(rounds) < KILLS and not (rounds and rounds[-1].wrong):
            rounds.append(ordeal.kill())
    finally:
        account = ordeal.close()
    told = ", ".join(f"{each.victim} {each.converged_s:.1f} s" for each in rounds)
    print(f"seed {seed}: {ordeal.ledger.acknowledged} acknowledged; {told}")
    assert account == []
    assert [(each.victim, each.wrong) for each in rounds if each.wrong] == []
    assert ordeal.ledger.acknowledged > KILLS
    assert len(ordeal.completed) > KILLS
