"""What is called the smallest fix was tried, with those who wait ahead: each kind of it."""

from __future__ import annotations

from collections.abc import Iterable

from madang.planning.snapshot import Snapshot
from madang.resources.place import Pool, PoolSpec, PoolStatus
from madang.resources.resource import AnyResource
from madang.testing.builders import model, node, service, snapshot
from madang.testing.paper import Paper

THEIRS = "aaa/lab"
CARD = {"accelerator": "nvidia"}


def fixed(world: Snapshot, lost: Iterable[str] = ()) -> dict[str, tuple[str, dict[str, object]]]:
    """Return the fix of each service that waits, once all is settled."""
    paper = Paper(world)
    for name in lost:
        paper.lose(name)
    paper.settle()
    known = {r.spec.service: r.status.smallest_fix for r in paper.snapshot.replicas.values()}
    return {name: (fix.code, dict(fix.values)) for name, fix in known.items() if fix}


def stranger(**spec: object) -> list[AnyResource]:
    """Return what another project runs, of whose services no fix may speak."""
    return [model(project=THEIRS), service("theirs", project=THEIRS, **spec)]


def test_to_ask_for_less_is_no_fix_where_less_finds_no_room_either():
    theirs = stranger(scale=2, needs=CARD)
    pair = service(needs={**CARD, "count": 2})
    found = fixed(snapshot(node("n", cards=2), model(), theirs, pair))
    assert found["bot"] == ("placement.fix-like", {"node": "n", "count": 1})


def test_less_memory_than_the_model_cannot_do_without_is_no_fix():
    theirs = stranger(needs={**CARD, "memory": "60GB"})
    world = snapshot(node("n", shared=True), model(size_gb=30), theirs,
                     service(needs={**CARD, "memory": "50GB"}))  # fmt: skip
    assert fixed(world)["bot"][0] == "placement.fix-like"


def test_to_scale_a_service_down_is_no_fix_where_what_it_has_is_not_enough():
    pair = service("second", needs={**CARD, "count": 2})
    world = snapshot(node("n", cards=2), model(), stranger(needs=CARD),
                     service("first", needs=CARD), pair)  # fmt: skip
    assert fixed(world)["second"][0] == "placement.fix-like"


def test_a_node_that_comes_back_must_have_room_for_those_ahead_too():
    world = snapshot(node("a"), node("b", cards=2), model(), service("s1"), service("s2"))
    found = fixed(world, lost="ab")
    assert found["s1"] == ("placement.fix-node", {"node": "a"})
    assert found["s2"] == ("placement.fix-node", {"node": "b"})


def test_so_many_nodes_are_to_be_added_that_those_ahead_have_theirs():
    theirs = stranger(needs=CARD)
    world = snapshot(node("n"), model(), theirs, service("s1"), service("s2"))
    found = fixed(world)
    assert found["s1"] == ("placement.fix-like", {"node": "n", "count": 1})
    assert found["s2"] == ("placement.fix-like", {"node": "n", "count": 2})


def test_so_many_nodes_of_a_new_kind_are_to_be_added_that_those_ahead_have_theirs():
    needs = {"accelerator": "nvidia/h100", "memory": "70GB"}
    box = node("box", kind="cpu", shared=True, memory_gb=64)
    found = fixed(snapshot(box, model(), service("s1", needs=needs), service("s2", needs=needs)))
    assert [(code, values["nodes"]) for code, values in found.values()] == [
        ("placement.fix-add", 1), ("placement.fix-add", 2),
    ]  # fmt: skip


def test_a_pool_is_to_draw_so_much_that_those_ahead_have_theirs():
    spec = PoolSpec(site="s", power_kw_max=0.5)
    pool = Pool(name="default", uid="pool", spec=spec, status=PoolStatus())
    found = fixed(snapshot(node("n", cards=3), [pool], model(), service("s1"), service("s2")))
    assert found["s1"] == ("placement.fix-power", {"pool": "default", "power": 0.82})
    assert found["s2"] == ("placement.fix-power", {"pool": "default", "power": 1.46})
