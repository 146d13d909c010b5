"""One service over unlike hardware: each replica by the way that costs least."""

from __future__ import annotations

from dataclasses import replace

import pytest

from madang.planning.explain import explain
from madang.planning.forecast import booked, mix_of
from madang.planning.placement.outlook import Outlook
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Ref
from madang.testing.builders import FAKE, PROJECT, model, node, service, snapshot
from madang.testing.paper import Paper

OTHER = replace(FAKE, name="other", accelerator_kinds=frozenset({"rebellions"}), slots=2)
NPU = {"accelerator": "rebellions/atom-max", "recipe": "other", "memory": "20GB", "count": 2}


def mixed(*nodes: object, **spec: object) -> Paper:
    needs = {"accelerator": "nvidia/h100", "memory": "70GB"}
    world = snapshot(*nodes, model(), service(**{"needs": needs, "variants": [NPU], **spec}))
    paper = Paper(replace(world, engines={"fake": FAKE, "other": OTHER}))
    paper.settle(seconds=100)
    return paper


GPU = node("gpu", cards=1)
ATOM = node("atom", cards=4, kind="rebellions/atom-max", memory_gb=64)


def held(paper):
    return sorted(
        (
            r.status.variant,
            r.status.node,
            len(r.status.accelerators),
            r.status.memory_bytes // 10**9,
        )
        for r in paper.replicas("bot")
        if r.status.accelerators
    )


def test_where_one_form_finds_no_room_another_does():
    paper = mixed(GPU, ATOM, scale=3)
    assert held(paper) == [(0, "gpu", 1, 70), (1, "atom", 2, 20), (1, "atom", 2, 20)]
    assert {r.status.phase for r in paper.replicas("bot")} == {ReplicaPhase.READY}


def test_each_form_is_a_build_of_its_own_and_judged_as_one():
    paper = mixed(GPU, ATOM, scale=3)
    builds = {(b.spec.recipe, b.spec.accelerator) for b in paper.snapshot.builds.values()}
    assert builds == {("fake", "nvidia/h100"), ("other", "rebellions/atom-max")}


@pytest.mark.parametrize(("does", "node"), [(1.0, "gpu"), (3.0, "atom")])
def test_a_form_is_weighed_by_what_it_does_for_what_it_takes(does, node):
    """A whole H100 for one, or two whole ATOM-Max, which together are larger."""
    paper = mixed(GPU, ATOM, variants=[{**NPU, "throughput": does}])
    assert [where for _, where, _, _ in held(paper)] == [node]


def test_a_service_none_of_whose_forms_finds_room_says_so_of_all_its_kinds():
    paper = mixed(node("box", kind="cpu", shared=True))
    told = explain(paper.replicas("bot")[0], paper.snapshot)
    assert told.reason.values["kind"] == "nvidia/h100, rebellions/atom-max"
    assert told.smallest_fix is not None


def test_a_node_counts_by_the_form_that_comes_furthest_there():
    four = {"accelerator": "nvidia/h100", "count": 4}
    paper = mixed(node("n", cards=2), scale=3, needs={"count": 1}, variants=[four])
    fell = paper.replicas("bot")[2].status.reason.values
    assert (fell["fell_busy"], fell.get("fell_too_few", 0)) == (1, 0)


def test_a_form_whose_recipe_is_not_there_keeps_the_service_pending_and_says_which():
    paper = mixed(GPU, ATOM, variants=[{**NPU, "recipe": "gone"}])
    status = paper.snapshot.services[Ref(PROJECT, "bot")].status
    assert status.reason.code == "recipe.missing"
    assert status.reason.values["recipe"] == "gone"


def test_a_variant_that_is_added_makes_a_new_revision():
    paper = mixed(GPU, ATOM, variants=[])
    known = paper.snapshot.services[Ref(PROJECT, "bot")]
    spec = service(variants=[NPU]).spec
    more = known.spec.model_copy(update={"variants": spec.variants, "scale": 2})
    paper.put(known.model_copy(update={"spec": more, "generation": known.generation + 1}))
    paper.settle(seconds=200)
    assert paper.snapshot.services[Ref(PROJECT, "bot")].status.revisions == 2
    assert {r.spec.revision for r in paper.replicas("bot")} == {"bot-2"}
    assert len(held(paper)) == 2


def test_what_has_a_form_is_counted_on_by_that_form_and_what_waits_by_the_first():
    paper = mixed(GPU, ATOM, scale=4)
    layout = paper.memo.ground(paper.snapshot).layout
    devices = {
        layout.stocks[k].kind: (demand.devices, count)
        for demand, count in mix_of(paper.snapshot, layout).items()
        for k in demand.kinds
    }
    assert held(paper) == [(0, "gpu", 1, 70), (1, "atom", 2, 20), (1, "atom", 2, 20)]
    assert devices == {"nvidia/h100": (1, 2), "rebellions/atom-max": (2, 2)}


def test_the_plan_for_one_form_is_not_used_up_by_what_has_another():
    """Both may be on an H100: by the first form with any other NVIDIA card, by the other only."""
    halves = {"accelerator": "nvidia/h100", "memory": "30GB", "throughput": 9.0}
    nodes = [node("z", cards=2, shared=True), node("a", cards=2, kind="nvidia/a100", shared=True)]
    needs = {"accelerator": "nvidia", "memory": "70GB"}
    paper = mixed(*nodes, needs=needs, variants=[halves])
    assert [(form, where) for form, where, _, _ in held(paper)] == [(1, "z")]
    layout = paper.memo.ground(paper.snapshot).layout
    fleet, both, only = layout.fleet, (0, 1), (1,)
    plan = ((both, (0.0, 875.0)), (only, (0.0, 400.0)))
    known = Outlook(fleet.kinds, (2, 2), (), (0.0, 0.0), ((0.0,) * 1001,) * 2, plan)
    ledger = booked(known, paper.snapshot, layout)
    assert ledger.has_room(both, 1, 875)
    assert not ledger.has_room(only, 1, 375), "it is used by that form"
