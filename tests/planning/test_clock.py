"""A wall clock that jumps: it ends no good engine, and leaves nothing stuck."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from madang.planning.services.replicas import ANNOUNCE_S, DRAIN_S, GATE_S
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, model, node, service, snapshot
from madang.testing.examples import examples
from madang.testing.paper import Paper

HOURS = [-7200.125, 7200.125]
"""Two hours either way, and a little, so that no old stamp comes back by chance."""


def starting(load_s: float = 1.0) -> Paper:
    paper = Paper(snapshot(node("n"), model(), service()), load_s=load_s)
    paper.turn()
    return paper


def phase(paper: Paper) -> str:
    return str(paper.replicas("bot")[0].status.phase)


@pytest.mark.parametrize("jump_s", HOURS)
def test_an_engine_that_loads_is_not_ended_by_the_clock(jump_s: float) -> None:
    paper = starting(load_s=100)
    paper.wait(50)
    paper.leap(jump_s)
    paper.turn()
    assert phase(paper) == "starting"
    paper.wait(60)
    paper.settle()
    assert (phase(paper), paper.replicas("bot")[0].status.epoch) == ("ready", 1)


@pytest.mark.parametrize("jump_s", HOURS)
def test_an_engine_that_never_gets_ready_is_ended_in_time_all_the_same(jump_s: float) -> None:
    paper = starting(load_s=10**6)
    paper.leap(jump_s)
    paper.wait(ANNOUNCE_S - 1)
    paper.turn()
    assert phase(paper) == "starting"
    paper.wait(2.0)
    paper.turn()
    reason = paper.replicas("bot")[0].status.reason
    assert reason is not None
    assert reason.code == "replica.silent"


@pytest.mark.parametrize("jump_s", HOURS)
def test_a_gate_is_neither_cut_short_nor_waited_for_beyond_its_time(jump_s: float) -> None:
    paper = starting()
    paper._judge = lambda _ref: None  # type: ignore[method-assign]
    paper.wait(2.0)
    paper.turn()
    assert phase(paper) == "verifying"
    paper.leap(jump_s)
    paper.turn()
    assert phase(paper) == "verifying"
    paper.wait(GATE_S + 1)
    paper.turn()
    assert phase(paper) == "backing-off"


@pytest.mark.parametrize("jump_s", HOURS)
def test_a_back_off_never_takes_longer_than_it_should(jump_s: float) -> None:
    paper = starting()
    paper.settle()
    paper.kill(paper.replicas("bot")[0].uid, exit_code=1)
    paper.turn()
    paper.leap(jump_s)
    assert paper.turn().wake_s is not None
    paper.settle(seconds=10)
    assert phase(paper) == "ready"


@pytest.mark.parametrize("jump_s", HOURS)
def test_requests_under_way_get_their_time_and_no_more(jump_s: float) -> None:
    paper = starting()
    paper.settle()
    uid = paper.replicas("bot")[0].uid
    paper.snapshot = replace(paper.snapshot, seen=replace(paper.snapshot.seen, inflight={uid: 1}))
    bot = paper.snapshot.services[Ref(PROJECT, "bot")]
    spec = bot.spec.model_copy(update={"scale": 0})
    paper.put(bot.model_copy(update={"spec": spec, "generation": bot.generation + 1}))
    paper.turn()
    paper.leap(jump_s)
    paper.turn()
    assert phase(paper) == "draining"
    paper.wait(DRAIN_S + 1)
    paper.turn()
    assert phase(paper) == "stopping"


@pytest.mark.parametrize("jump_s", HOURS)
def test_a_lost_order_is_repeated_in_seconds(jump_s: float) -> None:
    paper = Paper(snapshot(node("n"), model(), service()))
    paper.turn()
    seen = replace(paper.snapshot.seen, processes={})
    paper.snapshot = replace(paper.snapshot, seen=seen)
    paper.leap(jump_s)
    paper.settle(seconds=15)
    assert phase(paper) == "ready"


def test_a_control_that_has_just_started_ends_nothing_for_what_it_has_not_watched() -> None:
    paper = starting(load_s=10**6)
    paper.wait(10)
    paper.snapshot = replace(paper.snapshot, ages={}, now=paper.now + 7200)
    paper.turn()
    assert phase(paper) == "starting"


JUMPS = st.lists(
    st.tuples(st.floats(0.5, 20), st.floats(-9000, 9000).map(lambda jump: jump + 0.0625)),
    max_size=12,
)


@settings(max_examples=examples(60), deadline=None)
@given(JUMPS, st.sampled_from([1.0, 30.0, 300.0]))
def test_whatever_the_clock_does_a_good_engine_comes_up_in_its_own_time(
    jumps: list[tuple[float, float]], load_s: float
) -> None:
    paper = starting(load_s=load_s)
    for wait_s, jump_s in jumps:
        paper.wait(wait_s)
        paper.leap(jump_s)
        paper.turn()
    for _ in range(20):
        paper.wait(load_s / 10)
        paper.turn()
    status = paper.replicas("bot")[0].status
    assert (str(status.phase), status.epoch, status.restarts) == ("ready", 1, 0)
