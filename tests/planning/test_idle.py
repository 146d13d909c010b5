"""Idleness: what is used is added up once; who stands idle is warned, and only then loses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from madang.planning.action import Verb
from madang.planning.ages import watched
from madang.planning.explain import explain
from madang.planning.plan import plan
from madang.planning.snapshot import Load
from madang.planning.use.idle import WARNED_AT
from madang.planning.use.metering import used_by, used_in
from madang.resources.attempt import Attempt, AttemptPhase
from madang.resources.idle import MonthUse
from madang.resources.job import Job, JobPhase
from madang.resources.month import month_of
from madang.resources.replica import Replica
from madang.resources.resource import Ref
from madang.resources.tenancy import Project, ProjectSpec, ProjectStatus
from madang.testing.builders import PROJECT, job, model, node, pool, quota, service, snapshot
from madang.testing.examples import examples
from madang.testing.paper import Paper

HOUR_S, DAY_S = 3600.0, 86_400.0
NOON = 1_795_050_000.0
"""At the turn of an hour, in the middle of a month of Korea."""
POLICY = {"below": 0.3, "over": "1d"}
WANTED = {"accelerator": "nvidia", "count": 2}


class Yard(Paper):
    """A world in which everybody's accelerators are as busy as is said."""

    def spend(self, seconds: float, busy: float | None, step_s: float = HOUR_S / 2) -> None:
        """Let time pass in which what runs is that busy; None: nobody knows."""
        while seconds > 0:
            passed = min(step_s, seconds)
            self.wait(passed)
            if busy is not None:
                self.show_busy(passed, busy)
            for _ in range(8):
                if not self.turn().actions:
                    break
            seconds -= passed

    def show_busy(self, seconds: float, busy: float) -> None:
        loads = dict(self.snapshot.seen.loads)
        for owner in (*self.snapshot.living, *self.snapshot.replicas.values()):
            is_replica = isinstance(owner, Replica)
            key = owner.uid, owner.status.epoch if is_replica else owner.spec.number
            before = loads.get(key, Load())
            loads[key] = Load(before.known_s + seconds, before.busy_s + seconds * busy)
        self._see(loads=loads)

    def restart(self) -> None:
        """Let control begin anew: it has watched nothing, and measured nothing."""
        self._see(loads={})
        stored = [each for own in self.snapshot.kept.values() for each in own.values()]
        ages = watched({}, stored, (), self.snapshot.steady_s)
        self.snapshot = replace(self.snapshot, term=self.snapshot.term + 1, ages=ages)

    def sums(self) -> tuple[MonthUse, ...]:
        return used_in(next(iter(self.snapshot.all(Project).values())), self.snapshot)

    def verbs(self, of: Verb) -> int:
        return sum(action.verb is of for planned in self.done for action in planned.actions)

    @property
    def train(self) -> Job:
        return self.snapshot.jobs[Ref(PROJECT, "train")]

    @property
    def newest(self) -> Attempt:
        return self.attempts("train")[-1]


def project(name: str = PROJECT) -> Project:
    short = name.rpartition("/")[2]
    return Project(
        project=name, name=short, uid=f"p-{name}", spec=ProjectSpec(), status=ProjectStatus()
    )


def running(*more: Any, now: float = NOON, priced: dict[str, object] | None = None) -> Yard:
    """Return a world in which a job has two accelerators at 1,200 won an hour each."""
    priced = {"price_krw_per_hour": {"nvidia": 1200}, **(priced or {})}
    yard = Yard(
        snapshot([project(), pool(**priced)], node("a", cards=4), job(needs=WANTED), *more, now=now)
    )
    yard.settle(1.0)
    yard.tell(yard.newest, 0, step=1)
    return yard


def hours(yard: Yard) -> tuple[float, float, float]:
    (found,) = used_by(list(yard.snapshot.all(Project).values()), month_of(yard.now).number,
                       yard.snapshot)  # fmt: skip
    return found.held_h, found.used_h, found.idle_h


