"""What holds in every world, however it came about."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from madang.planning.action import assume
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.snapshot import Demand
from madang.resources.place import Pool, PoolSpec, PoolStatus
from madang.resources.replica import HOLDING
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, model, node, service, snapshot
from madang.testing.paper import Paper

pytestmark = pytest.mark.timeout(600)
"""A quarter of a minute of processor time; on a busy machine that is long."""

SCALES = st.one_of(st.integers(0, 4), st.sampled_from(["0..3", "1..4"]))
NAMES = st.sampled_from(["a", "b", "c"])
POOL = Pool(name="default", uid="pool", spec=PoolSpec(site="s"), status=PoolStatus())


class World(RuleBasedStateMachine):
    """People, hardware and time do what they like; control turns now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.paper = Paper(
            snapshot(
                node("gpu", cards=2, memory_gb=80),
                node("mix", cards=2, kind="nvidia/l40s", memory_gb=48),
                node("box", cards=1, kind="cpu", memory_gb=64, shared=True),
                model(size_gb=4), model("big", size_gb=70), [POOL],
            )
        )  # fmt: skip
        self.paper.snapshot = replace(self.paper.snapshot, moves_per_100=20)
        self.epochs: dict[str, int] = {}
        self.made = 0
        self.works: set[str] = set()

    @rule(name=NAMES, scale=SCALES, kind=st.sampled_from(["", "cpu", "nvidia"]),
          weights=st.sampled_from(["tiny", "big", "none"]))  # fmt: skip
    def apply(self, name: str, scale: int | str, kind: str, weights: str) -> None:
        wanted = service(name, scale=scale, model=weights, needs={"accelerator": kind})
        known = self.paper.snapshot.services.get(wanted.ref)
        if known is None:
            self.made += 1
            self.paper.put(wanted.model_copy(update={"uid": f"service-{name}-{self.made}"}))
        elif known.deleted_at is None and known.spec != wanted.spec:
            again = {"spec": wanted.spec, "generation": known.generation + 1}
            self.paper.put(known.model_copy(update=again))

    @rule(name=NAMES, busy=st.integers(0, 40), waiting=st.integers(0, 9),
          wait_s=st.sampled_from([0.0, 9.0]), known_s=st.sampled_from([0.0, 9999.0]))  # fmt: skip
    def call(self, name: str, busy: int, waiting: int, wait_s: float, known_s: float) -> None:
        told = Demand(busy, min(busy, waiting), wait_s, busy, known_s)
        seen = self.paper.snapshot.seen
        demand = {**seen.demand, Ref(PROJECT, name): told}
        self.paper.snapshot = replace(self.paper.snapshot, seen=replace(seen, demand=demand))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        known = self.paper.snapshot.services.get(Ref(PROJECT, name))
        if known and known.deleted_at is None:
            self.paper.put(known.model_copy(update={"deleted_at": self.paper.now}))

    @precondition(lambda self: self.paper.snapshot.seen.processes)
    @rule(data=st.data(), code=st.sampled_from([-9, 1, 0]))
    def kill(self, data: st.DataObject, code: int) -> None:
        uids = sorted(self.paper.snapshot.seen.processes)
        self.paper.kill(data.draw(st.sampled_from(uids)), code)

    @rule(name=st.sampled_from(["gpu", "mix", "box"]), lost=st.booleans())
    def sight(self, name: str, lost: bool) -> None:
        (self.paper.lose if lost else self.paper.find)(name)

    @precondition(lambda self: self.paper.snapshot.replicas)
    @rule(data=st.data())
    def deafen(self, data: st.DataObject) -> None:
        uids = sorted(r.uid for r in self.paper.snapshot.replicas.values())
        self.paper.deaf ^= {data.draw(st.sampled_from(uids))}

    @rule(kw=st.sampled_from([None, 0.0, 0.1, 0.8, 1.5]))
    def limit(self, kw: float | None) -> None:
        self.allow(kw)

    def allow(self, kw: float | None) -> None:
        known = self.paper.snapshot.all(Pool)[POOL.ref]
        spec = known.spec.model_copy(update={"power_kw_max": kw})
        self.paper.put(known.model_copy(update={"spec": spec}))

    @rule(passes=st.booleans())
    def judge(self, passes: bool) -> None:
        self.paper.passes = passes

    @rule(known=st.booleans(), data=st.data())
    def route(self, known: bool, data: st.DataObject) -> None:
        uids = sorted(r.uid for r in self.paper.snapshot.replicas.values())
        routed = frozenset(data.draw(st.lists(st.sampled_from(uids), max_size=3)) if uids else ())
        seen = replace(self.paper.snapshot.seen, routed=routed if known else None)
        self.paper.snapshot = replace(self.paper.snapshot, seen=seen)

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 120.0, 900.0]))
    def wait(self, seconds: float) -> None:
        self.paper.wait(seconds)

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
        one, other = plan(now, self.paper.memo), plan(replace(now, kept=turned), Memo())
        assert one == other == plan(now, self.paper.memo)

    @invariant()
    def no_accelerator_is_given_twice(self) -> None:
        held: dict[str, list[int]] = {}
        for replica in self.paper.snapshot.replicas.values():
            for name in replica.status.accelerators:
                held.setdefault(name, []).append(replica.status.memory_bytes)
            if replica.status.phase in HOLDING:
                assert replica.status.accelerators
        for name, sizes in held.items():
            card = self.paper.snapshot.accelerators[Ref("", name)].spec
            assert sum(sizes) <= card.memory_bytes
            assert card.shared or len(sizes) == 1

    @invariant()
    def no_pool_above_its_limit_sets_more_to_work(self) -> None:
        now = self.paper.snapshot
        works = {name for r in now.replicas.values() for name in r.status.accelerators}
        watts = {card.name: card.spec.watts for card in now.accelerators.values()}
        known = {name: figure for name, figure in watts.items() if figure}
        drawn = sum(w.full if name in works else w.idle for name, w in known.items())
        most = now.all(Pool)[POOL.ref].spec.power_kw_max
        if most is not None:
            new = {name for name in works - self.works if not name.startswith("box")}
            assert new <= known.keys(), "nobody knows what these draw"
            assert not new or drawn <= most * 1000
        self.works = works

    @invariant()
    def epochs_only_grow(self) -> None:
        for replica in self.paper.snapshot.replicas.values():
            assert replica.status.epoch >= self.epochs.get(replica.uid, 0)
            self.epochs[replica.uid] = replica.status.epoch

    def teardown(self) -> None:
        """Left alone in an ideal world, it becomes quiet."""
        paper = self.paper
        paper.deaf.clear()
        paper.passes = True
        self.allow(None)
        for name in ("gpu", "mix", "box"):
            paper.find(name)
        seen = replace(paper.snapshot.seen, routed=frozenset())
        paper.snapshot = replace(paper.snapshot, seen=seen)
        assert paper.settle() < 400
        running = set(paper.snapshot.seen.processes)
        assert running <= {r.uid for r in paper.snapshot.replicas.values()}, "nothing leaks"


TestWorld = pytest.mark.thorough(World.TestCase)
TestWorld.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
