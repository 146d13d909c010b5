"""kill -9, a thousand times: most at any step of control, over both databases; then under load."""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from madang.testing.deeds import DEEDS
from madang.testing.ordeal import Ordeal, Round
from madang.testing.postgres import running
from madang.testing.trials import Outcome, Trials
from rows import Row

CONTROL_KILLS = 750
"""Of control alone, on a node of paper: half at a step, half at any moment."""
DATABASE_KILLS = 100
"""The same with the state in PostgreSQL, a copy of a database for each."""
REAL_KILLS = 150
"""Of control, gateway, engines and supervisor, as real processes under load."""
OVER = "over PostgreSQL"
SEED = 20261126
STEPS_MAX = 36
LIFE_S_MAX = 0.3
WRONG = ("lost", "doubled", "leaked", "torn", "different", "stuck")


def kill_control(trials: Trials, kills: int, chance: random.Random) -> list[Outcome]:
    """Kill control at random steps and moments of random deeds."""
    outcomes = list[Outcome]()
    while len(outcomes) < kills:
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


def _kinds(trials: Iterable[Outcome | Round]) -> Iterator[str]:
    """Say of what kind each thing was that went wrong."""
    return (each.partition(":")[0] for one in trials for each in one.wrong)


def run() -> list[Row]:
    """Return the rows of both."""
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder, running() as server:
        outcomes = kill_control(Trials(Path(folder) / "trials"), CONTROL_KILLS, chance)
        there = Trials(Path(folder) / "database", server)
        in_database = kill_control(there, DATABASE_KILLS, chance)
        ordeal, rounds, account = kill_all(Path(folder))
        uncounted = len(ordeal.uncounted())
    kinds = Counter(_kinds((*outcomes, *in_database, *rounds)))
    kinds.update(each.partition(":")[0] for each in account)
    there_kinds = Counter(_kinds(in_database))
    converged = sorted(each.converged_s for each in rounds)
    trials = [*outcomes, *in_database]
    acknowledged = ordeal.ledger.acknowledged + sum(each.acked for each in trials)
    acknowledged_there = sum(each.acked for each in in_database)
    mended = sorted(each.recovery_s for each in in_database)
    return [
        Row("kill -9", len(trials) + len(rounds), "kills", 1000, lower_is_better=False),
        Row("writes acknowledged before a kill", acknowledged, "writes", lower_is_better=False),
        *(Row(f"after a kill: {kind}", kinds[kind], "", 0.0, 0.0) for kind in WRONG),
        Row(
            f"{OVER}: kill -9 of control",
            len(in_database),
            "kills",
            DATABASE_KILLS,
            lower_is_better=False,
        ),
        Row(
            f"{OVER}: writes acknowledged before a kill",
            acknowledged_there,
            "writes",
            lower_is_better=False,
        ),
        *(Row(f"{OVER}: after a kill: {kind}", there_kinds[kind], "", 0.0, 0.0) for kind in WRONG),
        Row(f"{OVER}: the life that mends all, p50", round(mended[len(mended) // 2], 2), "s"),
        Row("back after a kill, under load, p50", round(converged[len(converged) // 2], 2), "s"),
        Row("back after a kill, under load, p95", round(converged[-len(converged) // 20], 2), "s"),
        Row("answers counted for certain", len(ordeal.completed) - uncounted, "requests"),
        Row("answers not counted: a gateway died within the second", uncounted, "requests"),
    ]
