"""When what waits would start: trials from now on, drawn from what is learnt."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from madang.planning.share.ledger import Ledger
from madang.planning.share.line import Line
from madang.planning.share.lives import Lives
from madang.planning.share.rule import HOUR_S
from madang.planning.share.water import Claims
from madang.twin import forward
from madang.twin.forward import Start, drawn_s, forecast, forecasts

HALF_H = 0.5 * HOUR_S


def a_start(
    running: list[tuple[float, int]], waiting: list[int], capacity: int, **given: object
) -> Start:
    """Return jobs of one project: who runs, for how long and on how much; and who waits."""
    sizes = [size for _, size in running] + waiting
    count = len(sizes)
    ran_s = np.array([ran for ran, _ in running] + [0.0] * len(waiting))
    line = Line(
        project=np.zeros(count, np.int64), size=np.array(sizes, np.int64), ran_s=ran_s,
        waited_s=np.zeros(count), unsaved=np.zeros(count),
        runs=np.arange(count) < len(running), fixed=np.zeros(count, bool),
        height=np.ones(count, np.int64),
    )  # fmt: skip
    start = Start(line, capacity, Claims.even(1), Ledger.blank(1), learnt(HALF_H))
    return replace(start, **given)


def learnt(ran_s: float, size: int = 4) -> Lives:
    """Return what is known after many jobs that all ran about so long."""
    lives = Lives.blank(1)
    for _ in range(400):
        lives = lives.after(0, size, ran_s)
    return lives


def test_who_finds_room_starts_at_once():
    start = a_start([(60.0, 4)], [4], capacity=8)
    assert forecast(start, 1).likely_s == 0.0


def test_who_waits_starts_about_when_jobs_like_the_running_one_end():
    start = a_start([(0.0, 8)], [8], capacity=8, lives=learnt(HALF_H, 8))
    found = forecast(start, 1)
    assert 0.5 * HALF_H < found.likely_s < 2 * HALF_H
    assert found.likely_s <= found.late_s


def test_the_next_in_line_starts_no_later_than_the_one_behind_it():
    found = forecasts(a_start([(0.0, 4), (0.0, 4)], [4] * 6, capacity=8))
    assert [each.likely_s for each in found[:2]] == [0.0, 0.0]
    likely = [each.likely_s for each in found]
    assert likely == sorted(likely)
    assert math.isfinite(likely[-1])


def test_one_is_told_the_same_alone_as_among_all():
    start = a_start([(0.0, 4), (0.0, 4)], [4] * 3, capacity=8)
    assert forecast(start, 4) == forecasts(start)[4]


def test_behind_a_service_that_never_ends_nothing_is_seen_to_start():
    start = a_start([(0.0, 8)], [8], capacity=8, endless=frozenset({0}))
    found = forecast(start, 1)
    assert found.likely_s == math.inf
    assert found.looked_s >= 24 * HOUR_S


def test_no_job_is_drawn_to_end_before_now_and_old_ones_go_on_for_longer():
    start = a_start([(0.0, 1)] * 200 + [(5 * HOUR_S, 1)] * 200, [1], 400, lives=learnt(HALF_H, 1))
    drawn = drawn_s(start, seed=3)
    assert (drawn > start.line.ran_s).all()
    assert np.median(drawn[200:400]) > 5 * HOUR_S > np.median(drawn[:200])


def test_an_estimate_over_many_jobs_looks_less_far_and_says_how_far(monkeypatch):
    monkeypatch.setattr(forward, "LOOKS_MAX", 20_000)
    start = a_start([(0.0, 1)] * 50, [1] * 2000, capacity=50)
    found = forecast(start, 2049)
    assert found.likely_s == math.inf
    assert 0 < found.looked_s < math.inf


def test_more_room_and_more_weight_bring_nobody_a_later_start():
    less = a_start([(0.0, 4), (0.0, 4)], [4] * 4, capacity=8)
    more = replace(less, capacity=16)
    pairs = zip(forecasts(more), forecasts(less), strict=True)
    assert all(one.likely_s <= other.likely_s for one, other in pairs)
