"""Control dies, or fails, at every step of everything that people ask of it.

A step lies before and after each commit, each order to the node, each file made durable or renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from madang.testing.deeds import DEEDS
from madang.testing.trials import Outcome, Trials

STEPS_MAX = 200
EVERY = 4
"""Over a database every so many steps are tried, others for each deed."""
NEW = {d.name: number for number, d in enumerate(DEEDS) if not d.known}
DEED = pytest.mark.parametrize("deed", NEW.values(), ids=NEW)
pytestmark = pytest.mark.timeout(180)


def every(trial: Callable[[int], Outcome]) -> Iterator[tuple[int, Outcome]]:
    """Try step after step, until there is none of that number."""
    for step in range(1, STEPS_MAX):
        outcome = trial(step)
        if not outcome.step:
            assert outcome.wrong == []
            return
        yield step, outcome
    raise AssertionError("it never comes to its end")


@DEED
def test_killed_at_any_step_control_comes_back_and_nothing_is_lost_doubled_or_leaked(
    trials: Trials, deed: int
) -> None:
    outcomes = dict(every(lambda step: trials.killed(deed, at=step)))
    assert {step: o.wrong for step, o in outcomes.items() if o.wrong} == {}
    assert len(outcomes) >= 4, "to open the store alone takes as many"


@DEED
def test_the_same_holds_with_its_state_in_postgresql(database_trials: Trials, deed: int) -> None:
    outcomes = {}
    for step in range(1 + deed % EVERY, STEPS_MAX, EVERY):
        outcome = database_trials.killed(deed, at=step)
        if not outcome.step:
            break
        outcomes[step] = outcome
    assert {step: o.wrong for step, o in outcomes.items() if o.wrong} == {}
    assert outcomes


@DEED
def test_an_effect_that_fails_is_made_good_by_the_same_control(trials: Trials, deed: int) -> None:
    outcomes = dict(every(lambda step: trials.failed(deed, step)))
    assert {step: o.wrong for step, o in outcomes.items() if o.wrong} == {}
