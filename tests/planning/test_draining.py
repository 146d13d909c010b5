"""Nodes that are emptied: nothing new there, and what is there leaves in order."""

from __future__ import annotations

from dataclasses import replace

from madang.planning.action import assume
from madang.planning.ask import Filter
from madang.planning.explain import explain
from madang.planning.plan import plan
from madang.resources.attempt import AttemptPhase, Outcome
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, job, model, node, service, snapshot
from madang.testing.paper import Paper

READY = ReplicaPhase.READY
CARD = {"accelerator": "nvidia"}


def drain(paper: Paper, name: str, *, wish: bool = True) -> None:
    known = paper.snapshot.nodes[Ref("", name)]
    paper.put(known.model_copy(update={"spec": known.spec.model_copy(update={"drain": wish})}))


def reason_of(paper: Paper, name: str) -> str:
    reason = paper.snapshot.nodes[Ref("", name)].status.reason
    return reason.code if reason else ""


def serving(paper: Paper) -> list[str]:
    own = paper.replicas("bot")
    return sorted(r.status.node for r in own if r.status.phase is READY)


def test_nothing_new_is_placed_on_a_node_that_is_emptied_and_the_smallest_fix_is_to_stop() -> None:
    paper = Paper(snapshot(node("n", cards=2), job(needs=CARD)))
    drain(paper, "n")
    paper.settle()
    status = paper.snapshot.jobs[Ref(PROJECT, "train")].status
    assert status.reason is not None
    assert status.smallest_fix is not None
    assert status.reason.values[f"fell_{Filter.DRAINED.value}"] == 1
    assert status.smallest_fix.code == "placement.fix-uncordon"
    assert reason_of(paper, "n") == "node.drained"
    drain(paper, "n", wish=False)
    paper.settle()
    assert paper.attempts("train")[0].status.phase is AttemptPhase.RUNNING
    assert not reason_of(paper, "n")


def test_a_gang_saves_and_goes_on_elsewhere() -> None:
    wanted = job(needs={**CARD, "count": 2}, nodes=2)
    paper = Paper(snapshot(*(node(f"n{i}", cards=2) for i in range(3)), wanted))
    paper.settle()
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=7)
    left = first.status.places[1].node
    drain(paper, left)
    paper.settle()
    first, second = paper.attempts("train")
    assert (first.status.outcome, second.spec.first_step) == (Outcome.PREEMPTED, 7)
    assert left not in {place.node for place in second.status.places}
    assert paper.snapshot.jobs[wanted.ref].status.preempted == 1


def test_a_service_serves_on_until_others_have_taken_over() -> None:
    many = {"scale": 20, "needs": CARD}
    paper = Paper(snapshot(node("a", cards=20), model(), service("bot", **many)))
    paper.settle()
    paper.put(*node("b", cards=20))
    paper.find("b")
    drain(paper, "a")
    least = []
    for _ in range(30):
        paper.turn()
        paper.wait(1.0)
        least.append(len(serving(paper)))
    assert min(least) >= 20
    assert serving(paper) == ["b"] * 20
    assert reason_of(paper, "a") == "node.drained"
    assert len(paper.replicas("bot")) == 20


def test_without_room_elsewhere_it_stays_and_the_node_says_how_much_is_left() -> None:
    paper = Paper(snapshot(node("a", cards=2), model(), service("bot", scale=2, needs=CARD)))
    paper.settle()
    drain(paper, "a")
    paper.settle()
    assert serving(paper) == ["a", "a"]
    told = explain(paper.snapshot.nodes[Ref("", "a")], paper.snapshot)
    assert told.reason is not None
    assert (told.reason.code, told.reason.values["left"]) == ("node.draining", 2)
    assert [each.subject for each in told.because] == ["replica/bot-1-1", "replica/bot-1-2"]
    assert plan(assume(paper.snapshot, plan(paper.snapshot))).actions == ()
    drain(paper, "a", wish=False)
    paper.settle()
    assert [r.name for r in paper.replicas("bot")] == ["bot-1-1", "bot-1-2"]


def test_what_does_not_serve_yet_begins_anew_elsewhere() -> None:
    paper = Paper(snapshot(node("a"), model(), service("bot", needs=CARD)), load_s=100)
    paper.turn()
    paper.put(*node("b"))
    paper.find("b")
    drain(paper, "a")
    paper.settle(400)
    assert serving(paper) == ["b"]


def test_since_when_a_node_is_lost_is_not_forgotten_while_it_is_emptied() -> None:
    paper = Paper(snapshot(node("a")))
    paper.lose("a")
    paper.turn()
    since = paper.snapshot.nodes[Ref("", "a")].status.since
    paper.snapshot = replace(paper.snapshot, now=paper.now + 50)
    drain(paper, "a")
    paper.turn()
    assert paper.snapshot.nodes[Ref("", "a")].status.since == since