def test_what_is_held_used_and_idle_is_added_up_with_what_it_costs() -> None:
    yard = running()
    yard.spend(10 * HOUR_S, 0.25)
    began = yard.newest.status.started_at
    (found,) = used_by(list(yard.snapshot.all(Project).values()), 202611, yard.snapshot)
    held = 2 * (yard.now - began) / HOUR_S
    assert found.held_h == pytest.approx(held, abs=0.001)
    assert (found.used_h, found.idle_h) == pytest.approx((5, 15), abs=0.001)
    assert found.unmeasured_h == pytest.approx(held - 20, abs=0.001)
    assert found.used == pytest.approx(0.25)
    assert found.krw == pytest.approx(held * 1200, abs=2)
    assert found.idle_krw == pytest.approx(15 * 1200, abs=2)
    assert [use.accelerator for use in found.kinds] == ["nvidia/h100"]


def test_a_meter_is_written_with_its_sum_and_hourly_not_with_every_look() -> None:
    yard = running()
    for _ in range(5):
        yard.spend(600, 1.0, step_s=60)
    assert yard.verbs(Verb.METER) <= 1
    yard.spend(HOUR_S, 1.0, step_s=60)
    assert yard.verbs(Verb.METER) <= 2
    (read, *_) = [
        planned for planned in yard.done if any(a.verb is Verb.METER for a in planned.actions)
    ]
    changed, _ = read.intent()
    assert {each.kind for each in changed} == {"attempt", "project"}
    assert not any(action.verb is Verb.METER for action in read.telling())


def test_a_meter_is_read_at_the_turn_of_the_hour_though_none_was_due_for_many_turns() -> None:
    yard = running(now=NOON - 600)
    yard.spend(480, 1.0, step_s=60)
    assert yard.verbs(Verb.METER) == 0
    yard.spend(240, 1.0, step_s=60)
    assert yard.verbs(Verb.METER) == 1


def test_a_meter_is_read_after_an_hour_though_the_clock_was_set_back() -> None:
    yard = running(now=NOON + 60)
    yard.spend(120, 1.0, step_s=60)
    yard.leap(-1800)
    yard.spend(HOUR_S - 300, 1.0, step_s=60)
    assert yard.verbs(Verb.METER) == 0
    yard.spend(300, 1.0, step_s=60)
    assert yard.verbs(Verb.METER) == 1


def test_what_has_ended_is_counted_once_and_never_again() -> None:
    yard = running()
    yard.spend(3 * HOUR_S, 0.5)
    for rank in range(2):
        yard.tell(yard.newest, rank, exit_code=0, ended_at=yard.now, pid=0, step=9)
    yard.settle()
    assert yard.train.status.phase is JobPhase.SUCCEEDED
    then = yard.sums()
    yard.spend(5 * HOUR_S, 0.5)
    assert yard.sums() == then
    (use,) = then
    assert use.busy == pytest.approx(3 * HOUR_S * 1000, rel=0.001)
    assert use.held >= use.busy + use.idle


def test_a_gang_holds_what_it_has_on_all_its_nodes() -> None:
    hardware = [node(name, cards=2) for name in ("a", "b")]
    yard = Yard(snapshot([project(), pool()], *hardware, job(needs=WANTED, nodes=2), now=NOON))
    yard.settle(1.0)
    began = yard.newest.status.started_at
    yard.spend(3 * HOUR_S, 1.0)
    assert hours(yard)[0] == pytest.approx(4 * (yard.now - began) / HOUR_S, abs=0.001)


def test_no_reading_makes_one_idle_for_longer_than_it_held_anything() -> None:
    yard = running(quota(reclaim=POLICY))
    yard.spend(HOUR_S, 0.0)
    yard.show_busy(50 * HOUR_S, 0.0)
    yard.spend(HOUR_S, 0.0)
    meter = yard.newest.status.meter
    assert meter is not None
    assert meter.idle_s <= 2 * HOUR_S
    assert yard.verbs(Verb.WARN_IDLE) == 0


