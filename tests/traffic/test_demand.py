"""What a gateway tells of what is called for: no request is missed, however short."""

from __future__ import annotations

from madang.traffic.desk import Desk
from madang.traffic.limits import Limits
from madang.traffic.table import Demand, Endpoint, RouteTable

from .test_hold import APP, A, Caller

HELD = Endpoint("acme/lab", "bot", "bot", (), 99, hold_s=60)
READY = Endpoint("acme/lab", "bot", "bot", (A,), 99, hold_s=60)
KEY = APP.__class__("app", "acme/lab", "member", uid="key-1", may_infer=True)


def desk_of(endpoint=HELD):
    desk = Desk(Limits(slot_requests_max=1))
    desk.take(RouteTable(1, (endpoint,), {"digest": KEY}))
    return desk


def told(desk, now=0.0):
    return desk.pull("gw", 1.0, now).demand


def test_those_who_wait_and_for_how_long_are_told():
    desk = desk_of()
    for at in (0, 1, 2):
        Caller(desk, now=at, key=KEY)
    assert told(desk, 5.0) == {"acme/lab/bot": Demand(busy=3, peak=3, waiting=3, wait_s=5.0)}


def test_a_request_between_two_pulls_is_told_by_the_next():
    desk = desk_of(READY)
    assert told(desk) == {}
    Caller(desk, key=KEY).end()
    assert told(desk) == {"acme/lab/bot": Demand(busy=0, peak=1)}
    desk.hear(0)
    assert told(desk) == {}


def test_what_control_did_not_hear_is_told_again():
    desk = desk_of(READY)
    Caller(desk, key=KEY).end()
    told(desk)
    assert told(desk) == {"acme/lab/bot": Demand(busy=0, peak=1)}


def test_what_came_and_went_while_control_was_being_told_is_told_next():
    desk = desk_of(READY)
    told(desk)
    Caller(desk, key=KEY).end()
    desk.hear(0)
    assert told(desk)["acme/lab/bot"].peak == 1


def test_control_hears_at_once_of_the_first_that_waits_for_a_first_replica():
    desk, calls = desk_of(), []
    desk.hurry = lambda: calls.append(told(desk))
    first, _ = Caller(desk, key=KEY), Caller(desk, key=KEY)
    assert calls == [{"acme/lab/bot": Demand(busy=1, peak=1, waiting=1)}]
    first.end()
    Caller(desk, key=KEY)
    assert len(calls) == 1, "somebody waited all the time"


def test_who_waits_for_a_busy_replica_is_told_in_time():
    desk, calls = desk_of(READY), []
    desk.hurry = lambda: calls.append(1)
    for _ in range(3):
        Caller(desk, key=KEY)
    assert calls == []
