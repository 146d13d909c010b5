"""Grants that are not used: warned of, then given back as far as they are not, each unit once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.planning.test_idle import DAY_S, HOUR_S, Yard, project

from madang.planning.action import Verb
from madang.planning.explain import explain
from madang.planning.grants import guaranteed
from madang.planning.plan import plan
from madang.resources.grant import Grant, GrantPhase
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, grant, job, node, quota, snapshot

G = GrantPhase
OWN = {"below": 0.5, "over": "2d"}
BEGINS = grant().begins


def given(name: str = "burst", count: int = 4, **more: Any) -> Grant:
    """Return a grant that is active."""
    spec = {"count": count, "reclaim": OWN, **more}
    found: Grant = grant(name, **spec).with_status(phase=G.ACTIVE, count=count)
    return found


def uses(count: int, name: str = "train", **more: Any) -> Any:
    return job(name, needs={"accelerator": "nvidia", "count": count}, **more)


def yard(*more: Any, now: float = BEGINS) -> Yard:
    made = Yard(snapshot([project(), project("acme/other")], node("a", cards=8), *more, now=now))
    made.settle(1.0)
    return made


def burst(made: Yard, name: str = "burst") -> Grant:
    return made.snapshot.grants[Ref(PROJECT, name)]


def test_a_grant_that_nobody_uses_is_warned_of_and_then_reclaimed() -> None:
    made = yard(given())
    made.spend(23 * HOUR_S, None)
    assert burst(made).status.phase is G.ACTIVE
    made.spend(2 * HOUR_S, None)
    assert (burst(made).status.phase, made.verbs(Verb.WARN_IDLE)) == (G.WARNED, 1)
    told = explain(burst(made), made.snapshot).reason
    assert told
    assert (told.code, told.values["left"], told.values["used"]) == ("grant.warned-idle", "23h", 0)
    made.spend(22 * HOUR_S, None)
    assert guaranteed(made.snapshot) == {PROJECT: {"nvidia": 4}}
    made.spend(3 * HOUR_S, None)
    assert (burst(made).status.phase, dict(guaranteed(made.snapshot))) == (G.RECLAIMED, {})
    (deed,) = burst(made).status.deeds
    assert (deed.what, deed.by, deed.text) == ("return", "control", "4")
    codes = [each.code for each in explain(burst(made), made.snapshot).findings]
    assert codes == ["grant.deed-return"]


def test_only_the_unused_part_is_given_back_and_once() -> None:
    made = yard(given(count=8), uses(2))
    made.spend(3 * DAY_S, 1.0)
    assert (burst(made).status.phase, burst(made).status.count) == (G.ACTIVE, 2)
    assert made.verbs(Verb.RETURN_GRANT) == 1
    made.spend(10 * DAY_S, 1.0)
    assert burst(made).status.count == 2, "what is left is used"
    assert [deed.text for deed in burst(made).status.deeds] == ["6"]
    assert made.train.status.attempt == 1, "what runs within what is left goes on"


def test_what_was_used_at_most_meanwhile_stays_though_it_is_not_used_any_more() -> None:
    made = yard(given(count=8), uses(2))
    made.spend(DAY_S, 1.0)
    made.spend(2 * DAY_S, 0.0)
    assert burst(made).status.count == 2
    assert made.verbs(Verb.RETURN_GRANT) == 1


def test_what_a_project_uses_of_another_kind_is_no_use_of_a_grant() -> None:
    other = node("b", cards=4, kind="rebellions/atom")
    works = job("works", needs={"accelerator": "rebellions", "count": 4})
    made = yard(given(), other, works)
    assert [held.node for held in made.snapshot.holdings()] == ["b"]
    made.spend(3 * DAY_S, 1.0)
    assert burst(made).status.phase is G.RECLAIMED


def test_control_wakes_to_look_at_a_grant_though_nothing_else_happens() -> None:
    made = yard(given())
    wakes_s = plan(made.snapshot).wake_s
    assert wakes_s is not None
    assert wakes_s <= HOUR_S


def test_what_is_given_back_goes_to_the_next_in_line_once() -> None:
    """The organization may have nothing but what is granted; the other has a grant that is full."""
    other: Grant = grant("next", project="acme/other", count=2).with_status(phase=G.ACTIVE, count=2)
    made = yard(
        given(count=6), other, quota("acme/other", accelerators={"nvidia": 0}),
        quota(accelerators={"nvidia": 0}), uses(6),
        *(uses(2, f"next-{n}", project="acme/other") for n in (1, 2)),
    )  # fmt: skip
    assert [held.node for held in made.snapshot.holdings()] == ["a", "a"]
    made.spend(5 * DAY_S, 0.0)
    assert burst(made).status.phase is G.RECLAIMED
    assert made.newest.status.cause
    assert made.newest.status.cause.code.startswith("quota.")
    running = [a.spec.job for a in made.snapshot.living]
    assert running == ["next-1"], "another's grant is no larger for it"


@pytest.mark.parametrize("busy", [None, 0.6, 1.0])
def test_what_is_used_or_may_be_is_not_idle(busy: float | None) -> None:
    made = yard(given(), uses(4))
    made.spend(20 * DAY_S, busy, step_s=HOUR_S)
    assert (burst(made).status.phase, burst(made).status.count) == (G.ACTIVE, 4)
    assert not made.verbs(Verb.WARN_IDLE)


def test_use_takes_the_warning_back_and_a_renewed_grant_is_renewed_again() -> None:
    renewed: Grant = given().with_status(phase=G.RENEWED, until="2027-06-01")
    made = yard(renewed)
    made.spend(30 * HOUR_S, None)
    assert burst(made).status.phase is G.WARNED
    made.put(uses(4))
    made.spend(5 * HOUR_S, 1.0)
    assert (burst(made).status.phase, made.verbs(Verb.BUSY_AGAIN)) == (G.RENEWED, 1)
    reason = burst(made).status.reason
    assert reason
    assert reason.code == "grant.renewed"


def test_each_accelerator_counts_for_one_grant_and_the_narrowest_comes_first() -> None:
    made = yard(
        given("any", 2), given("these", 2, accelerator="nvidia/h100"), uses(2),
    )  # fmt: skip
    made.spend(5 * DAY_S, 1.0)
    assert burst(made, "these").status.count == 2
    assert burst(made, "these").status.phase is G.ACTIVE
    assert burst(made, "any").status.phase is G.RECLAIMED


@pytest.mark.parametrize("jump_s", [-40 * DAY_S, 60 * DAY_S])
def test_a_clock_that_is_set_reclaims_no_grant(jump_s: float) -> None:
    made = yard(given(**{"from": "2026-11-01", "until": "2028-01-01"}))
    made.spend(20 * HOUR_S, None)
    made.leap(jump_s)
    made.turn()
    made.spend(2 * HOUR_S, None)
    assert not made.verbs(Verb.WARN_IDLE)
    assert not made.verbs(Verb.RETURN_GRANT)


def test_the_time_without_a_control_is_not_idle_and_what_was_before_is_kept() -> None:
    made = yard(given())
    made.spend(20 * HOUR_S, None)
    made.leap(30 * DAY_S)
    made.restart()
    made.spend(3 * HOUR_S, None)
    assert not made.verbs(Verb.WARN_IDLE)
    made.spend(3 * HOUR_S, None)
    assert made.verbs(Verb.WARN_IDLE) == 1


def test_the_policy_of_its_project_holds_for_a_grant_that_has_none_and_words_may_be_all() -> None:
    for policies, spec, expected in [
        ((), None, G.ACTIVE),
        ((quota("acme", reclaim=OWN),), None, G.RECLAIMED),
        ((quota("acme", reclaim=OWN),), {**OWN, "then": "warn"}, G.WARNED),
    ]:
        made = yard(given(reclaim=spec), *policies)
        made.spend(5 * DAY_S, None)
        assert burst(made).status.phase is expected
