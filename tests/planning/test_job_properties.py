"""What holds of jobs in every world, whatever ranks, nodes, people and control do."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from madang.planning.action import assume
from madang.planning.ages import watched
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.resources.attempt import Attempt, AttemptPhase
from madang.resources.job import OVER, Job
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, job, model, node, service, snapshot
from madang.testing.paper import Paper

pytestmark = pytest.mark.timeout(600)
"""A quarter of a minute of processor time; on a busy machine that is long."""

NAMES = st.sampled_from(["a", "b", "c"])
NODES = ["one", "two", "three", "box"]
LIVING = {AttemptPhase.STARTING, AttemptPhase.RUNNING}
ATTEMPTS = 6


class World(RuleBasedStateMachine):
    """Ranks step, save, hang and die; nodes vanish; people cancel; control starts anew."""

    def __init__(self) -> None:
        super().__init__()
        self.paper = Paper(
            snapshot(
                node("one", cards=2), node("two", cards=2),
                node("three", cards=2, kind="nvidia/l40s", memory_gb=48),
                node("box", kind="cpu", memory_gb=64, shared=True), model(size_gb=4),
            )
        )  # fmt: skip
        self.made = 0
        self.steps: dict[str, int] = {}
        self.numbers: dict[str, int] = {}
        self.over: dict[str, str] = {}

    @property
    def jobs(self) -> list[Job]:
        return list(self.paper.snapshot.jobs.values())

    def living(self) -> list[Attempt]:
        attempts = self.paper.snapshot.attempts.values()
        return [a for a in attempts if a.status.phase in LIVING]

    @rule(name=NAMES, nodes=st.integers(1, 2), count=st.integers(1, 2), after=st.booleans(),
          kind=st.sampled_from(["", "cpu", "nvidia"]))  # fmt: skip
    def submit(self, name: str, nodes: int, count: int, kind: str, after: bool) -> None:
        if Ref(PROJECT, name) in self.paper.snapshot.jobs:
            return
        self.made += 1
        is_card = kind == "nvidia"
        many = {"nodes": nodes} if is_card else {"ranks": count}
        needs = {"accelerator": kind, "count": count if is_card else 1}
        first = [chr(ord(name) - 1)] if after and name != "a" else []
        wanted = job(name, needs=needs, resume={"attempts": ATTEMPTS}, after=first, **many)
        changed = {"uid": f"job-{name}-{self.made}", "created_at": self.paper.now}
        self.paper.put(wanted.model_copy(update=changed))

    @rule(name=NAMES, ends=st.sampled_from(["cancel", "delete"]))
    def give_up(self, name: str, ends: str) -> None:
        known = self.paper.snapshot.jobs.get(Ref(PROJECT, name))
        if known and ends == "cancel":
            spec = known.spec.model_copy(update={"cancel": True})
            self.paper.put(known.model_copy(update={"spec": spec}))
        elif known and known.deleted_at is None:
            self.paper.put(known.model_copy(update={"deleted_at": self.paper.now}))

    @rule(scale=st.integers(0, 2))
    def serve(self, scale: int) -> None:
        wanted = service("bot", scale=scale, needs={"accelerator": "nvidia"})
        known = self.paper.snapshot.services.get(wanted.ref)
        if known is None:
            self.paper.put(wanted)
        elif known.spec != wanted.spec:
            again = {"spec": wanted.spec, "generation": known.generation + 1}
            self.paper.put(known.model_copy(update=again))

    @precondition(lambda self: self.living())
    @rule(data=st.data(), ahead=st.integers(1, 50), saves=st.booleans())
    def step(self, data: st.DataObject, ahead: int, saves: bool) -> None:
        attempt = data.draw(st.sampled_from(self.living()))
        steps = [rank.step for p in self.paper.snapshot.seen.processes.values() for rank in p.ranks
                 if p.uid.startswith(attempt.uid)]  # fmt: skip
        step = max([*steps, attempt.spec.first_step]) + ahead
        said = {"checkpoint": f"step-{step}"} if saves else {}
        self.paper.tell(attempt, 0, step=step, total=1000, step_s=0.5, **said)

    @precondition(lambda self: self.living())
    @rule(data=st.data(), rank=st.integers(0, 3), code=st.sampled_from([-9, 1, 0, 75]))
    def end(self, data: st.DataObject, rank: int, code: int) -> None:
        attempt = data.draw(st.sampled_from(self.living()))
        self.paper.tell(attempt, rank, exit_code=code, ended_at=self.paper.now, pid=0)

    @precondition(lambda self: self.living())
    @rule(data=st.data(), rank=st.integers(0, 3))
    def hang(self, data: st.DataObject, rank: int) -> None:
        self.paper.tell(data.draw(st.sampled_from(self.living())), rank, stalled=True, halted=True)

    @rule(name=st.sampled_from(NODES), lost=st.booleans())
    def sight(self, name: str, lost: bool) -> None:
        (self.paper.lose if lost else self.paper.find)(name)

    @precondition(lambda self: self.paper.snapshot.seen.processes)
    @rule(data=st.data())
    def deafen(self, data: st.DataObject) -> None:
        uids = sorted(self.paper.snapshot.seen.processes)
        self.paper.deaf ^= {data.draw(st.sampled_from(uids))}

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 120.0, 900.0]))
    def wait(self, seconds: float) -> None:
        self.paper.wait(seconds)

    @rule()
    def control_starts_anew(self) -> None:
        now = self.paper.snapshot
        known = [resource for kind in now.kept.values() for resource in kind.values()]
        ages = watched({}, known, (), now.steady_s)
        self.paper.snapshot = replace(now, term=now.term + 1, ages=ages)

    @rule()
    def turn(self) -> None:
        self.paper.turn()

    @invariant()
    def nothing_is_left_to_plan_once_a_plan_is_assumed(self) -> None:
        now = self.paper.snapshot
        assert plan(assume(now, plan(now))).actions == ()

    @invariant()
    def the_same_snapshot_gives_the_same_plan_with_any_memo_in_any_order(self) -> None:
        now = self.paper.snapshot
        turned = {k: dict(reversed(list(v.items()))) for k, v in reversed(list(now.kept.items()))}
        assert plan(now, self.paper.memo) == plan(replace(now, kept=turned), Memo())

    @invariant()
    def no_accelerator_is_given_twice(self) -> None:
        held: dict[str, list[int]] = {}
        for each in self.paper.snapshot.holdings():
            for name in each.accelerators:
                held.setdefault(name, []).append(each.memory_bytes)
        for name, sizes in held.items():
            card = self.paper.snapshot.accelerators[Ref("", name)].spec
            assert card.shared or len(sizes) == 1
            assert sum(sizes) <= card.memory_bytes

    @invariant()
    def a_gang_has_all_its_places_and_a_job_has_one_attempt(self) -> None:
        seen: set[Ref] = set()
        for attempt in self.living():
            spec = self.paper.snapshot.jobs[attempt.job].spec
            places = attempt.status.places
            assert len({place.node for place in places}) == len(places) == spec.nodes
            assert {len(place.accelerators) for place in places} == {spec.needs.count}
            assert attempt.job not in seen
            seen.add(attempt.job)

    @invariant()
    def what_is_reached_is_never_forgotten(self) -> None:
        for each in self.jobs:
            status = each.status
            assert status.step >= self.steps.get(each.uid, -1)
            assert all(c.step <= status.step for c in status.checkpoints)
            assert self.numbers.get(each.uid, 0) <= status.attempt <= ATTEMPTS
            self.steps[each.uid], self.numbers[each.uid] = status.step, status.attempt

    @invariant()
    def what_is_over_stays_over(self) -> None:
        for each in self.jobs:
            if each.uid in self.over:
                assert each.status.phase == self.over[each.uid]
            elif each.status.phase in OVER:
                self.over[each.uid] = each.status.phase
                assert not [a for a in self.living() if a.job == each.ref]

    def teardown(self) -> None:
        """Left alone in an ideal world every job comes to its end, and all is free again."""
        paper = self.paper
        paper.deaf.clear()
        for name in NODES:
            paper.find(name)
        for each in paper.snapshot.services.values():
            paper.put(each.model_copy(update={"deleted_at": paper.now}))
        seen = replace(paper.snapshot.seen, routed=frozenset())
        paper.snapshot = replace(paper.snapshot, seen=seen)
        for _ in range(3 * ATTEMPTS):
            paper.settle()
            for attempt in self.living():
                for rank in range(4):
                    paper.tell(attempt, rank, exit_code=0, ended_at=paper.now, pid=0)
        paper.settle()
        open_ones = {each.name for each in self.jobs if each.status.phase not in OVER}
        missing = {n for e in self.jobs for n in e.spec.after} - {e.name for e in self.jobs}
        assert not open_ones or missing, "each has come to its end"
        assert not list(paper.snapshot.holdings())
        assert not paper.snapshot.seen.processes, "nothing leaks"


TestWorld = pytest.mark.thorough(World.TestCase)
TestWorld.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
