"""Where a replica goes, who is turned away by which rule, and fixes that do what they say."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from madang.planning.action import assume
from madang.planning.ask import Ask, Filter, Refused
from madang.planning.memo import Memo
from madang.planning.place.place import Placement, place
from madang.planning.plan import plan
from madang.planning.snapshot import Snapshot
from madang.resources.place import (
    Accelerator,
    AcceleratorSpec,
    AcceleratorStatus,
    Grade,
    Guarantee,
    Node,
    NodePhase,
    NodeSpec,
    NodeStatus,
    Pool,
    PoolSpec,
    PoolStatus,
    Site,
    SiteSpec,
)  # fmt: skip
from madang.resources.power import published
from madang.resources.quantity import size_bytes
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import AnyResource, Ref
from madang.resources.service import ServiceSpec
from madang.resources.tenancy import Empty
from madang.testing.builders import GB, PROJECT, model, service, snapshot
from madang.testing.paper import Paper

MIB = 2**20
CARDS = {
    "nvidia/a10": (24, 23_028 * MIB), "nvidia/a100-40gb": (40, 40_960 * MIB),
    "nvidia/l40s": (48, 46_068 * MIB), "rebellions/atom-max": (64, 64 * GB),
    "nvidia/h100": (80, 81_559 * MIB), "nvidia/h200": (141, 143_771 * MIB),
}  # fmt: skip
"""What is on the box, in decimal GB, and the bytes that the driver tells."""
ANY = frozenset({"cpu", "nvidia", "rebellions", "furiosa"})


def box(name: str, kind: str = "nvidia/h100", **of: object) -> list[AnyResource]:
    """Return a node: `cards` of `memory`, `cores` and memory of its `own`, its `pool`, and how the
    cards are shared; in a `group` of so many where that is said."""
    own, cores = of.pop("own", 256 * GB), of.pop("cores", 16)
    status = NodeStatus(phase=NodePhase.READY, cores=cores, memory_bytes=own)
    where = NodeSpec(pool=of.pop("pool", "default"))
    made: list[AnyResource] = [Node(name=name, uid=f"node-{name}", spec=where, status=status)]
    memory, group = of.pop("memory", 80 * GB), of.pop("group", 0)
    for i in range(of.pop("cards", 1)):
        card = f"{name}-{i}"
        written = AcceleratorSpec.model_validate({
            "node": name, "accelerator": kind, "memory_bytes": memory,
            "shared": kind == "cpu", "group": f"g{i // group}" if group else "",
            "watts": published(kind), **of,
        })  # fmt: skip
        made.append(
            Accelerator(name=card, uid=f"a-{card}", spec=written, status=AcceleratorStatus())
        )
    return made


def pool(name: str, site: str, grade: Grade = Grade.OPEN, **of: object) -> list[AnyResource]:
    spec = PoolSpec.model_validate({"site": site, **of})
    return [
        Site(name=site, uid=f"s-{site}", spec=SiteSpec(grade=grade), status=Empty()),
        Pool(name=name, uid=f"p-{name}", spec=spec, status=PoolStatus()),
    ]


def asked(world: Snapshot, **ask: object) -> Placement | Refused:
    return place(Ask(**{"kinds": ANY, "memory_bytes": GB, **ask}), Memo().ground(world))


def fell(found: Placement | Refused) -> dict[Filter, int]:
    assert isinstance(found, Refused)
    return dict(found.fell)


@pytest.mark.parametrize("size", sorted(size for size, _ in CARDS.values()))
def test_a_card_holds_what_its_box_says_in_decimal_gb(size):
    cards = [box(kind.rpartition("/")[2], kind, memory=real) for kind, (_, real) in CARDS.items()]
    found = asked(snapshot(*cards), memory_bytes=size * GB)
    assert isinstance(found, Placement)
    assert CARDS[found.kind][0] == size, "and the smallest that will do is taken"


def test_each_node_is_counted_under_the_first_rule_that_turns_it_away():
    world = snapshot(
        box("gone"), box("small", memory=24 * GB), box("npu", "furiosa/rngd"), box("pair", cards=2),
        box("few", cards=4, cores=2), box("tight", cards=4, own=8 * GB), box("secret", pool="open"),
        box("bare", cards=0), box("full", cards=4), pool("default", "ministry", Grade.SENSITIVE),
        pool("open", "cloud", Grade.OPEN), model(), service(scale=4),
    )  # fmt: skip
    seen = replace(world.seen, nodes=world.seen.nodes - {"gone"})
    ask = {"wanted_kind": "nvidia/h100", "memory_bytes": 40 * GB, "count": 3, "cores": 4.0,
           "host_memory_bytes": 16 * GB, "grade": Grade.SENSITIVE}  # fmt: skip
    found = asked(replace(world, seen=seen), **ask)
    assert isinstance(found, Placement)
    assert found.node == "full"
    busy = [r.with_status(accelerators=("full-0", "full-1"), memory_bytes=GB) for r in _replicas(1)]
    assert fell(asked(replace(world, seen=seen).after(busy), **ask)) == {
        Filter.LOST: 1, Filter.GRADE: 1, Filter.WRONG_KIND: 2, Filter.TOO_SMALL: 1,
        Filter.TOO_FEW: 1, Filter.CORES: 1, Filter.HOST_MEMORY: 1, Filter.BUSY: 1,
    }  # fmt: skip


def _replicas(count):
    paper = Paper(snapshot(box("n", cards=8), model(), service("other", scale=count)))
    paper.settle()
    return paper.replicas("other")[:count]


def test_data_goes_to_no_site_of_a_lower_grade():
    grades = list(Grade)
    for of_site in grades:
        world = snapshot(box("n"), pool("default", "s", of_site))
        for of_data in grades:
            found = asked(world, grade=of_data)
            assert isinstance(found, Placement) == (grades.index(of_data) <= grades.index(of_site))


@pytest.mark.parametrize("given", list(Guarantee))
def test_nobody_is_guaranteed_less_than_asked_for(given):
    """Where parts would keep too little apart, the whole card is given; nobody else comes in."""
    height = list(Guarantee).index
    for wanted in Guarantee:
        needs = {"memory": "20GB", "guarantee": wanted.value}
        paper = Paper(
            snapshot(
                box("n", shared=True, guarantee=given), model(), service("one", needs=needs),
                service("two", needs={"memory": "20GB"}),
            )
        )  # fmt: skip
        paper.settle()
        one, two = paper.replicas("one")[0].status, paper.replicas("two")[0].status
        assert one.phase is ReplicaPhase.READY
        assert one.whole == (height(wanted) > height(given))
        assert (two.phase is ReplicaPhase.READY) == (not one.whole)


def test_a_whole_card_is_not_given_where_another_has_a_part_of_it():
    needs = {"memory": "20GB", "guarantee": "isolated"}
    paper = Paper(
        snapshot(box("n", shared=True), model(), service("one", needs={"memory": "20GB"}))
    )
    paper.settle()
    paper.put(service("two", needs=needs))
    paper.settle()
    waiting = paper.replicas("two")[0].status
    assert waiting.phase is ReplicaPhase.WAITING
    assert waiting.smallest_fix.code == "placement.fix-guarantee"
    assert waiting.smallest_fix.values == {"guarantee": "shared"}


def test_a_group_that_may_not_be_split_is_given_together():
    paper = Paper(
        snapshot(
            box("n", "rebellions/atom-max", cards=8, memory=64 * GB, group=4), model(),
            service("one", needs={"count": 2}), service("two", needs={"count": 5}),
        )
    )  # fmt: skip
    paper.snapshot = replace(paper.snapshot, engines={"fake": _fake()})
    paper.settle()
    ready = [r for r in paper.snapshot.replicas.values() if r.status.accelerators]
    assert [len(r.status.accelerators) for r in ready] in ([4], [8])
    paper.put(_rescaled(paper, "two", needs={"count": 4}))
    paper.settle()
    held = sorted(name for r in paper.snapshot.replicas.values() for name in r.status.accelerators)
    assert held == [f"n-{i}" for i in range(8)]


def _fake():
    return replace(snapshot(box("n")).engines["fake"], accelerator_kinds=ANY)


def _rescaled(paper, name, **spec):
    known = paper.snapshot.services[Ref(PROJECT, name)]
    written = {**known.spec.model_dump(mode="json"), **spec}
    return known.model_copy(update={
        "spec": ServiceSpec.model_validate(written), "generation": known.generation + 1,
    })  # fmt: skip


def test_domestic_accelerators_come_first_where_that_is_preferred_and_it_fits():
    world = snapshot(
        box("gpu", memory=24 * GB), box("npu", "furiosa/rngd", memory=48 * GB), model()
    )
    assert asked(world).node == "gpu", "the smaller one"
    assert asked(world, prefer="domestic").node == "npu"
    assert asked(world, prefer="domestic", wanted_kind="nvidia").node == "gpu"


def test_processors_and_memory_that_are_asked_for_are_kept():
    needs = {"memory": "1GB", "cores": 6, "host_memory": "100GB"}
    paper = Paper(
        snapshot(box("n", cards=8), box("n2", "cpu", own=64 * GB, memory=64 * GB), model(),
                 service(scale=4, needs=needs | {"accelerator": "nvidia"}))
    )  # fmt: skip
    paper.settle()
    phases = [r.status.phase for r in paper.replicas("bot")]
    assert phases.count(ReplicaPhase.READY) == 2, "16 cores, 256 GB"
    waiting = paper.replicas("bot")[2].status
    assert dict(waiting.reason.values)["fell_cores"] == 1
    assert waiting.smallest_fix.code == "placement.fix-like"


def test_a_processor_beside_cards_shares_the_nodes_memory_with_what_runs_on_them():
    node = box("n", cards=1, own=64 * GB)
    processor = AcceleratorSpec(node="n", accelerator="cpu", memory_bytes=64 * GB, shared=True)
    node.append(Accelerator(name="n-cpu", uid="a-cpu", spec=processor, status=AcceleratorStatus()))
    paper = Paper(
        snapshot(
            node, model(),
            service("card", needs={"accelerator": "nvidia", "host_memory": "40GB"}),
            service("core", needs={"accelerator": "cpu", "memory": "30GB"}),
        )
    )  # fmt: skip
    paper.settle()
    running = [r.name for r in paper.snapshot.replicas.values() if r.status.accelerators]
    assert running == ["card-1-1"], "30 GB beside 40 GB do not fit into 64"
    assert isinstance(asked(paper.snapshot, wanted_kind="cpu", memory_bytes=20 * GB), Placement)


# Every fix is applied to the very world it was found in; then what waited must start.


def _written(fix, paper, name):
    """Return the world in which somebody did what the fix says."""
    values, needs = dict(fix.values), paper.snapshot.services[Ref(PROJECT, name)].spec.needs
    written = needs.model_dump(mode="json")
    match fix.code:
        case "placement.fix-memory":
            return [_rescaled(paper, name, needs=written | {"memory": values["memory"]})], ()
        case "placement.fix-host-memory":
            return [_rescaled(paper, name, needs=written | {"host_memory": values["memory"]})], ()
        case "placement.fix-count" | "placement.fix-cores" | "placement.fix-guarantee":
            return [_rescaled(paper, name, needs=written | values)], ()
        case "placement.fix-kind":
            return [_rescaled(paper, name, needs=written | {"accelerator": ""})], ()
        case "placement.fix-scale":
            return [_rescaled(paper, str(values["service"]), scale=values["scale"])], ()
        case "placement.fix-node":
            return [], (str(values["node"]),)
        case "placement.fix-power":
            known = paper.snapshot.get(Pool, Ref("", str(values["pool"])))
            spec = known.spec.model_copy(update={"power_kw_max": values["power"]})
            return [known.model_copy(update={"spec": spec})], ()
        case "placement.fix-like":
            assert values["count"] >= 1
            like = [paper.snapshot.nodes[Ref("", str(values["node"]))]]
            like += [a for a in paper.snapshot.accelerators.values() if a.spec.node == like[0].name]
            numbers = range(int(values["count"]))
            names = tuple(f"new{n}" for n in numbers)
            return [_copied(each, name) for each in like for name in names], names
        case "placement.fix-add" | "placement.fix-add-with":
            kind, size = str(values["kind"]).partition("/")[0], size_bytes(values["memory"])
            own = size_bytes(values["host_memory"]) + MIB
            own += size * int(values["count"]) if kind == "cpu" else 0
            big = {"memory": size, "own": own, "cores": values["cores"] or 0.001}
            names = tuple(f"new{n}" for n in range(int(values["nodes"])))
            kind = (
                values["kind"]
                if "h100" in values["kind"]
                else {"nvidia": "nvidia/x"}.get(kind, kind)
            )
            return [
                r for n in names for r in box(n, kind, cards=int(values["count"]), **big)
            ], names
    raise AssertionError(fix)


def _copied(resource, node):
    spec = resource.spec
    if isinstance(resource, Accelerator):
        spec = spec.model_copy(update={"node": node})
    name = node if isinstance(resource, Node) else f"{node}-{resource.name}"
    return resource.model_copy(
        update={"name": name, "uid": f"new-{name}", "spec": spec, "resource_version": 0}
    )


@pytest.mark.parametrize(
    "seed", [pytest.param(i, marks=[pytest.mark.thorough] if i % 8 else []) for i in range(80)]
)
def test_what_waits_starts_once_its_smallest_fix_is_applied(seed):
    chance = random.Random(seed)
    nodes = [
        box(
            f"n{i}", chance.choice(["nvidia/h100", "nvidia/l40s", "cpu"]),
            cards=chance.choice([1, 2, 4]), memory=chance.choice([24, 48, 80]) * GB,
            cores=chance.choice([4, 16]), own=chance.choice([64, 256]) * GB,
        )
        for i in range(chance.randint(1, 4))
    ]  # fmt: skip
    services = [
        service(
            f"s{i}", scale=chance.randint(1, 3), needs={
                "memory": f"{chance.choice([4, 20, 44, 78, 200])}GB",
                "count": chance.choice([1, 1, 2, 4]),
                "accelerator": chance.choice(["", "nvidia", "nvidia/h100", "cpu"]),
                "guarantee": chance.choice(list(Guarantee)),
                "cores": chance.choice([0, 0, 3, 12]),
                "host_memory": chance.choice(["0GB", "30GB", "300GB"]),
            },
        )
        for i in range(4)
    ]  # fmt: skip
    paper = Paper(snapshot(*nodes, model(size_gb=0.1), *services))
    if chance.random() < 0.3:
        paper.lose("n0")
    if seed >= 60:
        paper.put(*pool("default", "s", power_kw_max=chance.choice([0.3, 1.1, 2.4, 6])))
    paper.settle()
    waiting = [
        r for r in paper.snapshot.replicas.values() if r.status.phase is ReplicaPhase.WAITING
    ]
    for replica in waiting:
        trial = Paper(paper.snapshot)
        trial.settle()
        name, fix = replica.spec.service, replica.status.smallest_fix
        if fix is None:
            assert seed >= 60, "without a limit there is always one"
            continue
        before = _started(trial, name)
        changed, found = _written(fix, trial, name)
        trial.put(*changed)
        for node in found:
            trial.find(node)
        trial.settle(seconds=120)
        is_new = trial.snapshot.services[Ref(PROJECT, name)].status.revisions > 1
        assert _started(trial, name) > (0 if is_new else before), (replica.name, fix)


def _started(paper, name):
    return sum(bool(r.status.accelerators) for r in paper.replicas(name))


def test_a_plan_that_is_assumed_leaves_nothing_to_plan_on_mixed_ground():
    world = snapshot(
        box("a", cards=4, shared=True, guarantee="limited"), box("b", "cpu", memory=64 * GB),
        model(), *(service(g.value, scale=3, needs={"guarantee": g}) for g in Guarantee),
    )  # fmt: skip
    assert plan(assume(world, plan(world))).actions == ()


def test_a_group_of_four_costs_as_much_as_four_and_is_left_to_those_who_need_it():
    """What one card of another kind does as well goes there, though one of the four is smaller."""
    world = snapshot(
        box("npu", "rebellions/atom-max", cards=8, memory=64 * GB, group=4), box("gpu", cards=4),
        model(), service(scale=3, needs={"memory": "45GB"}),
    )  # fmt: skip
    assert asked(world, memory_bytes=45 * GB).node == "gpu"
    paper = Paper(replace(world, engines={"fake": _fake()}))
    paper.settle(seconds=100)
    assert paper.snapshot.seen.outlook is not None
    assert {r.status.node for r in paper.replicas("bot")} == {"gpu"}


def test_more_kinds_of_demand_than_are_kept_ready_are_placed_all_the_same(monkeypatch):
    monkeypatch.setattr("madang.planning.place.ground.DEMANDS_MAX", 3)
    ground = Memo().ground(snapshot(box("gpu", cards=8), box("core", "cpu", memory=64 * GB)))
    for size in (1, 2, 3, 1, 4, 2, 1):
        ask = Ask(kinds=ANY, memory_bytes=size * GB)
        assert isinstance(place(ask, ground), Placement)
        assert ground.make_room(ask, []) == []