def test_what_no_meter_was_read_for_yet_is_told_with_the_rest() -> None:
    yard = running()
    yard.spend(120, 1.0, step_s=60)
    assert yard.verbs(Verb.METER) == 0
    assert hours(yard)[1] == pytest.approx(2 * 120 / HOUR_S, rel=0.01)


def test_two_years_are_kept_of_a_project_and_no_more() -> None:
    old = [(year, month) for year in (2024, 2025, 2026) for month in range(1, 13)][:34]
    used = tuple(
        MonthUse(month=100 * year + month, accelerator="nvidia/h100", held=1, busy=1)
        for year, month in old
    )
    yard = running()
    known = next(iter(yard.snapshot.all(Project).values()))
    yard.put(known.with_status(used=used))
    yard.spend(3 * HOUR_S, 1.0)
    (stored,) = yard.snapshot.all(Project).values()
    assert [use.month for use in stored.status.used] == [
        100 * year + month for year, month in [*old, (2026, 11)][-24:]
    ]


def test_what_nobody_measured_is_held_and_neither_used_nor_idle() -> None:
    yard = running(quota(reclaim=POLICY))
    yard.spend(3 * DAY_S, None)
    held, used, idle = hours(yard)
    assert (used, idle) == (0.0, 0.0)
    assert held == pytest.approx(2 * 72, abs=0.1)
    assert yard.train.status.phase is JobPhase.RUNNING
    assert not yard.verbs(Verb.WARN_IDLE)


def test_a_month_ends_in_seoul_and_each_gets_its_part() -> None:
    end = month_of(NOON).ends
    yard = running(now=end - HOUR_S)
    yard.spend(2 * HOUR_S, 1.0)
    first, second = yard.sums()
    assert (first.month, second.month) == (202611, 202612)
    began = yard.newest.status.started_at
    assert first.held == pytest.approx(2000 * (end - began), abs=2)
    assert second.held == pytest.approx(2000 * (yard.now - end), abs=2)


@pytest.mark.parametrize("jump_s", [-40 * DAY_S, 400 * DAY_S])
def test_a_clock_that_is_set_takes_nothing_and_adds_nothing(jump_s: float) -> None:
    yard = running(quota(reclaim=POLICY))
    yard.spend(5 * HOUR_S, 0.0)
    yard.leap(jump_s)
    yard.turn()
    yard.spend(HOUR_S, 0.0)
    assert yard.train.status.phase is JobPhase.RUNNING
    assert not yard.verbs(Verb.WARN_IDLE)
    held = sum(use.held for use in yard.sums())
    assert held == pytest.approx(2000 * 6 * HOUR_S, rel=0.01)


def test_a_control_that_begins_anew_goes_on_with_the_sums_and_with_the_idleness() -> None:
    yard = running(quota(reclaim=POLICY))
    yard.spend(10 * HOUR_S, 0.0)
    yard.restart()
    yard.spend(3 * HOUR_S, 0.0)
    held, _, idle = hours(yard)
    assert held == pytest.approx(26, abs=0.05)
    assert idle == pytest.approx(26, abs=0.05), "it ended at the turn of an hour"
    assert yard.verbs(Verb.WARN_IDLE) == 1


def test_who_is_idle_is_warned_first_then_saves_and_rests_until_it_is_resumed() -> None:
    yard = running(quota(reclaim=POLICY))
    yard.spend(11 * HOUR_S, 0.1)
    assert not yard.verbs(Verb.WARN_IDLE)
    yard.spend(2 * HOUR_S, 0.1)
    assert yard.verbs(Verb.WARN_IDLE) == 1
    told = explain(yard.train, yard.snapshot).reason
    assert told
    assert (told.code, told.values["percent"], told.values["left"]) == (
        "idle.warned-job",
        30,
        "11h",
    )
    yard.tell(yard.newest, 0, step=7)
    yard.spend(10 * HOUR_S, 0.1)
    assert yard.newest.status.phase is AttemptPhase.RUNNING
    yard.spend(4 * HOUR_S, 0.1)
    assert yard.newest.status.cause
    assert yard.newest.status.cause.code == "idle.suspended"
    assert [saved.step for saved in yard.train.status.checkpoints] == [7], "it was asked to save"
    assert not list(yard.snapshot.holdings())
    told = explain(yard.train, yard.snapshot).reason
    assert told
    assert told.code == "job.rests"
    yard.spend(2 * DAY_S, 0.0)
    assert yard.newest.spec.number == 1
    yard.put(yard.train.with_status(rests=False))
    yard.settle()
    assert yard.newest.spec.number == 2


