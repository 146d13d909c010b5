"""Devices without processors are seen before they are stranded, and rare kinds are kept."""

from __future__ import annotations

import random

import numpy as np
import pytest

from madang.planning.placement.columns import MADANG, Columns
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Fleet, Host, Kind
from madang.planning.placement.fragmentation import Fragmentation
from madang.planning.placement.mix import Mix
from madang.planning.placement.placer import Placer
from madang.planning.placement.prices import Prices
from madang.planning.placement.reserve import Reserve, group_of
from madang.planning.placement.stranding import Stranding

ONE, CLERK = Demand(8000, 1024, 1, (1000,)), Demand(8000, 1024, 0, (0,))


def stranded(mix: list[Demand], free_milli: int, cpu_milli: int) -> float:
    return Stranding(Mix.of(mix), [1000]).of(np.array([free_milli]), np.array([cpu_milli]))[0]


def test_devices_beyond_what_the_processors_serve_are_stranded():
    mix = [ONE, CLERK, CLERK]
    assert stranded(mix, 8000, 8000 * 3) == 5000
    assert stranded(mix, 2000, 8000 * 3) == 0
    assert stranded(mix, 2000, 0) == 2000


def test_where_nobody_expected_asks_for_processors_nothing_is_stranded():
    assert stranded([Demand(0, 0, 1, (1000,))], 8000, 0) == 0
    assert stranded([CLERK], 8000, 0) == 0


def placer(demands: list[Demand], hosts: list[Host]) -> Placer:
    fleet = Fleet.of((Kind("a"),), hosts)
    measure = Fragmentation(Mix.of(demands), fleet.kinds)
    return Placer(
        fleet, demands, Columns(demands, fleet.kinds, measure, Prices.none(fleet.whole), MADANG)
    )


def test_what_needs_no_device_goes_where_processors_are_left_over():
    tight = Host("a-tight", 32000, 65536, 0, (1000,) * 4)
    loose = Host("z-loose", 64000, 65536, 0, (1000,) * 4)
    placing = placer([CLERK, ONE], [tight, loose])
    assert placing.board.start.names[placing.choose(0).host] == "z-loose"


@pytest.mark.parametrize("seed", range(6))
def test_our_score_is_what_the_worth_of_a_host_gains_less_the_ties(seed):
    chance = random.Random(seed)
    demands = sorted({
        Demand(chance.choice((0, 2000, 9000)), 1024, n, ((1000 if n > 1 else 250) if n else 0,))
        for n in (0, 1, 1, 2, 4) for _ in range(3)
    })  # fmt: skip
    placing = placer(demands, [Host(f"n{i}", 48000, 65536, 0, (1000,) * 4) for i in range(4)])
    for _ in range(40):
        which = chance.randrange(len(demands))
        choice = placing.choose(which)
        if choice is None:
            continue
        before, score = placing.column(choice.host).value, placing.scores[which, choice.host]
        placing.take(which, choice)
        after, board = placing.column(choice.host).value, placing.board
        left = board.free[choice.host].sum() * MADANG.left_devices
        left += board.cpu_milli[choice.host] * MADANG.left_cpu
        assert after - before - left == pytest.approx(score, abs=1e-6)


def test_a_group_gets_its_largest_part_at_once_and_the_rest_as_the_fleet_fills():
    anyone, picky = Demand(1, 1, 1, (1000, 1000)), Demand(1, 1, 1, (0, 1000))
    both, only = group_of(anyone), group_of(picky)
    reserve = Reserve([anyone, picky], (1000, 1000), {both: (8000, 4000), only: (0, 8000)})
    assert reserve.takes(0, 0)
    assert not reserve.takes(0, 1)
    assert reserve.takes(1, 1)
    reserve.count(1, 1, 8)
    assert reserve.takes(0, 1)
    reserve.count(0, 1)
    assert not reserve.takes(0, 1)
    assert not reserve.takes(1, 1)
    reserve.count(0, 0, 8)
    assert reserve.takes(0, 1)
    assert not reserve.takes(0, 0)
