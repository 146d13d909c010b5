"""What control knows of demand: the sum of what gateways told last, and the most of late."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from madang.control.tides import Tides
from madang.planning.snapshot import Demand
from madang.resources.resource import Ref
from madang.settings import GATEWAY_LEASE_S
from madang.traffic.table import Demand as Told

BOT = Ref("acme/lab", "bot")
NAME = "acme/lab/bot"


def of(tides: Tides, now: float, idle: float = 60.0) -> Demand:
    return tides.demand({BOT: idle}, now)[BOT]


def test_what_all_gateways_tell_is_added_up() -> None:
    tides = Tides(0)
    assert tides.note("a", {NAME: Told(3, 5, 1, 2.0)}, 10)
    assert tides.note("b", {NAME: Told(2, 2, 2, 7.0)}, 11)
    seen = of(tides, 12)
    assert (seen.busy, seen.waiting, seen.wait_s, seen.peak) == (5, 3, 8.0, 5)


def test_only_what_is_another_than_before_is_news() -> None:
    tides = Tides(0)
    assert not tides.note("a", {}, 0)
    assert tides.note("a", {NAME: Told(1, 1)}, 1)
    assert not tides.note("a", {NAME: Told(1, 3)}, 2)
    assert tides.note("a", {}, 3)


def test_the_most_for_a_while_back_is_remembered_and_then_forgotten() -> None:
    tides = Tides(0)
    tides.note("a", {NAME: Told(0, 7)}, 10)
    tides.note("a", {}, 12)
    assert of(tides, 70).peak == 7
    assert of(tides, 71).peak == 0


def test_a_level_counts_until_it_is_another() -> None:
    tides = Tides(0)
    tides.note("a", {NAME: Told(4, 4)}, 0)
    tides.note("a", {NAME: Told(4, 4)}, 100)
    tides.note("a", {}, 105)
    assert of(tides, 160).peak == 4


def test_what_a_silent_gateway_told_is_forgotten_after_its_lease() -> None:
    tides = Tides(0)
    tides.note("a", {NAME: Told(4, 4, 4)}, 0)
    assert of(tides, GATEWAY_LEASE_S).busy == 4
    assert of(tides, GATEWAY_LEASE_S + 1).busy == 0
    assert of(tides, GATEWAY_LEASE_S + 1).peak == 4


def test_a_new_control_knows_nothing_before_every_gateway_has_had_time_to_speak() -> None:
    tides = Tides(100)
    assert of(tides, 100 + GATEWAY_LEASE_S).known_s == 0
    assert of(tides, 130).known_s == 30 - GATEWAY_LEASE_S


def test_names_that_are_no_endpoint_are_passed_over() -> None:
    tides = Tides(0)
    tides.note("a", {"": Told(1, 1), "bot": Told(1, 1), "x/y/z": Told(1, 1)}, 0)
    assert of(tides, 1) == Demand()
    assert tides._crests == {}


@settings(max_examples=100, deadline=None)
@given(
    levels=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=60),
    idle=st.integers(1, 30),
)
def test_the_most_is_what_looking_at_all_levels_finds(
    levels: list[tuple[int, int]], idle: int
) -> None:
    tides = Tides(0)
    for at, (busy, more) in enumerate(levels):
        tides.note("a", {NAME: Told(busy, busy + more)}, at)
        since = max(0, at - idle)
        held = [level for level, _ in levels[max(0, since - 1) : at + 1]]
        peaks = [level + extra for level, extra in levels[since : at + 1]]
        assert of(tides, at, idle).peak == max(held + peaks)