def test_use_takes_the_warning_back_and_all_begins_anew() -> None:
    yard = running(quota(reclaim=POLICY))
    yard.spend(20 * HOUR_S, 0.0)
    assert yard.newest.status.reason
    yard.spend(HOUR_S + 900, 0.8)
    assert (yard.newest.status.reason, yard.verbs(Verb.BUSY_AGAIN)) == (None, 1)
    yard.spend(11 * HOUR_S, 0.0)
    assert yard.verbs(Verb.WARN_IDLE) == 1
    assert yard.newest.status.phase is AttemptPhase.RUNNING


@pytest.mark.parametrize(("then", "job_rests", "replicas"), [
    ("warn", False, 2), ("suspend", True, 2), ("scale-down", True, 0),
])  # fmt: skip
def test_the_policy_says_what_becomes_of_whom(then: str, job_rests: bool, replicas: int) -> None:
    yard = running(
        model(), service(scale=2, needs={"accelerator": "nvidia", "memory": "80GB"}),
        quota(reclaim={**POLICY, "then": then}),
    )  # fmt: skip
    yard.settle()
    assert len(yard.replicas("bot")) == 2
    yard.spend(3 * DAY_S, 0.0)
    assert yard.train.status.rests is job_rests
    bot = yard.snapshot.services[Ref(PROJECT, "bot")]
    assert (len(yard.replicas("bot")), bot.wanted) == (replicas, replicas)
    assert bot.status.reason
    expected = "service.rests" if not replicas else (
        "idle.warned-only" if then in {"warn", "suspend"} else ""
    )  # fmt: skip
    assert bot.status.reason.code == expected


def test_a_service_that_rests_has_its_replicas_again_once_it_is_resumed_or_changed() -> None:
    yard = running(
        model(), service(scale=2, needs={"accelerator": "nvidia", "memory": "80GB"}),
        quota(reclaim={**POLICY, "then": "scale-down"}),
    )  # fmt: skip
    yard.spend(2 * DAY_S, 0.0)
    bot = yard.snapshot.services[Ref(PROJECT, "bot")]
    assert bot.status.rested == 2
    changed = {"spec": bot.spec.model_copy(update={"scale": 1}), "generation": bot.generation + 1}
    yard.put(bot.model_copy(update=changed))
    yard.settle()
    assert len(yard.replicas("bot")) == 1


def test_the_nearest_policy_holds_and_without_one_nothing_is_taken() -> None:
    for policies, is_taken in [
        ((), False),
        ((quota("acme", reclaim=POLICY),), True),
        ((quota("acme", reclaim=POLICY), quota(reclaim={**POLICY, "then": "warn"})), False),
        ((quota("acme", reclaim={**POLICY, "then": "warn"}), quota(reclaim=POLICY)), True),
        ((quota(), quota("acme", reclaim=POLICY)), True),
    ]:
        yard = running(*policies)
        yard.spend(2 * DAY_S, 0.0)
        assert yard.train.status.rests is is_taken, policies
    yard = running(priced={"reclaim": POLICY})
    yard.spend(2 * DAY_S, 0.0)
    assert yard.train.status.rests


def test_a_policy_that_is_made_stricter_warns_before_it_takes() -> None:
    yard = running(quota(reclaim={**POLICY, "over": "20d"}))
    yard.spend(9 * DAY_S, 0.0)
    (limit,) = yard.snapshot.quotas.values()
    yard.put(limit.model_copy(update={"spec": quota(reclaim=POLICY).spec}))
    yard.spend(2 * HOUR_S, 0.0)
    assert (yard.verbs(Verb.WARN_IDLE), yard.train.status.rests) == (1, False)
    yard.spend(9 * HOUR_S, 0.0)
    assert not yard.train.status.rests
    yard.spend(3 * HOUR_S, 0.0)
    assert yard.train.status.rests


