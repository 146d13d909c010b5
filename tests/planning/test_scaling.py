"""More replicas when they are called for, fewer when they were not for long: never to and fro."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.planning.action import Verb
from madang.planning.services.scaling import WAITED_S, aimed
from madang.planning.snapshot import Demand, Seen
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Ref
from madang.resources.scale import Scale
from madang.resources.service import ServicePhase
from madang.testing.builders import PROJECT, model, node, service, snapshot
from madang.testing.examples import examples
from madang.testing.paper import Paper

BOT = Ref(PROJECT, "bot")
RANGE = {"min": 0, "max": 3, "inflight": 4, "idle": "5m", "hold": "1m"}


def paper(**spec: object) -> Paper:
    """Return a world with a service of a range, in which all is said."""
    drawn = Paper(snapshot(node("n", cards=4), model(), service(scale={**RANGE, **spec})))
    drawn.settle()
    return drawn


def call(drawn: Paper, **demand: float) -> Paper:
    """Let it be called, and everything come of it that does."""
    seen = drawn.snapshot.seen
    told = Demand(**{"known_s": 0.0, **demand})  # type: ignore[arg-type]
    drawn.snapshot = replace(drawn.snapshot, seen=replace(seen, demand={BOT: told}))
    drawn.settle()
    return drawn


def there(drawn: Paper) -> int:
    return sum(r.status.phase is ReplicaPhase.READY for r in drawn.snapshot.replicas.values())


def test_a_service_that_nobody_calls_has_no_replica_and_says_so() -> None:
    drawn = paper()
    status = drawn.snapshot.services[BOT].status
    assert (there(drawn), status.phase) == (0, ServicePhase.READY)
    assert status.reason is not None
    assert status.reason.code == "service.asleep"


def test_the_first_request_starts_one_and_many_as_many_as_are_there_for_them() -> None:
    drawn = call(paper(), busy=1, waiting=1, peak=1)
    assert there(drawn) == 1
    assert drawn.snapshot.services[BOT].status.reason is None
    assert there(call(drawn, busy=9, peak=9)) == 3
    assert there(call(drawn, busy=900, peak=900)) == 3, "no more than it may have"


def test_it_says_why_it_grew() -> None:
    drawn = paper()
    before = len(drawn.done)
    call(drawn, busy=5, waiting=5, peak=5)
    plans = drawn.done[before:]
    [grown] = [a for p in plans for a in p.actions if a.verb is Verb.SCALE_SERVICE]
    assert grown.reason.code == "service.grown"
    assert (grown.reason.values["before"], grown.reason.values["after"]) == (0, 2)


def test_nobody_for_all_of_its_idle_time_and_it_is_let_go() -> None:
    drawn = call(paper(), busy=1, waiting=1, peak=1)
    drawn.wait(299)
    assert there(call(drawn, peak=0, known_s=299)) == 1
    drawn.wait(2)
    assert there(call(drawn, peak=1, known_s=301)) == 1, "one was called for in that time"
    assert there(call(drawn, peak=0, known_s=301)) == 0
    status = drawn.snapshot.services[BOT].status
    assert status.reason is not None
    assert status.reason.code == "service.asleep"


def test_a_control_that_has_just_started_lets_nothing_go() -> None:
    drawn = call(paper(), busy=1, waiting=1, peak=1)
    drawn.wait(10_000)
    assert there(call(drawn, peak=0, known_s=5)) == 1


def test_the_least_stays_whoever_calls() -> None:
    drawn = paper(min=2)
    assert there(drawn) == 2
    drawn.wait(10_000)
    assert there(call(drawn, peak=0, known_s=10_000)) == 2


def test_a_number_that_becomes_a_range_keeps_what_serves() -> None:
    drawn = Paper(snapshot(node("n", cards=4), model(), service(scale=2)))
    drawn.settle()
    wish = drawn.snapshot.services[BOT]
    spec = wish.spec.model_copy(update={"scale": Scale(max=3)})
    changed = wish.model_copy(update={"spec": spec, "generation": wish.generation + 1})
    drawn.snapshot = drawn.snapshot.after([changed])
    drawn.settle()
    assert there(drawn) == 2


SCALES = st.builds(
    Scale,
    min=st.integers(0, 2), max=st.integers(2, 6), inflight=st.integers(1, 9),
    idle=st.sampled_from([10.0, 60.0]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("demand", "ready", "after"),
    [
        (Demand(busy=4, waiting=1, wait_s=WAITED_S, peak=4), 1, 2),
        (Demand(busy=4, waiting=1, wait_s=WAITED_S, peak=4), 0, 1),
        (Demand(busy=4, waiting=1, wait_s=WAITED_S, peak=4), 2, 1),
        (Demand(busy=4, waiting=1, wait_s=WAITED_S - 0.1, peak=4), 1, 1),
        (Demand(busy=4, waiting=0, wait_s=WAITED_S, peak=4), 1, 1),
    ],
    ids=["slow", "one is on its way", "more serve than are wanted", "not for long", "nobody waits"],
)
def test_a_long_wait_calls_for_one_more(demand: Demand, ready: int, after: int) -> None:
    assert aimed(Scale(max=3, inflight=4), 1, ready, demand, 0.0)[0] == after


@settings(max_examples=examples(150), deadline=None)
@given(scale=SCALES, levels=st.lists(st.integers(0, 60), min_size=2, max_size=300))
def test_it_never_goes_to_and_fro_within_its_idle_time(scale: Scale, levels: list[int]) -> None:
    """Whatever comes: enough for what is in hand, at once; down at most once in an idle time."""
    wanted, since, downs, changed = scale.min, 0, [-(10**9)], 0
    for now, busy in enumerate(levels):
        idle = int(scale.idle)
        peak = max(levels[max(0, now - idle) : now + 1])
        demand = Demand(busy=busy, peak=peak, known_s=float(now))
        aim, code = aimed(scale, wanted, wanted, demand, float(now - since))
        assert scale.min <= aim <= scale.max
        assert aim >= min(scale.max, -(-busy // scale.inflight))
        assert (aim == wanted) == (not code)
        if aim < wanted:
            assert now - downs[-1] >= scale.idle
            assert now - changed >= scale.idle, "it had just grown"
            assert aim >= min(scale.max, -(-peak // scale.inflight))
            downs.append(now)
        if aim != wanted:
            wanted, since, changed = aim, now, now


def test_what_is_seen_of_nobody_is_no_demand() -> None:
    assert Seen().demand == {}
