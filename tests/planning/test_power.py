"""Pools that may draw only so much: nothing starts that takes them above it, and they say so."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from madang.api.shown import power
from madang.planning.action import assume
from madang.planning.ask import Ask, Filter, Refused
from madang.planning.layout import layout_of
from madang.planning.memo import Memo
from madang.planning.place.place import Placement, place
from madang.planning.plan import plan
from madang.planning.snapshot import Snapshot
from madang.resources.place import AcceleratorSpec, Node, Pool, PoolSpec, PoolStatus
from madang.resources.power import PUBLISHED, Watts, milliwatts, published
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import AnyResource, Ref
from madang.testing.builders import GB, PROJECT, model, node, service, snapshot
from madang.testing.paper import Paper

WAITING, READY = ReplicaPhase.WAITING, ReplicaPhase.READY
SEEDS = (0, 5, 7, 8, 9, 10, 11)
"""Under which something is moved."""
H100 = PUBLISHED["nvidia/h100"]


def pool(kw: float | None, name: str = "default", **of: Any) -> list[AnyResource]:
    spec = PoolSpec.model_validate({"site": "s", "power_kw_max": kw, **of})
    return [Pool(name=name, uid=f"pool-{name}", spec=spec, status=PoolStatus())]


def limit(paper: Paper, kw: float | None, name: str = "default") -> None:
    """Let a pool draw so much from now on."""
    known = paper.snapshot.all(Pool)[Ref("", name)]
    paper.put(known.model_copy(update={"spec": PoolSpec(site="s", power_kw_max=kw)}))


def changed(made: Iterable[AnyResource], pool: str = "default", **spec: Any) -> list[AnyResource]:
    """Return a node in another pool, or whose accelerators are otherwise."""
    out: list[AnyResource] = []
    for each in made:
        of = {"pool": pool} if isinstance(each, Node) else spec
        out.append(each.model_copy(update={"spec": each.spec.model_copy(update=of)}))
    return out


def drawn_kw(world: Snapshot, pool: str = "default") -> float:
    """Add up what a pool draws, device by device, from what replicas say they have."""
    held = {name for r in world.replicas.values() for name in r.status.accelerators}
    total = 0.0
    for card in world.accelerators.values():
        watts = card.spec.watts
        if watts and world.nodes[Ref("", card.spec.node)].spec.pool == pool:
            total += watts.full if card.name in held else watts.idle
    return total / 1000


def phases(paper: Paper, name: str = "bot") -> list[ReplicaPhase]:
    return [r.status.phase for r in paper.replicas(name)]


def test_nothing_starts_that_takes_a_pool_above_its_limit_and_the_fix_says_how_far_to_raise_it():
    paper = Paper(snapshot(node("n", cards=4), pool(1.6), model(), service(scale=3)))
    paper.settle()
    assert phases(paper) == [READY, READY, WAITING]
    assert drawn_kw(paper.snapshot) == 1.52
    waiting = paper.replicas("bot")[2].status
    assert waiting.reason.values["fell_power"] == 1
    assert waiting.smallest_fix.code == "placement.fix-power"
    assert waiting.smallest_fix.values == {"pool": "default", "power": 2.16}
    limit(paper, 2.159)
    paper.settle()
    assert phases(paper) == [READY, READY, WAITING], "the fix is no watt too high"
    limit(paper, 2.16)
    paper.settle()
    assert phases(paper) == [READY] * 3


def test_a_limit_below_what_runs_stops_nothing_and_starts_nothing():
    paper = Paper(snapshot(node("n", cards=4), pool(None), model(), service(scale=3)))
    paper.settle()
    before = {r.uid: r.status.accelerators for r in paper.replicas("bot")}
    limit(paper, 0.0)
    paper.put(service("more"))
    paper.settle()
    assert {r.uid: r.status.accelerators for r in paper.replicas("bot")} == before
    assert phases(paper) == [READY] * 3
    assert phases(paper, "more") == [WAITING]


def test_what_joins_others_on_a_device_costs_nothing():
    cards = [node(name, cards=2, shared=True) for name in "ab"]
    needs = {"memory": "20GB"}
    paper = Paper(snapshot(*cards, pool(0.9), model(), service(scale=5, needs=needs)))
    paper.settle()
    assert phases(paper) == [READY] * 4 + [WAITING], "80 GB of one card"
    assert len({name for r in paper.replicas("bot") for name in r.status.accelerators}) == 1
    assert paper.replicas("bot")[4].status.smallest_fix.code == "placement.fix-power"


def test_several_devices_may_be_partly_new_to_work():
    """One that works already is joined, so that only one more begins."""
    card = node("n", cards=2, shared=True)
    needs = {"memory": "30GB", "count": 2}
    one = service("one", needs={"memory": "30GB"})
    paper = Paper(snapshot(card, pool(1.4), model(), one))
    paper.settle()
    paper.put(service("two", needs=needs))
    paper.settle()
    assert phases(paper, "two") == [READY]
    assert drawn_kw(paper.snapshot) == 1.4


def test_less_memory_is_a_fix_where_it_is_free_beside_others():
    needs = {"memory": "50GB"}
    world = snapshot(
        node("n", cards=2, shared=True), pool(0.8), model(), service(scale=2, needs=needs)
    )
    paper = Paper(world)
    paper.settle()
    fix = paper.replicas("bot")[1].status.smallest_fix
    assert (fix.code, fix.values) == ("placement.fix-memory", {"memory": "30GB"})


def test_less_memory_is_a_fix_where_only_some_of_the_cards_may_begin_to_work():
    """Two of three: the one that works already has 30 GB left, and one more may begin."""
    card = node("n", cards=3, shared=True)
    paper = Paper(snapshot(card, pool(1.46), model(), service("one", needs={"memory": "50GB"})))
    paper.settle()
    paper.put(service("two", needs={"memory": "60GB", "count": 2}))
    paper.settle()
    fix = paper.replicas("two")[0].status.smallest_fix
    assert (fix.code, fix.values) == ("placement.fix-memory", {"memory": "30GB"})


def test_another_pool_takes_what_one_may_not():
    far = changed(node("b", cards=2), pool="far")
    paper = Paper(snapshot(node("a", cards=2), far, pool(0.8), pool(None, "far"), model(),
                           service(scale=4)))  # fmt: skip
    paper.settle()
    assert phases(paper) == [READY] * 3 + [WAITING]
    assert sorted(r.status.node for r in paper.replicas("bot")[:3]) == ["a", "b", "b"]
    fell = dict(paper.replicas("bot")[3].status.reason.values)
    assert (fell["fell_power"], fell["fell_busy"]) == (1, 1)


def test_where_nobody_knows_what_a_kind_draws_nothing_goes_there_and_the_reason_names_it():
    cards = node("n", cards=2, kind="furiosa/rngd", memory_gb=48)
    ask = Ask(frozenset({"furiosa"}), GB)

    def placed(*pools: AnyResource) -> Placement | Refused:
        return place(ask, Memo().ground(snapshot(cards, pools)))

    assert isinstance(placed(*pool(None)), Placement)
    found = placed(*pool(1000))
    assert isinstance(found, Refused)
    assert dict(found.fell) == {Filter.NO_WATTS: 1}
    assert found.reason.values["no_watts"] == "furiosa/rngd"
    said = {"furiosa": {"idle": 40, "full": 180}}
    assert isinstance(placed(*pool(1000, watts=said)), Placement)
    assert isinstance(placed(*pool(0.22, watts=said)), Placement)
    assert isinstance(placed(*pool(0.219, watts=said)), Refused)


def test_processors_are_not_counted_unless_somebody_says_what_they_draw():
    box = node("box", kind="cpu", memory_gb=64, shared=True)
    ask = Ask(frozenset({"cpu"}), GB)
    assert isinstance(place(ask, Memo().ground(snapshot(box, pool(0.0)))), Placement)
    box = changed(box, watts=Watts(idle=50, full=200))
    assert isinstance(place(ask, Memo().ground(snapshot(box, pool(0.1)))), Refused)


def test_a_group_draws_what_all_its_accelerators_do():
    made = node("n", cards=4, kind="rebellions/atom-max", memory_gb=64)
    made = changed(made, watts=Watts(idle=50, full=350), group="g")
    ask = Ask(frozenset({"rebellions"}), GB)
    assert isinstance(place(ask, Memo().ground(snapshot(made, pool(1.4)))), Placement)
    assert isinstance(place(ask, Memo().ground(snapshot(made, pool(1.399)))), Refused)


def test_a_new_node_draws_too_before_anything_runs_on_it():
    """One like those that are there would only take away what little may still be drawn."""
    full = Paper(snapshot(node("n", cards=2), pool(2.1), model(), service(scale=3)))
    full.settle()
    assert full.replicas("bot")[2].status.smallest_fix is None
    limit(full, 2.22)
    full.settle()
    assert full.replicas("bot")[2].status.smallest_fix.code == "placement.fix-like"


def test_the_longest_start_of_a_kind_that_is_known_counts():
    said = {"nvidia": Watts(idle=1, full=2), "nvidia/h100-nvl": Watts(idle=3, full=4)}
    for kind, idle in {"nvidia/h100-80gb": 60, "nvidia/h100-nvl-94gb": 3, "nvidia/x": 1}.items():
        world = snapshot(node("n", kind=kind), pool(1.0, watts=said))
        assert layout_of(world).stocks[0].idle_mw == (1000 if idle == 60 else idle * 1000)
    assert published("nvidia/h100-80gb-hbm3") == H100
    assert published("nvidia/a1000") is None
    assert AcceleratorSpec(node="n", accelerator="x/y", memory_bytes=1, shared=False).watts is None


def test_what_a_pool_draws_is_told_with_the_kinds_of_which_nobody_knows_it():
    boxes = [node("c", kind="cpu", shared=True), node("r", kind="furiosa/rngd", memory_gb=48)]
    far = [changed(box, pool="far") for box in boxes]
    rngd = changed(node("x", kind="furiosa/rngd", memory_gb=48), pool="default")
    pools, card = [pool(2.0), pool(None, "far"), pool(None, "empty")], {"accelerator": "nvidia"}
    paper = Paper(snapshot(node("n", cards=2), rngd, *far, *pools, model(), service(needs=card)))
    paper.settle()
    told = {uid: (said.power_kw, said.no_watts) for uid, said in power(paper.snapshot).items()}
    assert told["pool-default"] == (0.76, ("furiosa/rngd",))
    assert told["pool-far"] == (None, ("furiosa/rngd",))
    assert told["pool-empty"] == (None, ())


def with_one_on_each(*nodes: list[AnyResource], kept: str) -> Paper:
    """Return a full world in which one replica of a service has stayed on each of these nodes."""
    cards = sum(len(made) - 1 for made in nodes)
    paper = Paper(snapshot(*nodes, pool(None), pool(None, "far"), model(),
                           service("one", scale=cards)))  # fmt: skip
    paper.settle()
    held = {r.status.node: r for r in paper.replicas("one")}
    gone = [r for r in paper.replicas("one") if r not in [held[name] for name in kept]]
    left = {r.uid: r for r in gone}
    processes = {u: p for u, p in paper.snapshot.seen.processes.items() if u not in left}
    known = paper.snapshot.services[Ref(PROJECT, "one")]
    fewer = known.spec.model_copy(update={"scale": len(kept)})
    changed = known.model_copy(update={"spec": fewer, "generation": known.generation + 1})
    seen = replace(paper.snapshot.seen, processes=processes)
    paper.snapshot = replace(paper.snapshot.after([changed], gone), seen=seen, moves_per_100=50)
    paper.settle()
    return paper


PAIR = {"count": 2, "accelerator": "nvidia"}


def apart() -> Paper:
    """Two nodes with one free card of two each, of which the first is in a pool at its limit."""
    far = changed([*node("b", cards=2), *node("c")], pool="far")
    paper = with_one_on_each(node("a", cards=2), far[:3], far[3:], kept="ab")
    limit(paper, drawn_kw(paper.snapshot))
    return paper


def test_of_two_that_could_be_moved_the_one_goes_whose_room_a_pool_may_use():
    paper = apart()
    paper.put(service("two", needs=PAIR))
    paper.settle(seconds=100)
    assert phases(paper, "two") == [READY]
    assert {r.status.node for r in paper.replicas("two")} == {"b"}
    assert sorted(r.status.node for r in paper.replicas("one")) == ["a", "c"]


def test_nothing_is_moved_for_what_no_pool_may_draw_and_the_first_watt_that_may_moves_it():
    paper = apart()
    limit(paper, drawn_kw(paper.snapshot, "far"), "far")
    paper.put(service("two", needs=PAIR))
    paper.settle(seconds=100)
    assert not any(r.spec.replaces for r in paper.replicas("one"))
    limit(paper, drawn_kw(paper.snapshot, "far") + 2 * (H100.full - H100.idle) / 1000 - 1e-3, "far")
    paper.settle(seconds=100)
    assert phases(paper, "two") == [WAITING], "a watt too few for the pair"
    limit(paper, drawn_kw(paper.snapshot, "far") + 2 * (H100.full - H100.idle) / 1000, "far")
    paper.settle(seconds=100)
    assert phases(paper, "two") == [READY]


def test_for_as_long_as_a_move_takes_both_draw():
    """What moves lets an H100 go in the end, and draws two A100 more until then."""
    wide = {"count": 2, "memory": "40GB", "accelerator": "nvidia"}
    far = changed(node("z", cards=2), pool="far")
    world = snapshot(node("a", cards=2), far, pool(None), pool(None, "far"), model(),
                     service("one", scale=2, needs=wide))  # fmt: skip
    paper = Paper(replace(world, moves_per_100=50))
    paper.settle()
    paper.put(*node("b", cards=2, kind="nvidia/a100", memory_gb=40))
    paper.find("b")
    a100 = PUBLISHED["nvidia/a100"]
    most = drawn_kw(paper.snapshot) + 2 * (a100.full - a100.idle) / 1000
    limit(paper, most - 1e-3)
    paper.put(service("two", needs={"accelerator": "nvidia/h100"}))
    paper.settle(seconds=100)
    assert sorted(r.status.node for r in paper.replicas("one")) == ["a", "z"]
    limit(paper, most)
    paper.settle(seconds=100)
    assert sorted(r.status.node for r in paper.replicas("one")) == ["b", "z"]
    assert phases(paper, "two") == [READY]
    assert drawn_kw(paper.snapshot) < most


def moved_under_limits(seed: int) -> int:
    """Let services come and go, and be moved, in pools with limits; return how many moved."""
    chance = random.Random(seed)
    kinds, pools, moved = ["nvidia/h100", "nvidia/a100", "nvidia/t4"], ["default", "far"], set()
    nodes = [
        changed(node(f"n{i}", cards=chance.choice([2, 4]), kind=chance.choice(kinds),
                     shared=chance.random() < 0.3), pool=chance.choice(pools))
        for i in range(6)
    ]  # fmt: skip
    paper = Paper(snapshot(*nodes, model(), *(pool(None, name) for name in pools)))
    paper.snapshot = replace(paper.snapshot, moves_per_100=100)
    for step in range(10):
        for name in pools:
            slack = chance.choice([0.0, 0.3, 0.7, 1.4, 3.0])
            limit(paper, drawn_kw(paper.snapshot, name) + slack, name)
        needs = {"memory": f"{chance.choice([20, 70])}GB", "count": chance.choice([1, 1, 2, 4])}
        paper.put(service(f"s{step:02}", scale=chance.randint(1, 3), needs=needs))
        if step > 3 and chance.random() < 0.5:
            known = [s for s in paper.snapshot.services.values() if s.deleted_at is None]
            paper.put(chance.choice(known).model_copy(update={"deleted_at": paper.now}))
        caps = {name: paper.snapshot.all(Pool)[Ref("", name)].spec for name in pools}
        for _ in range(6):
            planned = paper.intend()
            for name, spec in caps.items():
                assert drawn_kw(paper.snapshot, name) <= spec.power_kw_max + 1e-9, (seed, step)
            paper.carry_out(planned)
            paper.wait(chance.choice([0.5, 3.0]))
            moved |= {r.uid for r in paper.snapshot.replicas.values() if r.spec.replaces}
    return len(moved)


@pytest.mark.parametrize("seeds", [
    pytest.param(SEEDS[:2], id="some"),
    pytest.param(SEEDS[2:], id="others", marks=[pytest.mark.thorough]),
])  # fmt: skip
def test_moves_too_take_no_pool_above_its_limit_at_any_time(seeds):
    moved = [moved_under_limits(seed) for seed in seeds]
    assert sum(moved) > len(seeds) // 2, "or nothing was tried"


@pytest.mark.parametrize("seed", range(12))
def test_no_pool_is_taken_above_its_limit_whatever_comes_and_goes(seed):
    chance = random.Random(seed)
    kinds = ["nvidia/h100", "nvidia/a100", "nvidia/t4", "furiosa/rngd", "cpu"]
    pools = ["default", "far"]
    nodes = [
        changed(node(f"n{i}", cards=chance.choice([1, 2, 4]), kind=chance.choice(kinds),
                     shared=chance.random() < 0.5), pool=chance.choice(pools))
        for i in range(5)
    ]  # fmt: skip
    paper = Paper(snapshot(*nodes, model(), *(pool(None, name) for name in pools)))
    caps: dict[str, float | None] = dict.fromkeys(pools)
    for step in range(16):
        was = {name: drawn_kw(paper.snapshot, name) for name in pools}
        match chance.randrange(4):
            case 0:
                name = chance.choice(pools)
                caps[name] = chance.choice([None, 0.3, 0.9, 1.5, 2.5])
                limit(paper, caps[name], name)
            case 1:
                needs = {
                    "memory": f"{chance.choice([4, 20, 70])}GB",
                    "count": chance.choice([1, 2]),
                }
                paper.put(service(f"s{step}", scale=chance.randint(1, 3), needs=needs))
            case 2:
                known = [s for s in paper.snapshot.services.values() if s.deleted_at is None]
                for each in known[:1]:
                    gone = paper.snapshot.services[Ref(PROJECT, each.name)]
                    paper.put(gone.model_copy(update={"deleted_at": paper.now}))
            case 3:
                name = f"n{chance.randrange(5)}"
                (paper.lose if chance.random() < 0.5 else paper.find)(name)
        for _ in range(chance.randint(1, 6)):
            paper.turn()
            now = {name: drawn_kw(paper.snapshot, name) for name in pools}
            told, draw = power(paper.snapshot), paper.memo.ground(paper.snapshot).draw
            for name, cap in caps.items():
                assert cap is None or now[name] <= max(cap, was[name]) + 1e-9, (seed, step)
                shown_kw = told[f"pool-{name}"].power_kw or 0.0
                assert shown_kw == pytest.approx(now[name]), (seed, step)
                if name in draw.caps:
                    assert draw.mw(name) == milliwatts(shown_kw * 1000), "told is what is counted"
            was = now
    planned = plan(paper.snapshot)
    assert planned == plan(paper.snapshot, paper.memo)
    assert plan(assume(paper.snapshot, planned)).actions == ()
