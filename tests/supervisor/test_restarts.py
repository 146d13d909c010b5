"""When a process that must always run is started again, and how much is remembered of others."""

from __future__ import annotations

import itertools
import json
import os
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madang.supervisor import children
from madang.supervisor.orders import Orders
from madang.supervisor.protocol import LaunchPlan, RankPlan, encode


class Alarms:
    """A loop that watches nothing and only notes its alarms."""

    def __init__(self):
        self.delays_s = []
        self.due = None

    def watch(self, fd, callback):
        pass

    unwatch = cancel = lambda self, what: None

    def rest(self, fd, pause_s):
        pass

    def alarm(self, owner, delay_s, callback):
        self.delays_s.append(delay_s)
        self.due = callback


@pytest.fixture
def alarms():
    return Alarms()


@pytest.fixture
def yard(alarms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    journal = SimpleNamespace(write=list)
    return children.Children(alarms, journal, 1 << 20)


@pytest.fixture
def end(yard, monkeypatch):
    """Pretend processes: none of these numbers can be a real one. Call it to end the newest."""
    numbers = itertools.count(1 << 23)
    started = []

    def spawn(plan, enlist):
        started.append(next(numbers))
        enlist(started[-1])
        return started[-1], os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)

    ends = iter(())
    monkeypatch.setattr(children, "spawn", spawn)
    monkeypatch.setattr(children.os, "waitpid", lambda pid, options: next(ends, (0, 0)))

    def end():
        nonlocal ends
        ends = iter([(started[-1], 0)])
        yard.reap()

    return end


PLAN = LaunchPlan("control", 1, ("no-such-program",), restart="always")


def test_the_back_off_doubles_up_to_its_bound(yard, alarms, monkeypatch):
    def spawn(plan, enlist):
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(children, "spawn", spawn)
    with pytest.raises(children.Refused):
        yard.start(PLAN)
    for _ in range(8):
        alarms.due()
    assert alarms.delays_s == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert yard.reports()[0].restarts == 9


def test_a_process_that_ends_again_and_again_is_started_ever_later(yard, alarms, end):
    yard.start(PLAN)
    for _ in range(4):
        end()
        alarms.due()
    assert alarms.delays_s == [0.5, 1, 2, 4]


def test_a_steady_life_forgets_the_failures_before_it(yard, alarms, end, monkeypatch):
    yard.start(PLAN)
    end()
    alarms.due()
    end()
    monkeypatch.setattr(children, "STEADY_S", 0.0)
    alarms.due()
    end()
    assert alarms.delays_s == [0.5, 1, 0.5]


def test_the_oldest_ended_processes_are_forgotten_first(yard, end, monkeypatch):
    monkeypatch.setattr(children, "ENDED_MAX", 3)
    for number in range(5):
        yard.start(LaunchPlan(f"job-{number}", 1, ("true",)))
        end()
    assert [p.uid for p in yard.reports()] == ["job-2", "job-3", "job-4"]
    assert {p.state for p in yard.reports()} == {"exited"}


def test_more_processes_than_the_bound_are_refused(yard, end, monkeypatch):
    monkeypatch.setattr(children, "LIVING_MAX", 2)
    for number in range(2):
        yard.start(LaunchPlan(f"job-{number}", 1, ("true",)))
    with pytest.raises(children.Refused) as refused:
        yard.start(LaunchPlan("job-2", 1, ("true",)))
    assert (refused.value.code, refused.value.values) == ("supervisor.full", {"limit": 2})
    end()
    yard.start(LaunchPlan("job-2", 1, ("true",)))


def test_more_ranks_than_the_bound_are_refused(yard, monkeypatch):
    monkeypatch.setattr(children, "RANKS_LIVING_MAX", 3)
    monkeypatch.setattr(children.Gang, "spawn", lambda gang, enlist: (1 << 23, *pipes(), []))
    both = (RankPlan(0), RankPlan(1))
    yard.start(LaunchPlan("a", 1, ("train",), ranks=both))
    with pytest.raises(children.Refused) as refused:
        yard.start(LaunchPlan("b", 1, ("train",), ranks=both))
    assert (refused.value.code, refused.value.values) == ("supervisor.full", {"limit": 3})


def pipes():
    return [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
PARTS = {
    "v": st.just(1) | JSON,
    "term": st.integers(0, 3) | JSON,
    "verb": st.sampled_from(["start", "stop", "observe", "tail", "signal"]),
    "uid": st.sampled_from(["a", "b", "../x"]) | JSON,
    "epoch": st.integers(0, 3) | JSON,
    "grace_s": st.just(0) | JSON,
    "wait_s": st.just(0) | JSON,
    "after": st.just(0) | JSON,
    "lines": st.integers(-3, 3) | JSON,
    "signal": st.sampled_from(["SIGCONT", "Signals"]) | JSON,
}
NEEDED = {
    "uid": PARTS["uid"],
    "epoch": PARTS["epoch"],
    "argv": st.lists(st.text(max_size=9) | JSON, max_size=3) | JSON,
}
PLAN_PARTS = {
    "env": st.dictionaries(st.text(max_size=9), JSON, max_size=2) | JSON,
    "cwd": JSON,
    "restart": st.sampled_from(["always", "never"]) | JSON,
    "accelerators": JSON,
    "grace_s": PARTS["grace_s"],
    "ranks": st.lists(st.fixed_dictionaries({"rank": st.integers(0, 2) | JSON}), max_size=3) | JSON,
    "progress": JSON,
    "patience": st.fixed_dictionaries({"least_s": JSON}) | JSON,
}
ORDERS = st.fixed_dictionaries(
    {**PARTS, "plan": st.fixed_dictionaries(NEEDED, optional=PLAN_PARTS) | JSON}
)


@given(st.lists(ORDERS, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_order_can_do_more_than_be_refused(alarms, tmp_path, orders):
    (tmp_path / "logs").mkdir(exist_ok=True)

    def spawn(plan, enlist):
        raise FileNotFoundError(2, "No such file")

    journal = SimpleNamespace(write=list)
    yard = children.Children(alarms, journal, 1 << 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(children, "spawn", spawn)
        room = Orders(yard)
        for order in orders:
            try:
                line = encode({"id": 1, "ok": room.carry_out(order)})
            except children.Refused as no:
                line = encode({"id": 1, "error": {"code": no.code, "values": no.values}})
            assert json.loads(line)["id"] == 1
