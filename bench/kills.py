"""kill -9, a thousand times: most at any step of control, the rest among all under load."""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from madang.testing.deeds import DEEDS
from madang.testing.ordeal import Ordeal, Round
from madang.testing.trials import Outcome, Trials
from rows import Row

CONTROL_KILLS = 850
"""Of control alone, on a node of paper: half at a step, half at any moment."""
REAL_KILLS = 150
"""Of control, gateway, engines and supervisor, as real processes under load."""
SEED = 20261126
STEPS_MAX = 36
LIFE_S_MAX = 0.3
WRONG = ("lost", "doubled", "leaked", "torn", "different", "stuck")


def kill_control(folder: Path, chance: random.Random) -> list[Outcome]:
    """Kill control at random steps and moments of random deeds."""
    trials, outcomes = Trials(folder), list[Outcome]()
    while len(outcomes) < CONTROL_KILLS:
        deed = chance.randrange(len(DEEDS))
        if chance.random() < 0.5:
            outcome = trials.killed(deed, at=chance.randint(1, STEPS_MAX))
        else:
            outcome = trials.killed(deed, kill_after_s=chance.uniform(0.0, LIFE_S_MAX))
        if outcome.step or outcome.wrong:  # else it had lived to its end
            outcomes.append(outcome)
        if outcome.wrong:
            print(DEEDS[deed].name, outcome, file=sys.stderr)
    trials.close()
    return outcomes


def kill_all(folder: Path) -> tuple[Ordeal, list[Round], list[str]]:
    """Kill real processes under load."""
    ordeal, rounds = Ordeal(folder / "home", SEED), list[Round]()
    try:
        ordeal.begin()
        for _ in range(REAL_KILLS):
            rounds.append(ordeal.kill())
            if rounds[-1].wrong:
                print(rounds[-1], file=sys.stderr)
    finally:
        account = ordeal.close()
    return ordeal, rounds, account


def run() -> list[Row]:
    """Return the rows of both."""
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = kill_control(Path(folder) / "trials", chance)
        ordeal, rounds, account = kill_all(Path(folder))
        uncounted = len(ordeal.uncounted())
    wrong = [each for one in (*outcomes, *rounds) for each in one.wrong] + account
    kinds = Counter(each.partition(":")[0] for each in wrong)
    converged = sorted(each.converged_s for each in rounds)
    acknowledged = ordeal.ledger.acknowledged + sum(each.acked for each in outcomes)
    return [
        Row("kill -9", len(outcomes) + len(rounds), "kills", 1000, lower_is_better=False),
        Row("writes acknowledged before a kill", acknowledged, "writes", lower_is_better=False),
        *(Row(f"after a kill: {kind}", kinds[kind], "", 0.0, 0.0) for kind in WRONG),
        Row("back after a kill, under load, p50", round(converged[len(converged) // 2], 2), "s"),
        Row("back after a kill, under load, p95", round(converged[-len(converged) // 20], 2), "s"),
        Row("answers counted for certain", len(ordeal.completed) - uncounted, "requests"),
        Row("answers not counted: a gateway died within the second", uncounted, "requests"),
    ]
