"""Few moves of what runs, so that what waits finds room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from madang.planning.action import assume
from madang.planning.plan import plan
from madang.planning.services.moving import ARRIVALS, budget
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, model, node, quota, service, snapshot
from madang.testing.paper import Paper

READY = ReplicaPhase.READY
PAIR = {"count": 2, "accelerator": "nvidia"}


def scattered(moves: int = 5, scale: int = 2, **spec: object) -> Paper:
    """Return a world in which each of two nodes has one free card of two, and a pair waits."""
    paper = Paper(
        snapshot(node("a", cards=2), node("b", cards=2), model(), service("one", scale=4))
    )
    paper.settle()
    paper.snapshot = replace(paper.snapshot, moves_per_100=moves)
    held = {r.name: r.status.node for r in paper.replicas("one")}
    keep = [next(name for name, where in held.items() if where == each) for each in "ab"]
    # Two are forgotten, one on each node: not the youngest ones, as a rule of scaling would.
    gone = [r for r in paper.replicas("one") if r.name not in keep]
    known = paper.snapshot.services[Ref(PROJECT, "one")]
    fewer = known.spec.model_copy(update={"scale": scale, **spec})
    processes = {
        uid: p
        for uid, p in paper.snapshot.seen.processes.items()
        if uid not in {r.uid for r in gone}
    }
    seen = replace(paper.snapshot.seen, processes=processes)
    changed = known.model_copy(update={"spec": fewer, "generation": known.generation + 1})
    paper.snapshot = replace(paper.snapshot.after([changed], gone), seen=seen)
    paper.settle()
    paper.put(service("two", needs=PAIR))
    return paper


def where(paper, name):
    return [(r.status.phase, r.status.node) for r in paper.replicas(name)]


def test_one_move_makes_room_for_what_waits_and_at_no_time_does_less_serve():
    paper = scattered()
    serving = []
    for _ in range(40):
        paper.turn()
        paper.wait(1.0)
        serving.append(sum(r.status.phase is READY for r in paper.replicas("one")))
    assert min(serving) >= 2
    assert [phase for phase, _ in where(paper, "two")] == [READY]
    ones = where(paper, "one")
    assert [phase for phase, _ in ones] == [READY, READY]
    assert len({node for _, node in ones}) == 1, "together, so that two cards are free together"
    moved = [r.spec for r in paper.replicas("one") if r.spec.replaces]
    assert len(moved) == 1
    assert "two" not in moved[0].model_dump_json(), "it may be another project's"


def test_at_its_quota_one_is_moved_unless_something_else_takes_over_there_just_now():
    other, cheap = "acme/other", {"accelerator": "nvidia/l40s"}
    paper = scattered()
    (pair,) = (s for s in paper.snapshot.services.values() if s.name == "two")
    paper.snapshot = paper.snapshot.after([], [pair])
    paper.put(*node("c", cards=2, kind="nvidia/l40s", memory_gb=48), model(project=other))
    paper.snapshot = replace(
        paper.snapshot, seen=replace(paper.snapshot.seen, nodes=paper.snapshot.seen.nodes | {"c"})
    )
    talk = service("talk", needs=cheap)
    paper.put(talk, quota(accelerators={"nvidia": 3}))
    paper.settle()
    known = paper.snapshot.services[talk.ref]
    revised = service("talk", needs=cheap, throughput=2.0)
    paper.put(known.model_copy(update={"spec": revised.spec, "generation": 2}))
    paper.turn()
    assert {r.spec.revision for r in paper.replicas("talk")} == {"talk-1", "talk-2"}
    paper.put(service("two", project=other, needs=PAIR))
    for _ in range(3):
        paper.turn()
        assert not any(r.spec.replaces for r in paper.replicas("one"))
    paper.settle()
    assert where(paper, "two") == [(READY, where(paper, "two")[0][1])]
    assert any(r.spec.replaces for r in paper.replicas("one"))
    assert sum(phase is READY for phase, _ in where(paper, "one")) == 2


@pytest.mark.parametrize(
    ("moves", "spec"),
    [(0, {}), (5, {"scale": 1})],
    ids=["none is allowed", "only one replica is ready"],
)
def test_nothing_is_moved_where(moves, spec):
    paper = scattered(moves, **spec)
    if spec:
        paper.put(service("third", needs={"count": 1}))
    paper.settle()
    assert not any(r.spec.replaces for r in paper.snapshot.replicas.values())


def test_of_a_hundred_that_came_last_no_more_than_so_many_came_by_a_move():
    paper = scattered(moves=3)
    paper.settle()
    assert budget(paper.snapshot) == 0, "one of three, and one is always allowed"
    newest = paper.replicas("two")[0]
    more = [
        newest.model_copy(update={"name": f"x-1-{i}", "uid": f"x{i}", "created_at": 1e6 + i})
        for i in range(ARRIVALS)
    ]
    assert budget(paper.snapshot.after(more)) == 3, "those that came before count no more"
    none = replace(paper.snapshot.after(more), moves_per_100=0)
    assert budget(none) <= 0


def test_a_move_whose_successor_never_serves_is_given_up_and_costs_nothing():
    paper = scattered()
    while not any(r.spec.replaces for r in paper.replicas("one")):
        paper.turn()
        paper.wait(1.0)
    successor = next(r for r in paper.replicas("one") if r.spec.replaces)
    for _ in range(12):
        if successor.uid in paper.snapshot.seen.processes:
            paper.kill(successor.uid, exit_code=1)
        paper.turn()
        paper.wait(61.0)
    ready = [r for r in paper.replicas("one") if r.status.phase is READY]
    assert len(ready) >= 2


def test_a_move_under_way_is_not_planned_twice():
    paper = scattered()
    for _ in range(30):
        now = paper.snapshot
        assert plan(assume(now, plan(now))).actions == ()
        moving = [r for r in paper.replicas("one") if r.spec.replaces]
        assert len(moving) <= 1
        paper.turn()
        paper.wait(0.5)


def test_a_service_that_shrinks_while_one_of_it_moves_ends_with_what_it_wants():
    paper = scattered()
    while not any(r.spec.replaces for r in paper.replicas("one")):
        paper.turn()
        paper.wait(0.2)
    known = paper.snapshot.services[Ref(PROJECT, "one")]
    fewer = known.spec.model_copy(update={"scale": 1})
    paper.put(known.model_copy(update={"spec": fewer, "generation": known.generation + 1}))
    paper.settle(seconds=120)
    assert [phase for phase, _ in where(paper, "one")] == [READY]
