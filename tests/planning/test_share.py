"""The queue in numbers: shares, budgets, what is learnt, who starts and who makes room."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.planning.share.ledger import Ledger, Shares, Withdrawn
from madang.planning.share.line import Line, by_coming
from madang.planning.share.lives import AGES, CLASSES, EDGES_S, Lives
from madang.planning.share.rule import HOUR_S, RULE
from madang.planning.share.turn import Pool, Why, filled, hope, keys, turn
from madang.planning.share.water import Claims, poured
from madang.testing.examples import examples

DAY_S = 24 * HOUR_S
NEW = {"size": 1, "ran_s": 0.0, "waited_s": 0.0, "unsaved": 0.0, "runs": False, "fixed": False,
       "height": 1, "project": 0}  # fmt: skip


def a_line(*jobs: dict) -> Line:
    """Return jobs that differ from a new one in this, in the order in which they came."""
    rows = [{**NEW, **job} for job in jobs]
    types = {"ran_s": float, "waited_s": float, "unsaved": float, "runs": bool, "fixed": bool}
    return Line(**{name: np.array([row[name] for row in rows], types.get(name, np.int64))
                   for name in NEW})  # fmt: skip


def a_pool(capacity: int, due: tuple[float, ...] = (0.0, 0.0), **claims: list[float]) -> Pool:
    even = Claims.even(len(due))
    given = {name: np.array(values) for name, values in claims.items()}
    return Pool(capacity, replace(even, **given), np.array(due))


def decided(line: Line, pool: Pool):
    return turn(line, pool, Lives.blank(len(pool.guarantees)).worth(line))


RUNS = {"runs": True, "ran_s": HOUR_S}


def test_what_is_guaranteed_comes_first_and_the_rest_goes_by_weight():
    claims = Claims(np.array([1.0, 3.0]), np.array([4.0, 0.0]), np.array([np.inf, np.inf]))
    assert claims.entitled(np.array([9.0, 9.0]), 12.0).tolist() == [6.0, 6.0]


def test_nobody_is_entitled_to_more_than_it_may_hold_or_could_use():
    claims = Claims(np.ones(3), np.zeros(3), np.array([2.0, np.inf, np.inf]))
    assert claims.entitled(np.array([9.0, 1.0, 9.0]), 10.0).tolist() == [2.0, 1.0, 7.0]


def test_promises_above_what_there_is_shrink_alike():
    claims = replace(Claims.even(2), guaranteed=np.array([6.0, 12.0]))
    assert claims.entitled(np.array([20.0, 20.0]), 9.0).tolist() == [3.0, 6.0]


@pytest.mark.parametrize(("demand", "most", "sure", "entitled"), [
    ([2.0, 9.0], [np.inf, np.inf], [2.0, 0.0], [2.0, 6.0]),
    ([9.0, 9.0], [4.0, np.inf], [4.0, 0.0], [4.0, 4.0]),
])  # fmt: skip
def test_nobody_is_promised_what_it_has_no_use_for_or_may_not_hold(
    demand: list[float], most: list[float], sure: list[float], entitled: list[float]
) -> None:
    claims = Claims(np.ones(2), np.array([6.0, 0.0]), np.array(most))
    assert claims.sure(np.array(demand), 8.0).tolist() == sure
    assert claims.entitled(np.array(demand), 8.0).tolist() == entitled


amounts = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 8)), min_size=1, max_size=8)


@settings(derandomize=True, max_examples=examples(200))
@given(amounts, st.integers(0, 200))
def test_water_is_all_poured_none_above_its_room_and_to_one_level(vessels, amount):
    room = np.array([float(r) for r, _ in vessels])
    width = np.array([float(w) for _, w in vessels])
    found = poured(room, width, float(amount))
    assert (found <= room + 1e-9).all()
    assert found.sum() == pytest.approx(min(float(amount), room.sum()))
    level = found / width
    short = found < room - 1e-9
    if short.any():
        assert level[short] == pytest.approx(level.max())


def test_who_lacked_nothing_is_promised_nothing_and_who_lacked_its_budget_all_of_it():
    entitled = np.array([10.0, 10.0, 10.0])
    ledger = Ledger(np.array([0.0, 0.5, 1.0]) * RULE.budget, np.ones(3), np.zeros(3))
    assert ledger.guarantees(entitled).tolist() == pytest.approx([0.0, 0.0, 10.0])
    assert 0.0 < Ledger(np.array([0.1]), np.ones(1), np.zeros(1)).guarantees(entitled[:1])[0] < 10.0


def test_what_is_long_past_counts_for_half():
    now = Shares(np.array([8.0]), np.array([4.0]), np.array([0.0]))
    ledger = Ledger.blank(1).after(HOUR_S, now)
    quiet = Shares(np.zeros(1), np.zeros(1), np.zeros(1))
    assert ledger.after(RULE.half_life_s, quiet).short[0] == pytest.approx(ledger.short[0] / 2)


def test_the_ledger_is_the_same_however_the_time_is_cut():
    now = Shares(np.array([9.0, 3.0]), np.array([5.0, 3.0]), np.array([2.0, 3.0]))
    whole, cut = Ledger.blank(2).after(DAY_S, now), Ledger.blank(2)
    for _ in range(24):
        cut = cut.after(HOUR_S, now)
    assert cut.short == pytest.approx(whole.short)
    assert cut.entitled == pytest.approx(whole.entitled)
    assert cut.each == pytest.approx(whole.each)


def test_who_has_more_than_its_share_lacks_nothing_and_makes_up_for_nothing() -> None:
    short = Shares(np.array([8.0]), np.array([4.0]), np.array([0.0]))
    rich = Shares(np.array([8.0]), np.array([2.0]), np.array([6.0]))
    lacked = Ledger.blank(1).after(1.0, short)
    assert Ledger.blank(1).after(HOUR_S, rich).short.tolist() == [0.0]
    assert lacked.after(1.0, rich).short[0] == pytest.approx(4.0, rel=1e-5)


def test_what_a_project_lacks_is_lost_by_all_that_it_has_waiting_alike() -> None:
    now = Shares(np.array([10.0]), np.array([6.0]), np.array([2.0]))
    assert Ledger.blank(1).after(1.0, now).each[0] == pytest.approx(4 / 8, rel=1e-5)


def test_work_that_is_queued_and_withdrawn_raises_no_guarantee():
    real = Shares(np.array([4.0]), np.array([4.0]), np.array([4.0]))
    fake = Shares(np.array([104.0]), np.array([50.0]), np.array([4.0]))
    before = Ledger.blank(1).after(DAY_S, real)
    claimed = before.after(DAY_S, fake)
    assert claimed.guarantees(np.array([50.0]))[0] > 0
    left = claimed
    for _ in range(100):
        left = left.without(Withdrawn(0, 1, DAY_S, float(before.each[0])))
    assert left.guarantees(np.array([50.0])).tolist() == [0.0]
    assert left.shortfall()[0] == pytest.approx(0.0, abs=1e-9)


def test_who_is_withdrawn_takes_back_what_was_lost_by_its_waiting_and_nothing_else() -> None:
    """By its size, since it came, as far as that still counts; and never more than there is."""
    lacks = Shares(np.array([10.0]), np.array([4.0]), np.array([0.0]))
    quiet = Shares(np.zeros(1), np.zeros(1), np.zeros(1))
    before = Ledger.blank(1).after(DAY_S, lacks)
    came = float(before.each[0])
    later = before.after(RULE.half_life_s, quiet)
    unhurt = later.without(Withdrawn(0, 3, RULE.half_life_s, came))
    assert unhurt.short == pytest.approx(later.short)
    again = before.after(DAY_S, lacks)
    by_one = again
    for _ in range(5):
        by_one = by_one.without(Withdrawn(0, 1, DAY_S, came))
    assert again.without(Withdrawn(0, 5, DAY_S, came)).short == pytest.approx(by_one.short)
    assert again.without(Withdrawn(0, 10**6, DAY_S, came)).short.tolist() == [0.0]


def test_what_is_learnt_changes_nothing_that_was_known_before() -> None:
    known = Lives.blank(1)
    assert known.after(0, 1, 300.0).ended.sum() == 1
    assert known.ended.sum() == 0


def test_nothing_is_ever_taken_to_be_sure() -> None:
    ended = np.zeros((CLASSES, AGES), np.int64)
    ended[0, 5] = 10**6
    assert Lives(ended).hazard(a_line({})).max() == 0.95


def test_what_is_learnt_of_small_jobs_says_little_of_large_ones() -> None:
    lives = Lives.blank(1)
    for _ in range(200):
        lives = lives.after(0, 1, 300.0).after(0, 8, 90 * HOUR_S)
    worth = lives.worth(a_line({}, {"size": 8}))
    assert worth[0, 0] > 10 * worth[2, 0]


def test_what_is_learnt_of_short_jobs_has_their_group_go_first():
    lives = Lives.blank(2)
    for _ in range(200):
        lives = lives.after(0, 1, 300.0).after(1, 1, 90 * HOUR_S)
    line = a_line({"project": 1}, {"project": 0})
    worth = lives.worth(line)
    assert keys(line, worth)[1] > 10 * keys(line, worth)[0]


def test_a_job_that_outlived_its_like_is_worth_less():
    lives = Lives.blank(1)
    for _ in range(200):
        lives = lives.after(0, 1, 300.0)
    line = a_line({"ran_s": 4 * HOUR_S}, {"ran_s": 0.0})
    assert keys(line, lives.worth(line))[1] > keys(line, lives.worth(line))[0]


def test_worth_is_the_best_of_all_ways_to_go_on():
    chance = np.random.default_rng(5)
    lives = Lives(chance.integers(0, 9, (CLASSES, AGES)))
    line = a_line({})
    worth = lives.worth(line)
    reached = lives.ended[0, ::-1].cumsum()[::-1] + (np.arange(AGES) == 0)
    everyone = lives.ended[:, ::-1].cumsum(axis=1)[:, ::-1].sum(axis=0) + (np.arange(AGES) == 0)
    common = (lives.ended.sum(axis=0) + 0.1) / (everyone + 1.0)
    hazard = np.minimum(0.95, (lives.ended[0] + 20 * common) / (reached + 20))
    widths = [*np.diff(EDGES_S), EDGES_S[-1] / 4]
    for age in (0, 17, AGES - 1):
        best, alive, spent = 0.0, 1.0, 0.0
        for at in range(age, AGES):
            spent += alive * widths[at] * (1 - hazard[at] / 2)
            alive *= 1 - hazard[at]
            best = max(best, (1 - alive) / spent)
        assert worth[0, age] == pytest.approx(best)


def test_a_job_keeps_its_place_until_another_counts_for_much_more():
    alike = a_line({**RUNS, "project": 0}, {"project": 1, "ran_s": HOUR_S})
    assert decided(alike, a_pool(1)).preempts == {}
    newer = a_line({**RUNS, "ran_s": 50 * HOUR_S}, {"project": 1})
    assert decided(newer, a_pool(1)).preempts == {0: 1}


def test_of_two_that_could_make_room_the_one_that_just_saved_does():
    runs = {"runs": True, "ran_s": 50 * HOUR_S}
    line = a_line({**runs, "unsaved": 0.01}, {**runs, "unsaved": 0.3}, {"project": 1})
    assert decided(line, a_pool(2)).preempts == {0: 2}


def test_who_may_not_be_asked_stays():
    line = a_line({"runs": True, "ran_s": 50 * HOUR_S, "fixed": True}, {"project": 1})
    found = decided(line, a_pool(1))
    assert (found.starts, found.preempts, found.why.tolist()) == ([], {}, [Why.FIXED, Why.NONE])


def test_a_project_gets_what_it_must_though_others_are_worth_more():
    long = {"project": 1, "ran_s": 90 * HOUR_S}
    line = a_line({}, {}, long, long)
    assert decided(line, a_pool(2)).starts == [0, 1]
    found = decided(line, a_pool(2, (0.0, 1.0)))
    assert sorted(found.starts) == [0, 2]
    assert found.why.tolist() == [Why.WORTH, Why.NONE, Why.GUARANTEED, Why.NONE]


def test_where_not_all_guarantees_fit_who_has_least_by_weight_gets_the_next():
    line = a_line(*({"project": project} for project in (0, 0, 0, 0, 1, 1, 1, 1)))
    found = decided(line, a_pool(3, (4.0, 4.0), weight=[1.0, 2.0]))
    assert line.project[found.starts].tolist().count(1) == 2


def test_of_two_alike_the_smaller_goes_first_though_it_came_later():
    line = a_line({"size": 2}, {"size": 1, "project": 1})
    assert decided(line, a_pool(2)).order.tolist() == [1, 0]


def test_a_gang_larger_than_what_is_left_of_a_guarantee_is_taken_if_half_of_it_is():
    line = a_line({"size": 4, "project": 1}, {"size": 1})
    assert decided(line, a_pool(4, (0.0, 2.0))).why[0] == Why.GUARANTEED
    assert decided(line, a_pool(4, (0.0, 1.5))).why[0] != Why.GUARANTEED


def test_who_waited_too_long_comes_before_all_promises():
    line = a_line({"waited_s": RULE.aged_full_s, "size": 8, "ran_s": 90 * HOUR_S}, {"project": 1})
    found = decided(line, a_pool(8, (0.0, 8.0)))
    assert (found.starts, found.why.tolist()) == ([0], [Why.AGED, Why.NONE])


def test_room_is_kept_for_a_gang_that_waited_too_long_and_does_not_fit_yet():
    held = {"runs": True, "fixed": True, "size": 3, "project": 1}
    waits = {"size": 8, "waited_s": RULE.aged_full_s}
    assert decided(a_line(held, waits, {}), a_pool(8)).starts == []
    assert decided(a_line(held, {**waits, "waited_s": 0.0}, {}), a_pool(8)).starts == [2]


OLD = {"waited_s": RULE.aged_full_s, "ran_s": 90 * HOUR_S}
NEWER = {"project": 1}


def test_age_gives_away_more_of_the_pool_the_longer_some_have_waited_but_never_all_of_it():
    def given(waited_s: float) -> int:
        line = a_line(*[{**OLD, "waited_s": waited_s}] * 40, *[NEWER] * 40)
        return int((decided(line, a_pool(40)).why[:40] == Why.AGED).sum())

    half_s = (RULE.aged_s + RULE.aged_full_s) / 2
    assert given(RULE.aged_s) == 0
    assert given(half_s) == RULE.aged_worth / 2 * 40
    assert given(RULE.aged_full_s) == given(2 * RULE.aged_full_s) == RULE.aged_worth * 40


def test_of_those_who_waited_too_long_some_go_by_when_they_came_and_more_by_worth():
    worse = {**OLD, "project": 1, "ran_s": 900 * HOUR_S}
    line = a_line(*[worse] * 20, *[OLD] * 36, *[NEWER] * 40)
    found = decided(line, a_pool(40)).why == Why.AGED
    # The first of all, too, is of the part that goes by when they came.
    assert found[:20].sum() == RULE.aged_first * 40
    assert found[20:56].sum() == RULE.aged_worth * 40


def test_who_waited_too_long_has_no_room_kept_above_what_age_may_give():
    held = {"runs": True, "fixed": True, "size": 35, "project": 1}
    half_s = (RULE.aged_s + RULE.aged_full_s) / 2
    line = a_line(held, *[{**OLD, "waited_s": half_s, "size": 2}] * 8, NEWER)
    found = decided(line, a_pool(40))
    # Two fit into what is free, the third has what is left kept for it.
    assert found.starts == [1, 2]


LONG = {"waited_s": RULE.aged_s, "ran_s": 90 * HOUR_S}


def test_age_helps_until_who_waited_long_asks_for_more_than_could_go_in_time():
    def hoped(times: float, **job: object) -> float:
        count = 1 + int(40 * times)
        return hope(a_line(*[{**LONG, **job}] * count), a_pool(40, (0.0,)))

    assert hoped(0.0) == hoped(RULE.crowd_from) == 1.0
    assert hoped((RULE.crowd_from + RULE.crowd_full) / 2) == pytest.approx(0.5, abs=0.05)
    assert hoped(RULE.crowd_full) == hoped(9.0) == 0.0
    # Who came of late does not tell that the line is long; who has got room by now still does.
    assert hoped(9.0, waited_s=RULE.aged_s - 1) == 1.0
    assert hoped(9.0, runs=True) == 0.0


def test_one_large_gang_takes_no_other_the_help_of_its_age():
    line = a_line({**LONG, "size": 40}, {**LONG, "size": 20}, *[NEWER] * 9)
    assert hope(line, a_pool(20)) == 1.0


def test_where_age_cannot_help_the_first_of_all_goes_by_it_and_the_others_by_worth():
    def given(old: int) -> list[int]:
        line = a_line(*[OLD] * old, *[NEWER] * 40)
        return decided(line, a_pool(40)).why.tolist()

    assert given(20).count(Why.AGED) == 20
    crowded = given(1 + int(40 * RULE.crowd_full))
    assert crowded[0] == Why.AGED
    assert crowded.count(Why.AGED) == 1
    assert crowded[-40:].count(Why.WORTH) == 39


def test_the_flood_of_one_project_takes_no_other_the_help_of_its_age():
    flood, few = [{**LONG, "project": 0}] * 900, [{"project": project} for project in (1, 2, 3)]
    line = a_line(*flood, *[job for job in few for _ in range(40)])
    pool = a_pool(40, (0.0,) * 4)
    assert hope(line, pool) == 1.0
    floods = a_line(*flood, *[{**LONG, "project": project} for project in (1, 2, 3)] * 300)
    assert hope(floods, pool) == 0.0


def leaving(unsaved: float, between_s: float = 1800.0, **starts: object):
    """Decide of one that would make room for another which is worth more."""
    line = a_line(
        {"runs": True, "ran_s": 900 * HOUR_S, "unsaved": unsaved}, {"project": 1, **starts}
    )
    lives = Lives.blank(2)
    for _ in range(50):
        lives = lives.after(1, 1, 60.0)
    return turn(replace(line, between_s=np.full(2, between_s)), a_pool(1), lives.worth(line))


def test_who_would_lose_much_makes_room_when_it_has_saved_it():
    assert leaving(0.1).preempts == {0: 1}
    for unsaved in (0.2, 0.9):
        found = leaving(unsaved)
        assert (found.starts, found.preempts) == ([], {})
    # What waits so is given its room all the same, and says so.
    assert found.why.tolist() == [Why.NONE, Why.WORTH]


def test_nobody_waits_for_a_checkpoint_that_is_far_off_overdue_or_unknown():
    assert leaving(0.5, 4 * HOUR_S).preempts == {0: 1}
    assert leaving(0.9, 4 * HOUR_S).preempts == {}
    assert leaving(1.0).preempts == {0: 1}
    assert leaving(0.9, 0.0).preempts == {0: 1}


def test_nobody_waits_for_checkpoints_that_come_as_often_as_turns():
    assert leaving(0.9, RULE.every_s).preempts == {0: 1}


def test_who_waited_too_long_waits_for_nobody_to_save():
    assert leaving(0.9, waited_s=RULE.aged_full_s).preempts == {0: 1}


def test_of_those_that_could_make_room_who_saved_of_late_goes_first():
    lives = Lives.blank(2)
    for _ in range(50):
        lives = lives.after(0, 1, 60.0).after(1, 1, 10 * HOUR_S)
    runs = {"runs": True, "project": 1}
    late = {**runs, "ran_s": 900 * HOUR_S, "unsaved": 0.3}
    line = a_line(late, {**runs, "ran_s": 9 * HOUR_S}, {}, {})
    assert turn(line, a_pool(2), lives.worth(line)).preempts == {0: 2, 1: 3}
    saving = replace(line, between_s=np.full(4, 1800.0))
    assert turn(saving, a_pool(2), lives.worth(line)).preempts == {1: 2}


def test_a_gang_goes_when_those_who_make_room_lose_half_at_most():
    def found(*unsaved: float):
        runs = [{"runs": True, "ran_s": 900 * HOUR_S, "unsaved": u, "size": 2} for u in unsaved]
        line = a_line(*runs, {"size": 4, "project": 1})
        line = replace(line, between_s=np.full(3, 1800.0))
        return decided(line, a_pool(4, (0.0, 4.0))).preempts

    assert found(0.9, 0.05) == {0: 2, 1: 2}
    assert found(0.9, 0.3) == {}


def test_priority_goes_first_within_a_project_and_takes_nothing_of_what_others_must_have():
    line = a_line({}, {"height": 2}, {"height": 2}, {"project": 1})
    assert decided(line, a_pool(1)).starts == [1]
    assert sorted(decided(line, a_pool(2, (0.0, 1.0))).starts) == [1, 3]


def test_a_project_never_holds_more_than_it_may():
    pool = a_pool(8, most=[3.0, 9.0])
    runs = {"runs": True, "size": 2}
    assert sorted(decided(a_line(runs, {"size": 2}, {}, {"project": 1}), pool).starts) == [2, 3]
    found = decided(a_line({**runs, "ran_s": 50 * HOUR_S}, {"size": 2}), pool)
    assert (found.starts, found.preempts) == ([1], {0: 1})


def test_between_turns_what_fits_starts_in_order():
    assert filled([1, 0, 2], [5, 3, 1], 4) == [1, 2]


def a_world(chance: random.Random) -> tuple[list[dict], Pool]:
    capacity, projects = chance.choice((8, 40)), chance.choice((1, 3, 6))
    jobs, free = [], capacity
    for number in range(chance.randrange(60)):
        size = chance.choice((1, 1, 2, 4, 8))
        runs = size <= free and chance.random() < 0.4
        free -= size if runs else 0
        jobs.append({
            "name": f"{chance.random()}-{number}", "came_s": chance.choice((0.0, 1.0, 5.0)),
            "project": chance.randrange(projects), "size": size, "runs": runs,
            "ran_s": chance.choice((0.0, 60.0, 9e3, 9e5)), "fixed": runs and chance.random() < 0.2,
            "waited_s": chance.choice((0.0, 4e5, 5e5)), "unsaved": chance.random() if runs else 0.0,
            "height": chance.choice((1, 1, 2)), "between_s": chance.choice((0.0, 600.0, 1800.0)),
        })  # fmt: skip
    most = [chance.choice((np.inf, 6.0)) for _ in range(projects)]
    due = tuple(chance.random() * capacity / projects for _ in range(projects))
    return jobs, a_pool(capacity, due, most=most)


def lined(jobs: list[dict]) -> tuple[Line, list[str]]:
    order = by_coming([job["came_s"] for job in jobs], [job["name"] for job in jobs])
    between_s = np.array([jobs[i]["between_s"] for i in order])
    rows = [{k: v for k, v in jobs[i].items() if k in NEW} for i in order]
    return replace(a_line(*rows), between_s=between_s), [jobs[i]["name"] for i in order]


@settings(derandomize=True, max_examples=examples(200), deadline=None)
@given(st.integers(0, 10**6))
def test_in_any_world_nothing_is_given_twice_and_nobody_leaves_for_nothing(seed):
    jobs, pool = a_world(random.Random(seed))
    line, names = lined(jobs)
    found = decided(line, pool)
    stays = [i for i in range(len(line)) if line.runs[i] and i not in found.preempts]
    held = sum(int(line.size[i]) for i in (*stays, *found.starts))
    assert held <= pool.capacity
    assert not any(line.runs[i] for i in found.starts)
    assert all(line.runs[i] and not line.fixed[i] for i in found.preempts)
    assert set(found.preempts.values()) <= set(found.starts)
    assert all(found.why[i] for i in found.starts)
    for project, most in enumerate(pool.claims.most):
        new = sum(int(line.size[i]) for i in found.starts if line.project[i] == project)
        kept = sum(int(line.size[i]) for i in stays if line.project[i] == project)
        assert not new or new + kept <= most
    shuffled = random.Random(seed + 1).sample(jobs, len(jobs))
    other, others = lined(shuffled)
    again = decided(other, pool)
    assert [others[i] for i in again.starts] == [names[i] for i in found.starts]
    assert [others[i] for i in again.preempts] == [names[i] for i in found.preempts]


@settings(derandomize=True, max_examples=examples(100), deadline=None)
@given(st.integers(0, 10**6))
def test_of_those_that_make_room_none_is_the_first_to_get_it_back(seed):
    jobs, pool = a_world(random.Random(seed))
    line, _ = lined([{**job, "size": 1, "waited_s": min(4e5, job["waited_s"])} for job in jobs])
    pool = a_pool(pool.capacity, (0.0,) * len(pool.guarantees))
    worth = Lives.blank(len(pool.guarantees)).worth(line)
    found = turn(line, pool, worth)
    runs = line.runs.copy()
    runs[found.starts], runs[list(found.preempts)] = True, False
    after = turn(replace(line, runs=runs, unsaved=np.where(runs, line.unsaved, 0.0)), pool, worth)
    assert (after.starts, after.preempts) == ([], {})
