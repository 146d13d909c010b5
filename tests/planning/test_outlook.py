"""What is expected: counted from what is there, thought about apart, and used where it fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from madang.control import thinking
from madang.planning.action import Reprice, assume
from madang.planning.ask import Ask
from madang.planning.forecast import THINK_AGAIN_S, question
from madang.planning.memo import Memo
from madang.planning.place.place import place
from madang.planning.plan import plan
from madang.planning.reprice import reprice
from madang.testing.builders import GB, model, node, service, snapshot
from madang.testing.paper import Paper

BOTH = frozenset({"nvidia"})


def mixed():
    """Return a world in which large models have one kind only, and small ones may go anywhere."""
    large = {"accelerator": "nvidia/h200", "memory": "120GB"}
    return snapshot(
        node("big", cards=8, kind="nvidia/h200", memory_gb=141),
        node("small", cards=8, kind="nvidia/h100", memory_gb=80),
        model(), service("large", scale=6, needs=large),
        service("small", scale=6, needs={"memory": "70GB", "accelerator": "nvidia"}),
    )  # fmt: skip


def asked(world):
    """Return what planning wants to have thought about."""
    effects = [action.effect for action in plan(world).actions if action.effect]
    return [effect.question for effect in effects if isinstance(effect, Reprice)]


def test_a_fleet_of_one_node_has_nothing_to_think_about():
    assert asked(snapshot(node("n"), model(), service())) == []


def test_it_is_thought_anew_when_the_mix_or_the_hardware_has_changed_and_not_too_often():
    paper = Paper(mixed())
    assert len(asked(paper.snapshot)) == 1
    assert asked(assume(paper.snapshot, plan(paper.snapshot))) == []
    paper.settle()
    assert paper.snapshot.seen.outlook is not None
    paper.wait(THINK_AGAIN_S)
    assert asked(paper.snapshot) == [], "nothing has changed"
    paper.put(service("third", scale=5, needs={"memory": "10GB"}))
    before = paper.snapshot.seen.outlook
    paper.settle()
    assert paper.snapshot.seen.outlook is not before, "the mix has"
    paper.put(*node("more", cards=4))
    assert len(asked(paper.snapshot)) == 1, "the hardware has"
    seen = replace(paper.snapshot.seen, thought_at=paper.snapshot.steady_s - THINK_AGAIN_S + 1)
    assert asked(replace(paper.snapshot, seen=seen)) == [], "not so soon again"


def test_what_is_thought_apart_is_what_would_be_thought_here():
    (put,) = asked(mixed())
    assert thinking.outlook_apart(put) == reprice(put)


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "print('{}')", "print('[')"])
def test_a_thinker_that_fails_leaves_placement_as_it_was(monkeypatch, program):
    (put,) = asked(mixed())
    monkeypatch.setattr(thinking, "THINKER", ("-c", program))
    assert thinking.outlook_apart(put) is None


def test_what_may_go_anywhere_leaves_the_only_kind_of_another_alone():
    """As large as the other, so that only what is expected tells them apart."""
    picky = {"accelerator": "nvidia/h100", "memory": "70GB"}
    world = snapshot(
        node("a", cards=8, kind="nvidia/h100"), node("b", cards=8, kind="nvidia/a100"),
        model(), service("a-free", scale=8, needs={"memory": "70GB", "accelerator": "nvidia"}),
        service("b-picky", scale=8, needs=picky),
    )  # fmt: skip
    known = reprice(asked(world)[0])
    paper = Paper(replace(world, seen=replace(world.seen, outlook=known)))
    free = Ask(kinds=BOTH, memory_bytes=70 * GB)
    assert place(free, Memo().ground(paper.snapshot)).kind == "nvidia/a100"
    paper.settle(seconds=100)
    ready = [r.status.node for r in paper.snapshot.replicas.values()]
    assert (ready.count("a"), ready.count("b")) == (8, 8), "so that all of them fit"


def test_what_somebody_prefers_comes_before_what_is_expected_of_others():
    world = snapshot(
        node("gpu", cards=8), node("npu", cards=8, kind="furiosa/rngd"), model(),
        service(scale=4, needs={"accelerator": "nvidia", "memory": "70GB"}),
    )  # fmt: skip
    free = Ask(kinds=frozenset({"nvidia", "furiosa"}), memory_bytes=70 * GB)
    layout = Memo().ground(world).layout
    (option,) = layout.options(free)
    plan_for = tuple(8000.0 * (stock.kind == "nvidia/h100") for stock in layout.stocks)
    known = replace(reprice(asked(world)[0]), reserve=((option.group, plan_for),))
    ground = Memo().ground(replace(world, seen=replace(world.seen, outlook=known)))
    assert place(free, ground).node == "gpu", "the plan is for those"
    assert place(replace(free, prefer="domestic"), ground).node == "npu"


def test_an_outlook_for_other_hardware_is_not_used():
    paper = Paper(mixed())
    paper.settle()
    more = paper.snapshot.after(node("more", cards=4))
    old = replace(more.seen, outlook=None)
    ask = Ask(kinds=BOTH, memory_bytes=GB)
    assert place(ask, Memo().ground(more)) == place(ask, Memo().ground(replace(more, seen=old)))
    assert question(more, Memo().ground(more).layout, {}) is None, "nothing is counted on"
