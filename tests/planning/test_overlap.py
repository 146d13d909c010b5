"""A full quota has room for one that takes over from what still serves, and for no second one."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from madang.planning.action import Verb
from madang.planning.explain import explain
from madang.resources.attempt import AttemptPhase
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, job, model, node, quota, service, snapshot
from madang.testing.paper import Paper

READY = ReplicaPhase.READY
pytestmark = pytest.mark.timeout(600)
ONE = {"accelerator": "nvidia"}


def full(scale: int, *more: object, limit: int = 0, nodes: int = 4) -> Paper:
    """Return a world in which a service has all that its project may have."""
    paper = Paper(snapshot(
        *(node(f"n{i}", cards=2) for i in range(nodes)), model(), *more,
        quota(accelerators={"nvidia": limit or scale}),
    ))  # fmt: skip
    paper.put(service("bot", scale=scale, needs=ONE))
    paper.settle()
    return paper


def revise(paper: Paper, name: str = "bot", **spec: object) -> None:
    """Give a service something new to serve."""
    known = paper.snapshot.services[Ref(PROJECT, name)]
    asked = {"scale": known.spec.scale, "needs": ONE, "throughput": 2.0, **spec}
    changed = service(name, **asked)
    paper.put(known.model_copy(
        update={"spec": changed.spec, "generation": known.generation + 1}
    ))  # fmt: skip


def held(paper: Paper) -> int:
    return sum(len(h.accelerators) for h in paper.snapshot.holdings())


def serving(paper: Paper, name: str = "bot") -> int:
    return sum(r.status.phase is READY for r in paper.replicas(name))


def watch(paper: Paper, *names: str, seconds: int = 60) -> tuple[int, int]:
    """Let time pass; return the fewest that served of each, and the most that was held."""
    fewest, most = 99, 0
    for _ in range(seconds):
        paper.turn()
        paper.wait(1.0)
        fewest = min(fewest, *(serving(paper, name) for name in names or ("bot",)))
        most = max(most, held(paper))
    return fewest, most


def limit(paper: Paper, count: int) -> None:
    """Set the quota anew."""
    (known,) = paper.snapshot.quotas.values()
    paper.put(known.model_copy(update={"spec": quota(accelerators={"nvidia": count}).spec}))


def drain(paper: Paper, name: str, *, is_emptied: bool = True) -> None:
    known = paper.snapshot.nodes[Ref("", name)]
    emptied = known.spec.model_copy(update={"drain": is_emptied})
    paper.put(known.model_copy(update={"spec": emptied}))


def test_a_service_at_its_quota_goes_from_revision_to_revision_and_serves_all_the_time() -> None:
    paper = full(2)
    revise(paper)
    assert watch(paper) == (2, 3), "one more than the quota allows, and never a second one"
    assert {r.spec.revision for r in paper.replicas("bot")} == {"bot-2"}
    assert held(paper) == 2


def test_what_serves_on_a_node_that_is_emptied_has_its_successor_first() -> None:
    paper = full(2, nodes=2)
    emptied = paper.replicas("bot")[0].status.node
    drain(paper, emptied)
    fewest, most = watch(paper)
    assert (fewest, most) == (2, 3)
    assert emptied not in {r.status.node for r in paper.replicas("bot")}
    assert held(paper) == 2


def test_a_service_that_wants_more_than_it_may_have_is_revised_all_the_same() -> None:
    paper = full(4, limit=2)
    assert serving(paper) == 2
    revise(paper)
    assert watch(paper) == (2, 3)
    assert {r.spec.revision for r in paper.replicas("bot") if r.status.accelerators} == {"bot-2"}


def test_two_services_are_revised_one_after_the_other() -> None:
    paper = full(1, limit=2)
    paper.put(service("other", needs=ONE))
    paper.settle()
    revise(paper)
    revise(paper, "other")
    assert watch(paper, "bot", "other") == (1, 3)
    assert {r.spec.revision for r in paper.snapshot.replicas.values()} == {"bot-2", "other-2"}


def test_nobody_makes_way_for_an_overlap_and_nobody_else_gets_in_by_one() -> None:
    paper = full(1, job("a", needs=ONE, created_at=1.0), limit=2)
    paper.put(job("b", needs=ONE, created_at=2.0))
    paper.settle()
    revise(paper)
    assert watch(paper) == (1, 3)
    phases = {a.spec.job: a.status.phase for a in paper.snapshot.attempts.values()}
    assert phases == {"a": AttemptPhase.RUNNING}, "of before, and b still waits"
    assert not any(
        action.verb is Verb.STOP_REPLICA and action.reason.code.startswith("quota.")
        for planned in paper.done for action in planned.actions
    )  # fmt: skip


def test_a_successor_that_needs_more_than_the_quota_leaves_beside_the_other_waits_and_says_so() -> (
    None
):
    paper = full(1)
    revise(paper, needs={**ONE, "count": 2})
    assert watch(paper) == (1, 1)
    (new,) = (r for r in paper.replicas("bot") if r.spec.revision == "bot-2")
    told = explain(new, paper.snapshot)
    assert told.reason
    assert (told.reason.code, told.reason.values["asked"]) == ("quota.accelerators", 2)


def test_one_that_fails_again_and_again_is_beyond_the_quota_no_more() -> None:
    paper = full(1)
    revise(paper)
    tries, beyond = set(), []
    for _ in range(100):
        paper.turn()
        for replica in paper.replicas("bot"):
            process = paper.snapshot.seen.processes.get(replica.uid)
            if replica.spec.revision == "bot-2" and process and process.state == "running":
                tries.add(replica.status.epoch)
                paper.kill(replica.uid, exit_code=1)
        paper.wait(10.0)
        beyond.append(held(paper) > 1)
        assert serving(paper) == 1
    assert len(tries) == 5, "as often as it takes until it has failed"
    assert any(beyond)
    assert not any(beyond[20:])
    (new,) = (r for r in paper.replicas("bot") if r.spec.revision == "bot-2")
    assert new.status.phase is ReplicaPhase.FAILED
    assert new.status.reason
    assert new.status.reason.code == "quota.accelerators"
    limit(paper, 2)
    paper.settle()
    assert {r.spec.revision for r in paper.replicas("bot")} == {"bot-2"}


def test_a_quota_that_is_lowered_meanwhile_counts_whoever_leaves_anyway_as_gone() -> None:
    paper = full(2, limit=3)
    revise(paper)
    paper.turn()
    assert held(paper) == 4, "one within the quota, and one beyond"
    limit(paper, 2)
    assert watch(paper) == (2, 4)
    assert held(paper) == 2
    left = [
        action.reason.code for planned in paper.done for action in planned.actions
        if action.verb is Verb.DRAIN_REPLICA
    ]  # fmt: skip
    assert left == ["revision.replaced"] * 2, "for what it is, and for no quota"


def test_a_quota_that_allows_nothing_any_more_has_both_leave() -> None:
    paper = full(2)
    revise(paper)
    paper.turn()
    limit(paper, 0)
    watch(paper, seconds=60)
    assert held(paper) == 0


class Turnover(RuleBasedStateMachine):
    """Two services fill their quota, are revised, and have their nodes emptied, in any order.

    Each serves all the time as often as it should, and one more than the quota is held at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paper = full(2, limit=3, nodes=3)
        self.paper.put(service("talk", needs=ONE))
        self.paper.settle()
        self.limit, self.serial = 3, 1.0

    @rule(name=st.sampled_from(["bot", "talk"]))
    def revise(self, name: str) -> None:
        self.serial += 1
        revise(self.paper, name, throughput=self.serial)

    @rule(name=st.sampled_from(["n0", "n1", "n2"]), is_emptied=st.booleans())
    def empty(self, name: str, is_emptied: bool) -> None:
        drain(self.paper, name, is_emptied=is_emptied)

    @rule(most=st.sampled_from([3, 4]))
    def allow(self, most: int) -> None:
        """Raise the quota, or lower it to what is needed once nobody has more."""
        if held(self.paper) <= most:
            self.limit = most
            limit(self.paper, most)

    @rule(seconds=st.integers(0, 3))
    def turn(self, seconds: int) -> None:
        self.paper.turn()
        self.paper.wait(seconds)

    @precondition(lambda self: self.paper.replicas("bot"))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """An engine ends before it serves."""
        coming = [
            r.uid for r in self.paper.snapshot.replicas.values()
            if r.status.phase is ReplicaPhase.STARTING
            and r.uid in self.paper.snapshot.seen.processes
        ]  # fmt: skip
        if coming:
            self.paper.kill(data.draw(st.sampled_from(coming)), exit_code=1)

    @invariant()
    def one_more_than_the_quota_is_held_at_most(self) -> None:
        assert held(self.paper) <= self.limit + 1

    @invariant()
    def all_serve_as_often_as_they_should(self) -> None:
        assert serving(self.paper) >= 2
        assert serving(self.paper, "talk") >= 1

    def teardown(self) -> None:
        """Left alone, all is of the newest revision, on nodes that stay, and within the quota."""
        for name in ("n0", "n1", "n2"):
            drain(self.paper, name, is_emptied=False)
        self.paper.settle(seconds=1500)
        assert (serving(self.paper), serving(self.paper, "talk"), held(self.paper)) == (2, 1, 3)
        newest = {s.status.revision for s in self.paper.snapshot.services.values()}
        assert {r.spec.revision for r in self.paper.snapshot.replicas.values()} == newest


TestTurnover = pytest.mark.thorough(Turnover.TestCase)
TestTurnover.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate],
)  # fmt: skip
"""Always the same histories; one that fails is told as it is."""