def test_who_was_idle_by_another_policy_is_measured_anew() -> None:
    yard = running(quota(reclaim={**POLICY, "over": "2d"}))
    yard.spend(20 * HOUR_S, 0.2)
    (limit,) = yard.snapshot.quotas.values()
    yard.put(limit.model_copy(update={"spec": quota(reclaim={**POLICY, "below": 0.1}).spec}))
    yard.turn()
    yard.spend(2 * DAY_S, 0.2)
    assert not yard.verbs(Verb.WARN_IDLE)


def test_replicas_that_stand_idle_at_once_are_taken_at_once() -> None:
    yard = Yard(snapshot(
        [project()], node("a", cards=4), model(), quota(reclaim={**POLICY, "then": "scale-down"}),
        service(scale=2, needs={"accelerator": "nvidia", "memory": "80GB"}), now=NOON,
    ))  # fmt: skip
    yard.settle()
    yard.spend(26 * HOUR_S, 0.0)
    assert yard.snapshot.services[Ref(PROJECT, "bot")].status.rested == 2
    assert (yard.replicas("bot"), yard.verbs(Verb.START_REPLICA)) == ([], 2)


def test_a_replica_that_is_started_again_is_measured_again() -> None:
    yard = Yard(snapshot(
        [project()], node("a"), model(), service(needs={"accelerator": "nvidia"}), now=NOON
    ))  # fmt: skip
    yard.settle()
    yard.spend(5 * HOUR_S, 1.0)
    (bot,) = yard.replicas("bot")
    yard.kill(bot.uid)
    yard.settle()
    assert yard.replicas("bot")[0].status.epoch > bot.status.epoch
    yard.spend(5 * HOUR_S, 1.0)
    assert sum(use.busy for use in yard.sums()) == pytest.approx(10 * HOUR_S * 1000, rel=0.01)


def test_two_plans_of_one_moment_count_nothing_twice() -> None:
    yard = running(quota(reclaim=POLICY))
    yard.wait(3 * HOUR_S)
    yard.show_busy(3 * HOUR_S, 0.4)
    yard.turn()
    assert not plan(yard.snapshot).actions
    assert sum(use.busy for use in yard.sums()) == pytest.approx(2.4 * HOUR_S * 1000, rel=0.001)


MOMENTS = st.tuples(
    st.floats(300, 4 * HOUR_S), st.one_of(st.none(), st.floats(0, 1)),
    st.sampled_from(["", "", "", "restart", "back", "forth"]),
)  # fmt: skip


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(MOMENTS, min_size=1, max_size=40))
def test_whatever_happens_nothing_is_taken_but_what_was_measured_idle_and_warned_of(
    moments: list[tuple[float, float | None, str]],
) -> None:
    yard = running(quota(reclaim={"below": 0.3, "over": "12h"}))
    measured_idle_s, since_warning_s, was_warned = 0.0, 0.0, False
    for seconds, busy, event in moments:
        if event == "restart":
            yard.restart()
        elif event:
            yard.leap(DAY_S * (300 if event == "forth" else -1))
        yard.spend(seconds, busy)
        is_idle = busy is not None and busy < 0.3
        measured_idle_s += seconds if is_idle else 0.0
        since_warning_s += seconds if is_idle and was_warned else 0.0
        was_warned = was_warned or yard.verbs(Verb.WARN_IDLE) > 0
        if yard.train.status.rests:
            assert measured_idle_s >= 12 * HOUR_S
            assert was_warned
            assert since_warning_s + seconds >= (1 - WARNED_AT) * 12 * HOUR_S
            break
    for use in yard.sums():
        assert use.busy >= 0
        assert use.idle >= 0
        assert use.busy + use.idle <= use.held
