"""A minute of an ordinary day, a short overload, a few roll-overs under load.

The long ones are `make bench-durability` and `make bench-rollover`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from madang.testing.flood import flood
from madang.testing.rollover import roll
from madang.testing.soak import PARTS, soak

MINUTES = 1.0
WARM_S = 8.0
FLOOD_S = 10.0
pytestmark = [pytest.mark.story, pytest.mark.timeout(600)]


def test_a_day_with_deaths_and_impatient_clients_leaves_nothing_behind(tmp_path: Path) -> None:
    seen = soak(tmp_path, MINUTES)
    assert seen.wrong == []
    assert seen.unanswered == 0
    assert seen.answered > 0.8 * len(seen.answers) > 100
    assert all(seen.kills.values())
    for part in PARTS:
        for life in seen.of_life(part, WARM_S):
            most = max(look.rss_kb for look in life)
            assert most < 1.25 * life[0].rss_kb, f"{part} grows: {life}"
        assert seen.files_grown(part, WARM_S) < 30


def test_four_times_too_much_is_refused_at_the_door_and_the_rest_is_answered(
    tmp_path: Path,
) -> None:
    seen = flood(tmp_path, FLOOD_S)
    assert seen.held_back == 0
    assert seen.other == {}
    assert seen.unanswered == 0
    assert seen.refused > seen.peak_per_s * FLOOD_S
    assert seen.goodput_per_s > 0.8 * seen.peak_per_s
    assert 0 < seen.in_line <= seen.in_line_max
    assert 0 < seen.at_engine <= seen.at_engine_max
    assert seen.normal_after_s < float("inf")


def test_nobody_notices_that_a_service_rolls_over_though_control_dies_in_the_midst_of_it(
    tmp_path: Path,
) -> None:
    seen = roll(tmp_path, requests=500, seed=1, kills=1)
    assert seen.wrong == []
    assert seen.failed == []
    assert len(seen.answers) >= 500
    assert seen.kills == 1
    assert seen.took_s
