"""`madang twin whatif`: two worlds side by side, planned for by the code that control runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from madang.errors import NotFound, Rejected
from madang.planning.action import Action, Plan, Stop, Verb
from madang.planning.plan import plan
from madang.planning.snapshot import Seen, Snapshot
from madang.resources.manifest import read
from madang.resources.place import Pool, PoolSpec, PoolStatus, Site, SiteSpec
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import AnyResource, Reason, Ref
from madang.resources.tenancy import Empty
from madang.supervisor.protocol import Process
from madang.testing.builders import job, model, node, service, snapshot
from madang.testing.paper import Paper
from madang.twin.change import Addition, change
from madang.twin.ideal import Ideal
from madang.twin.whatif import Asked, awake, whatif


def places(*pools: tuple[str, str]) -> Iterable[AnyResource]:
    """Pools, each with its site."""
    for site in dict.fromkeys(site for site, _ in pools):
        yield Site(name=site, uid=f"site-{site}", spec=SiteSpec(), status=Empty())
    for site, pool in pools:
        yield Pool(name=pool, uid=f"pool-{pool}", spec=PoolSpec(site=site), status=PoolStatus())


def in_pool(pool: str, name: str, **parts: Any) -> list[AnyResource]:
    machine, *cards = node(name, **parts)
    spec = machine.spec.model_copy(update={"pool": pool})
    return [machine.model_copy(update={"spec": spec}), *cards]


def town(*services: Any) -> Snapshot:
    """Two sites: H100s and A100s in Seoul, a box with a processor in Busan; all that fits runs."""
    paper = Paper(
        snapshot(
            places(("seoul", "gpu"), ("busan", "edge"), ("busan", "spare")),
            in_pool("gpu", "h", cards=2), in_pool("gpu", "a", cards=4, kind="nvidia/a100"),
            in_pool("edge", "box", kind="cpu", memory_gb=16, shared=True), model(), *services,
        )
    )  # fmt: skip
    paper.settle()
    return paper.snapshot


def wants(name: str = "bot", kind: str = "nvidia/h100", **spec: Any) -> Any:
    return service(name, needs={"accelerator": kind, "memory": "40GB"}, **spec)


def short(rows: Iterable[Any], *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(row[key] for key in keys) for row in rows]


def test_what_waits_for_accelerators_starts_once_they_come() -> None:
    now = town(wants(scale=3))
    answer = whatif(now, Asked(add=("1xh100@seoul",)))
    assert answer["added"] == [
        {"pool": "gpu", "kind": "nvidia/h100", "nodes": ["new-1"], "accelerators": 1}
    ]
    assert short(answer["starts"], "service", "kind", "replicas", "nodes") == [
        ("bot", "nvidia/h100", 1, ["new-1"])
    ]
    assert (answer["waits"], answer["moves"]) == ([], [])
    assert short(answer["services"], "service", "wanted", "before", "after") == [("bot", 3, 2, 3)]


def test_what_runs_on_a_node_that_goes_moves_while_there_is_room() -> None:
    now = town(wants("any", kind="nvidia", scale=2))
    there = [r.status.node for r in now.replicas.values()]
    other = {"a": "h", "h": "a"}[there[0]]
    answer = whatif(now, Asked(nodes=(there[0],)))
    assert answer["removed"] == [there[0]]
    assert short(answer["moves"], "replicas", "nodes") == [(there.count(there[0]), [other])]
    assert answer["waits"] == answer["starts"] == []


def test_what_finds_no_room_waits_and_says_why() -> None:
    answer = whatif(town(wants("any", kind="nvidia", scale=6)), Asked(nodes=("a",)))
    (waits,) = answer["waits"]
    assert (waits["service"], waits["replicas"], waits["before"]) == ("any", 4, 0)
    assert waits["reason"]["code"] == "placement.nowhere"
    assert waits["smallest_fix"]["code"] == "placement.fix-like"
    assert short(answer["services"], "before", "after") == [(6, 2)]


def test_the_fix_that_it_names_is_one() -> None:
    now = town(wants(scale=4))
    (waits,) = whatif(now, Asked(nodes=("a",)))["waits"]
    assert waits["smallest_fix"]["code"] == "placement.fix-like"
    fix = waits["smallest_fix"]["values"]
    like = f"{fix['count']}x{fix['node']}@seoul"
    assert whatif(now, Asked(add=(like,), nodes=("a",)))["waits"] == []
    now = town(wants())
    (waits,) = whatif(now, Asked(sites=("seoul",)))["waits"]
    assert waits["smallest_fix"]["code"] == "placement.fix-add"
    fix = waits["smallest_fix"]["values"]
    made = f"{fix['nodes']}x{fix['kind']}:{fix['count']}={fix['memory']}@seoul"
    assert whatif(now, Asked(add=(made,), sites=("seoul",)))["waits"] == []


def test_who_gains_and_who_loses_is_told_by_service_and_project() -> None:
    now = town(
        wants("old", project="acme/lab", scale=2), model(project="acme/room"),
        wants("new", project="acme/room", kind="nvidia/a100", scale=5),
    )  # fmt: skip
    answer = whatif(now, Asked(add=("2xa100@seoul",), nodes=("h",)))
    assert short(answer["services"], "project", "service", "before", "after") == [
        ("acme/lab", "old", 2, 0), ("acme/room", "new", 4, 5)
    ]  # fmt: skip
    assert answer["projects"] == [
        {"project": "acme/lab", "before": 2, "after": 0},
        {"project": "acme/room", "before": 4, "after": 5},
    ]


def test_a_site_goes_with_all_its_nodes() -> None:
    answer = whatif(town(wants()), Asked(sites=("seoul",)))
    assert answer["removed"] == ["a", "h"]
    assert short(answer["waits"], "service", "replicas") == [("bot", 1)]


def test_accelerators_and_watts_are_told_by_kind_where_a_source_has_a_figure() -> None:
    answer = whatif(town(wants(kind="nvidia/a100")), Asked(add=("4xa100@seoul",)))
    rows = {row["kind"]: row for row in answer["accelerators"]}
    assert rows["nvidia/a100"] == {
        "kind": "nvidia/a100", "memory_bytes": 80 * 10**9,
        "before": {"used": 1, "total": 4}, "after": {"used": 1, "total": 8},
        "idle_watts": 50, "full_watts": 400, "watts_before": 550, "watts_after": 750,
    }  # fmt: skip
    assert rows["cpu"]["watts_after"] is None
    idle = rows["nvidia/h100"]["watts_after"]
    assert idle == rows["nvidia/h100"]["idle_watts"] * rows["nvidia/h100"]["after"]["total"]
    assert answer["watts"] == {"before": 550 + idle, "after": 750 + idle, "no_figure": ["cpu"]}


def test_a_pool_may_say_better_what_its_accelerators_draw() -> None:
    now = town(wants(kind="nvidia/a100"))
    pool = now.get(Pool, Ref("", "gpu"))
    watts = {"nvidia/a100": {"idle": 40, "full": 300}}
    spec = PoolSpec.model_validate({"site": "seoul", "watts": watts})
    now = now.after([pool.model_copy(update={"spec": spec})])
    rows = whatif(now, Asked(add=("1xcpu@busan/edge",)))["accelerators"]
    assert [row["watts_before"] for row in rows if row["kind"] == "nvidia/a100"] == [3 * 40 + 300]


def test_an_unchanged_world_is_what_planning_makes_of_it_and_the_snapshot_stays() -> None:
    now = town(wants(scale=2))
    assert plan(now).actions == ()
    before = replace(now)
    answer = whatif(now, Asked(add=("1xcpu@busan/edge",)))
    assert answer["starts"] == answer["moves"] == answer["waits"] == []
    assert now == before


@pytest.mark.parametrize(("written", "nodes", "each"), [
    ("8xa100@seoul", 2, [4, 4]), ("6xa100@seoul", 2, [4, 2]), ("2xa100:8@seoul/gpu", 2, [8, 8]),
    ("1xnvidia/h100@busan/spare", 1, [1]), ("3xnvidia/h200=141GB@seoul", 1, [3]),
    ("2xrebellions/atom-max:16=64GB@busan/edge", 2, [16, 16]), ("3xbox@busan/edge", 3, [1, 1, 1]),
])  # fmt: skip
def test_new_nodes_are_like_one_that_is_there_or_as_they_are_declared(
    written: str, nodes: int, each: list[int]
) -> None:
    now = town()
    made = change(now, [written], (), ())
    assert len(made.arrivals) == nodes
    assert [len(arrival.accelerators) for arrival in made.arrivals] == each
    asked = Addition.read(written)
    for arrival in made.arrivals:
        assert arrival.node.spec.pool == (asked.pool or "gpu")
        assert arrival.node.status.cores == 16
        for card in arrival.accelerators:
            assert card.spec.node == arrival.node.name
            if asked.memory_bytes:
                assert card.spec.memory_bytes == asked.memory_bytes
            assert asked.kind == "box" or card.spec.accelerator.endswith(asked.kind)
    assert made.snapshot.seen.nodes == now.seen.nodes | {a.node.name for a in made.arrivals}


def test_two_additions_have_nodes_of_their_own() -> None:
    made = change(town(), ["2xh100@seoul", "4xa100@seoul"], (), ())
    assert [a.node.name for a in made.arrivals] == ["new-1", "new-2"]
    again = change(made.snapshot, ["2xh100@seoul"], (), ())
    assert [a.node.name for a in again.arrivals] == ["new-3"]


@pytest.mark.parametrize(("asked", "code", "known"), [
    (Asked(), "twin.no-change", ""),
    (Asked(nodes=("hh",)), "twin.no-such-node", "a, box, h"),
    (Asked(sites=("jeju",)), "twin.no-such-site", "busan, seoul"),
    (Asked(add=("8xh100@jeju",)), "twin.no-such-site", "busan, seoul"),
    (Asked(add=("8xh100@seoul/edge",)), "twin.no-such-pool", "gpu"),
    (Asked(add=("8xh100@busan",)), "twin.which-pool", "edge, spare"),
    (Asked(add=("8xh900@seoul",)), "twin.no-such-kind", "cpu, nvidia/a100, nvidia/h100"),
    (Asked(add=("8xh200=141GB@seoul",)), "twin.no-such-kind", "cpu, nvidia/a100, nvidia/h100"),
    (Asked(add=("8xnvidia@seoul",)), "twin.which-kind", "nvidia/a100, nvidia/h100"),
    (Asked(add=("8xh100=80XB@seoul",)), "twin.bad-memory", ""),
    *((Asked(add=(odd,)), "twin.bad-addition", "") for odd in (
        "", "h100@seoul", "0xh100@seoul", "8xh100", "8xh100@", "-1xh100@seoul", "8xH100@seoul",
        "10001xh100@seoul", "1xh100:65@seoul", "8xh100@seoul/gpu/x", "8xh100:@seoul",
    )),
])  # fmt: skip
def test_what_is_not_known_is_refused_with_what_is(asked: Asked, code: str, known: str) -> None:
    with pytest.raises(Rejected) as refused:
        whatif(town(), asked)
    assert refused.value.code == code
    assert refused.value.values.get("known", "") == known
    assert isinstance(refused.value, NotFound) == code.startswith("twin.no-such-") * (
        code != "twin.no-such-kind"
    )


def test_a_state_that_was_read_at_rest_is_taken_as_if_it_ran() -> None:
    now = town(wants(scale=3))
    rest = replace(now, seen=Seen())
    told, live = (whatif(each, Asked(add=("1xh100@seoul",))) for each in (rest, now))
    assert (told.pop("assumed_in_sight"), live.pop("assumed_in_sight")) == (True, False)
    assert told == live


def test_what_was_starting_when_it_was_recorded_starts() -> None:
    """Times of a recorded process are those of its node's clock, whatever the twin's says."""
    now = town(wants())
    (one,) = now.replicas.values()
    starting = one.with_status(
        phase=ReplicaPhase.STARTING, started_at=now.now, ready_at=None, url=""
    )
    process = Process(one.uid, 1, "running", pid=9, started_at=1.8e9)
    seen = replace(now.seen, processes={one.uid: process}, probed={})
    answer = whatif(replace(now.after([starting]), seen=seen), Asked(nodes=("a",)))
    assert short(answer["services"], "before", "after") == [(1, 1)]


def test_a_node_that_can_not_be_seen_stays_out_of_sight() -> None:
    now = town(wants(scale=2))
    lost = replace(now, seen=replace(now.seen, nodes=now.seen.nodes - {"a"}))
    assert awake(lost).seen.nodes == lost.seen.nodes
    answer = whatif(lost, Asked(nodes=("h",)))
    assert short(answer["waits"], "replicas") == [(2,)]


def test_what_is_on_its_way_out_is_gone_with_its_node_and_comes_nowhere_else() -> None:
    now = town(wants(scale=2))
    one = next(r for r in now.replicas.values() if r.status.phase is ReplicaPhase.READY)
    fewer = next(iter(now.services.values()))
    fewer = fewer.model_copy(update={"spec": fewer.spec.model_copy(update={"scale": 1}),
                                     "generation": 2})  # fmt: skip
    leaving = now.after([fewer, one.with_status(phase=ReplicaPhase.DRAINING)])
    answer = whatif(leaving, Asked(nodes=("h",), add=("2xh100@seoul",)))
    assert short(answer["services"], "wanted", "before", "after") == [(1, 1, 1)]
    assert answer["waits"] == []


def test_a_world_in_which_nothing_is_seen_to_end_comes_to_rest() -> None:
    """Starts and stops that a lost node never answers are due again and again."""
    paper = Paper(town(wants(scale=2)))
    paper.deaf = {r.uid for r in paper.snapshot.replicas.values()}
    fewer = next(iter(paper.snapshot.services.values()))
    paper.put(fewer.model_copy(update={"deleted_at": paper.now}))
    paper.turn()
    paper.lose("h")
    answer = whatif(paper.snapshot, Asked(add=("1xh100@seoul",)))
    assert short(answer["services"], "wanted", "after") == [(0, 0)]


def test_no_order_reaches_a_node_that_can_not_be_seen() -> None:
    now = town(wants(scale=2))
    world = Ideal(replace(now, seen=replace(now.seen, nodes=frozenset({"a"}))))
    (one, two) = now.replicas.values()
    order = Stop("h", one.uid, one.status.epoch)
    reason = Reason(code="service.rescaled")
    world.carry_out(Plan((Action(Verb.STOP_REPLICA, one, reason, effect=order),)))
    assert world.snapshot.seen.processes.keys() == {one.uid, two.uid}
    world = Ideal(now)
    world.carry_out(Plan((Action(Verb.STOP_REPLICA, one, reason, effect=order),)))
    assert world.snapshot.seen.processes.keys() == {two.uid}


H100 = {"accelerator": "nvidia/h100"}


def two_projects() -> Snapshot:
    """Return eight H100s for which two projects compete, each with eight jobs of one."""
    rows = [
        job(f"{name}-{n}", project=project, created_at=float(n), needs=H100)
        for project, name in (("acme/lab", "lab"), ("acme/web", "web")) for n in range(8)
    ]  # fmt: skip
    paper = Paper(
        snapshot(places(("seoul", "gpu")), in_pool("gpu", "h", cards=8), rows)
    )  # fmt: skip
    paper.settle()
    return paper.snapshot


def held(answer: Any) -> dict[str, tuple[float, float]]:
    return {row["project"]: (row["held_before"], row["held_after"]) for row in answer["queues"]}


def test_a_project_that_weighs_more_would_have_more_and_others_make_room():
    answer = whatif(two_projects(), Asked(weights=("web=3",)))
    assert held(answer) == {"acme/lab": (4.0, 2.0), "acme/web": (4.0, 6.0)}
    moved = [(row["project"], row["before"], row["after"]) for row in answer["jobs"]]
    assert sorted(moved) == [("acme/lab", True, False)] * 2 + [("acme/web", False, True)] * 2


def test_a_grant_that_would_be_given_brings_its_project_what_it_promises():
    manifest = read({
        "kind": "grant", "name": "burst", "project": "acme/web", "accelerator": "nvidia/h100",
        "count": 7, "from": "1970-01-01", "until": "2099-01-01",
    }, "")  # fmt: skip
    answer = whatif(two_projects(), Asked(grants=(manifest,)))
    assert held(answer)["acme/web"] == (4.0, 7.0)


def test_nothing_is_changed_by_asking():
    start = two_projects()
    whatif(start, Asked(weights=("acme/web=3",)))
    assert start.quotas == {}


@pytest.mark.parametrize(("written", "code"), [
    ("web", "twin.bad-weight"), ("web=0", "twin.bad-weight"), ("web=nan", "twin.bad-weight"),
    ("=2", "twin.bad-weight"), ("nobody=2", "twin.no-such-project"),
])  # fmt: skip
def test_a_weight_that_cannot_be_is_refused(written, code):
    with pytest.raises(Rejected) as caught:
        whatif(two_projects(), Asked(weights=(written,)))
    assert caught.value.code == code


def test_a_grant_that_is_over_and_what_is_no_grant_are_refused():
    days = {"from": "1970-01-01", "until": "1970-01-02"}
    over = read({"kind": "grant", "name": "old", "project": "acme/web", "count": 1,
                 "accelerator": "nvidia/h100", **days}, "")  # fmt: skip
    late = replace(two_projects(), now=10 * 86_400.0)
    with pytest.raises(Rejected) as caught:
        whatif(late, Asked(grants=(over,)))
    assert caught.value.code == "twin.grant-over"
    other = read({"kind": "job", "name": "x", "project": "acme/web", "command": "true"}, "")
    with pytest.raises(Rejected) as caught:
        whatif(late, Asked(grants=(other,)))
    assert caught.value.code == "twin.no-grant"
