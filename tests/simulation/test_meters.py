"""How busy things are: by readings, by processor time, by signs of life; and what is not known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from madang.control.meters import BLIND_S, Meters
from madang.planning.snapshot import Load
from madang.ports import UsageTotal
from madang.resources.attempt import Attempt, AttemptPhase, AttemptSpec, AttemptStatus
from madang.resources.holding import Holding
from madang.resources.replica import Replica, ReplicaPhase, ReplicaSpec, ReplicaStatus
from madang.resources.resource import AnyResource, Ref
from madang.supervisor.protocol import Process, Rank
from madang.testing.builders import PROJECT, node

CARDS = Holding(node="a", accelerators=("a-0", "a-1"))
TRAIN = Attempt(
    project=PROJECT, name="train-1", uid="attempt-x", spec=AttemptSpec(job="train", number=1),
    status=AttemptStatus(phase=AttemptPhase.RUNNING, places=(CARDS,)),
)  # fmt: skip
BOT = Replica(
    project=PROJECT, name="bot-1-1", uid="replica-x",
    spec=ReplicaSpec(service="bot", revision="bot-1"),
    status=ReplicaStatus(phase=ReplicaPhase.READY, epoch=3, node="a", accelerators=("a-0",)),
)  # fmt: skip
JOB, SERVICE = ("attempt-x", 1), ("replica-x", 3)


class Stage:
    """As much of world, gateways and clock as meters ask."""

    def __init__(self, *resources: AnyResource, kind: str = "nvidia/h100") -> None:
        self.now_s = 100.0
        self.requests = 0
        self.running: dict[str, int] = {}
        self.is_told = True
        self.tokens: dict[str, tuple[int, int, int]] = {}
        self.processes: dict[str, Process] = {}
        self.busy: dict[str, dict[str, float]] = {}
        self.resources = [*node("a", cards=4, kind=kind), *resources]
        self.meters = Meters(cast("Any", self), cast("Any", self))

    @property
    def clock(self) -> Stage:
        return self

    def monotonic(self) -> float:
        return self.now_s

    def list(self, _who: object, kind: str) -> dict[Ref, AnyResource]:
        return {each.ref: each for each in self.resources if each.kind == kind}

    def usage(self, _who: object) -> tuple[UsageTotal, ...]:
        return (UsageTotal(PROJECT, "bot", self.requests, 0, 0, 0),)

    def take_tokens(self) -> dict[str, tuple[int, int, int]]:
        taken, self.tokens = self.tokens, {}
        return taken

    def inflight(self) -> dict[str, int]:
        return self.running

    def routed(self) -> frozenset[str] | None:
        return frozenset() if self.is_told else None

    def pass_s(self, seconds: float, of: tuple[str, int]) -> Load:
        """Let time pass, and return what the dial shows then."""
        self.now_s += seconds
        return self.meters.look(self.busy, self.processes).get(of, Load())

    def tell(self, **rank: Any) -> None:
        uid = f"{TRAIN.uid}-0"
        known = self.processes.get(uid) or Process(uid, 1, "running", pid=1)
        self.processes[uid] = replace(known, ranks=(Rank(0, pid=1, **rank),))


def test_a_reading_decides_where_there_is_one_and_is_the_mean_over_all_that_is_held() -> None:
    stage = Stage(TRAIN)
    stage.busy = {"a": {"0": 0.9, "1": 0.1}}
    stage.tell(step=5)
    assert stage.pass_s(0, JOB) == Load(0.0, 0.0)
    assert stage.pass_s(10, JOB) == Load(10.0, 5.0)
    assert stage.pass_s(4, JOB) == Load(10.0, 5.0), "it was looked a moment ago"
    assert stage.pass_s(2, JOB) == Load(16.0, 8.0), "and no second is lost by that"


def test_time_in_which_nobody_looked_is_not_known() -> None:
    stage = Stage(TRAIN)
    stage.busy = {"a": {"0": 0.0, "1": 0.0}}
    stage.pass_s(0, JOB)
    assert stage.pass_s(86_400, JOB) == Load(BLIND_S, 0.0)


def test_half_a_reading_is_none_and_a_node_out_of_sight_tells_nothing() -> None:
    stage = Stage(TRAIN)
    stage.busy = {"a": {"0": 0.0}}
    stage.pass_s(0, JOB)
    assert stage.pass_s(10, JOB) == Load()
    stage.busy = {}
    assert stage.pass_s(10, JOB) == Load()


@pytest.mark.parametrize(("said", "expected"), [
    ({"step": -1, "quiet_s": 9999.0}, Load()),
    ({"step": 3, "quiet_s": 59.0, "step_s": 1.0}, Load(10.0, 10.0)),
    ({"step": 3, "quiet_s": 61.0, "step_s": 1.0}, Load(10.0, 0.0)),
    ({"step": 3, "quiet_s": 900.0, "step_s": 200.0}, Load(10.0, 10.0)),
])  # fmt: skip
def test_without_readings_the_steps_of_a_job_are_its_sign_of_life(
    said: dict[str, Any], expected: Load
) -> None:
    stage = Stage(TRAIN)
    stage.tell(**said)
    stage.pass_s(0, JOB)
    assert stage.pass_s(10, JOB) == expected


def test_without_readings_requests_are_the_sign_of_life_of_a_service() -> None:
    stage = Stage(BOT)
    stage.pass_s(0, SERVICE)
    assert stage.pass_s(10, SERVICE) == Load(10.0, 0.0)
    stage.requests += 1
    assert stage.pass_s(10, SERVICE) == Load(20.0, 10.0)
    stage.running = {"replica-x": 1}
    assert stage.pass_s(10, SERVICE) == Load(30.0, 20.0)
    stage.running = {}
    assert stage.pass_s(10, SERVICE) == Load(40.0, 20.0)
    stage.is_told = False
    assert stage.pass_s(10, SERVICE) == Load(40.0, 20.0), "no gateway has said anything"


def test_a_service_that_is_not_ready_yet_is_not_idle() -> None:
    stage = Stage(BOT.with_status(phase=ReplicaPhase.STARTING))
    stage.pass_s(0, SERVICE)
    assert stage.pass_s(10, SERVICE) == Load()


def test_of_processors_their_time_counts() -> None:
    held = Holding(node="a", accelerators=("a-0",), cores=4.0)
    stage = Stage(TRAIN.with_status(places=(held,)), kind="cpu")
    uid = f"{TRAIN.uid}-0"
    for at, cpu_s, expected in [
        (0, 1.0, Load()), (10, 21.0, Load(10.0, 5.0)), (10, 21.0, Load(20.0, 5.0)),
        (10, 0.0, Load(20.0, 5.0)), (10, 5.0, Load(20.0, 5.0)), (10, 99.0, Load(30.0, 15.0)),
    ]:  # fmt: skip
        stage.processes[uid] = Process(uid, 1, "running", pid=1, cpu_s=cpu_s)
        assert stage.pass_s(at, JOB) == expected, cpu_s


def test_what_is_gone_has_no_dial_and_a_new_epoch_has_a_new_one() -> None:
    stage = Stage(BOT)
    stage.pass_s(0, SERVICE)
    assert stage.pass_s(10, SERVICE).known_s == 10.0
    stage.resources[-1] = BOT.with_status(epoch=4)
    assert stage.pass_s(10, SERVICE) == Load()
    assert stage.pass_s(10, ("replica-x", 4)).known_s == 20.0
    stage.resources.pop()
    assert stage.pass_s(10, ("replica-x", 4)) == Load()
