"""Waiting for a first replica: who may, for how long, and what is told who waited in vain."""

from __future__ import annotations

from msgspec import structs

from madang.traffic.limits import Limits
from madang.traffic.table import Endpoint, RouteTable, Waiting

from .test_hold import APP, A, B, Caller, desk_of, waiting

HELD = Endpoint("p", "bot", "bot", (), 99, waiting=Waiting("service.starting", {}), hold_s=60)


def test_requests_wait_for_the_first_replica_of_a_model_that_has_none():
    desk = desk_of(limits=Limits(slot_requests_max=1, held_max=4, held_s=10))
    desk.take(RouteTable(2, (HELD,), {"digest": APP}))
    callers = [Caller(desk) for _ in range(4)]
    assert Caller(desk).word == "model_busy"
    desk.serve(59)
    assert [each.word for each in callers] == [None] * 4
    desk.take(RouteTable(3, (structs.replace(HELD, targets=(A, B)),), {"digest": APP}))
    desk.serve(59)
    assert {each.word for each in callers[:2]} == {"a", "b"}
    assert ([each.word for each in callers[2:]], waiting(desk)) == ([None, None], 2)


def test_whoever_waited_in_vain_is_told_what_kept_the_model_and_when_to_come_again():
    desk = desk_of()
    desk.take(RouteTable(2, (HELD,), {"digest": APP}))
    waits = Caller(desk)
    desk.serve(60)
    told = waits.told
    assert (told.status, told.code, told.retry_after_s) == (503, "waited_too_long", 30)
    assert told.waiting == HELD.waiting
    assert waits.end(503, now=60) is None


def test_a_model_that_may_not_wait_for_its_first_replica_refuses_at_once():
    desk = desk_of()
    desk.take(RouteTable(2, (HELD,), {"digest": APP}))
    waits = Caller(desk)
    desk.take(RouteTable(3, (structs.replace(HELD, hold_s=0.0),), {"digest": APP}))
    assert waits.word == "model_not_ready"
    assert waiting(desk) == 0
