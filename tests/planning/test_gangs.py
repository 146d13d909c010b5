"""Gangs: all or nothing, near each other as asked, and refused only where there is no way."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.planning.placement import fit
from madang.planning.placement.columns import MADANG, NOWHERE, Columns
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import NO_DEVICE, Fleet, Host, Kind
from madang.planning.placement.fragmentation import Fragmentation
from madang.planning.placement.gang import (
    ELSEWHERE,
    HAS_ONE,
    NOT_KNOWN,
    TRIES,
    Gang,
    GangPlacement,
    GangRefused,
    place_gang,
)
from madang.planning.placement.mix import Mix
from madang.planning.placement.placer import Placer
from madang.planning.placement.prices import Prices
from madang.planning.placement.topology import UNKNOWN, Topology
from madang.testing.examples import examples

KINDS = (Kind("a"), Kind("b", 80), Kind("cpu"))
LEVELS = ("zone", "rack", "node")
SEEDS = st.integers(0, 10**6)

EQUAL = [
    Demand(2000, 8, 1, (1000, 80, 0)), Demand(4000, 4, 2, (1000, 0, 0)),
    Demand(1000, 4, 1, (500, 0, 0)), Demand(3000, 8, 0, (0, 0, 0)),
    Demand(0, 0, 1, (1000, 80, 1000)),
]  # fmt: skip
"""Of these there is a way if, and only if, there is room for their number."""
ANY = [*EQUAL, Demand(1000, 2, 2, (250, 20, 0)), Demand(9000, 40, 4, (1000, 80, 0))]


@dataclass(frozen=True)
class World:
    """Hosts, and where they lie."""

    hosts: tuple[Host, ...]
    labels: dict[str, tuple[str, str, str]]
    """By name of the host."""

    @property
    def fleet(self) -> Fleet:
        return Fleet.of(KINDS, self.hosts)

    @property
    def topology(self) -> Topology:
        return Topology.of(LEVELS, [self.labels[name] for name in self.fleet.names])

    def placer(self) -> Placer:
        fleet, mix = self.fleet, Mix.of(ANY)
        prices = Prices.none(fleet.whole)
        columns = Columns(ANY, KINDS, Fragmentation(mix, KINDS), prices, MADANG)
        return Placer(fleet, ANY, columns)


def a_world(chance: random.Random, nodes_max: int = 5) -> World:
    """Return a few nodes, some with two kinds of devices, some of which nobody knows the rack."""
    hosts, labels = list[Host](), {}
    for number in chance.sample(range(10), chance.randint(1, nodes_max)):
        node = f"n{number}"
        cpu, memory = chance.choice((4000, 9000, 16000)), chance.choice((16, 40))
        where = (chance.choice(("z1", "z2", "z2", "")), chance.choice(("r1", "r2", "")),
                 chance.choice((node,) * 6 + ("",)))  # fmt: skip
        for kind in chance.choice(((0,), (1,), (0, 2), (0, 1))):
            free = [chance.choice((KINDS[kind].whole, KINDS[kind].whole, 0)) for _ in range(3)]
            host = Host(
                f"{node}-{kind}", cpu, memory, kind, tuple(free[: chance.randint(1, 3)]), node
            )
            hosts.append(host)
            labels[host.name] = where
    return World(tuple(hosts), labels)


def a_gang(chance: random.Random, demands: list[Demand], *, is_mixed: bool = False) -> Gang:
    of = chance.choices(demands, k=3 if is_mixed else 1)
    return Gang(
        tuple(chance.choice(of) for _ in range(chance.randint(1, 4))),
        chance.choice(("", *LEVELS)),
        is_required=chance.random() < 0.5,
        is_apart=chance.random() < 0.3,
    )


def state(placer: Placer) -> list[bytes]:
    board = placer.board
    kept = (board.cpu_milli, board.memory_mib, board.free, placer.scores)
    return [each.tobytes() for each in kept]


def every_way(placer: Placer, gang: Gang, topology: Topology) -> Iterator[tuple[int, ...]]:
    """Return the hosts of every way to place equal members: each that may be is looked at."""
    demand, board = gang.members[0], placer.board
    for hosts in combinations_with_replacement(range(len(board.cpu_milli)), len(gang.members)):
        counts = Counter(hosts)
        nodes = Counter(board.start.of_node(host)[0] for host in hosts)
        own = topology.ids[-1][list(hosts)]
        if gang.is_apart and (len(set(own)) < len(hosts) or (own < 0).any()):
            continue
        if all(
            board.cpu_milli[node] >= n * demand.cpu_milli
            and board.memory_mib[node] >= n * demand.memory_mib
            for node, n in nodes.items()
        ) and all(has_devices(placer, demand, host, n) for host, n in counts.items()):
            yield hosts


def has_devices(placer: Placer, demand: Demand, host: int, times: int) -> bool:
    if not demand.devices:
        return True
    part = demand.parts[placer.board.start.kind[host]]
    slots = sum(int(f) // part for f in placer.board.free[host] if f > 0) if part else 0
    return slots >= times * demand.devices


def apartness(
    hosts: tuple[int, ...], gang: Gang, topology: Topology, fleet: Fleet
) -> tuple[int, int]:
    """Return how many levels outwards one domain holds all, and how many domains are used."""
    levels = topology.around(gang.level)
    ids = [topology.at(level)[list(hosts)] for level in levels]
    outwards = next(i for i, own in enumerate(ids) if own[0] >= 0 and len(set(own)) == 1)
    used = {
        (int(own), fleet.of_node(host) if own < 0 else ())
        for own, host in zip(ids[0], hosts, strict=True)
    }
    return outwards, len(used)


def every_apartness(placer: Placer, gang: Gang, topology: Topology) -> list[tuple[int, int]]:
    """Return how far apart members are in every way that the gang allows."""
    ways = every_way(placer, gang, topology)
    found = [apartness(way, gang, topology, placer.board.start) for way in ways]
    return [each for each in found if not gang.is_required or each[0] == 0]


@settings(max_examples=examples(400))
@given(SEEDS)
def test_equal_members_are_refused_only_if_there_is_no_way_and_are_as_near_as_can_be(seed):
    chance = random.Random(seed)
    world, gang = a_world(chance), a_gang(chance, EQUAL)
    placer, topology = world.placer(), world.topology
    answer = place_gang(placer, gang, topology)
    ways = [
        apartness(way, gang, topology, world.fleet) for way in every_way(placer, gang, topology)
    ]
    if gang.is_required:
        ways = [way for way in ways if way[0] == 0]
    if isinstance(answer, GangRefused):
        assert not ways
    else:
        hosts = tuple(choice.host for choice in answer.choices)
        assert apartness(hosts, gang, topology, world.fleet) == min(ways)
        assert answer.together == topology.around(gang.level)[min(ways)[0]]


@settings(max_examples=examples(200))
@given(SEEDS)
def test_all_or_nothing_and_nothing_is_given_twice_even_with_two_gangs_in_one_plan(seed):
    chance = random.Random(seed)
    world = a_world(chance, 8)
    placer, topology = world.placer(), world.topology
    for _ in range(3):
        gang, before = a_gang(chance, ANY, is_mixed=True), state(placer)
        answer = place_gang(placer, gang, topology)
        assert state(placer) == before, "to ask changes nothing"
        if isinstance(answer, GangRefused):
            assert answer.placed < answer.members == len(gang.members)
            continue
        answer.take(placer)
        board, start = placer.board, placer.board.start
        assert (board.cpu_milli >= 0).all()
        assert (board.memory_mib >= 0).all()
        assert (board.free >= np.where(start.free == NO_DEVICE, NO_DEVICE, 0)).all()
        for demand, which, choice in zip(gang.members, answer.which, answer.choices, strict=True):
            assert placer.demands[which] == demand
            assert len(set(choice.devices)) == demand.devices
            assert not demand.devices or demand.parts[start.kind[choice.host]]
        hosts = [choice.host for choice in answer.choices]
        level = topology.at(gang.level if gang.is_required else "")[hosts]
        assert level[0] >= 0
        assert len(set(level)) == 1
        if gang.is_apart:
            assert len(set(topology.ids[-1][hosts]) - {UNKNOWN}) == len(hosts)


@settings(max_examples=examples(100))
@given(SEEDS)
def test_neither_the_order_of_hosts_nor_the_names_of_domains_change_an_answer(seed):
    chance = random.Random(seed)
    world, gang = a_world(chance, 8), a_gang(chance, ANY, is_mixed=True)
    hosts, renamed = list(world.hosts), {"z1": "west", "z2": "east", "r1": "9", "r2": "1", "": ""}
    chance.shuffle(hosts)
    again = World(
        tuple(hosts),
        {name: tuple(renamed.get(x, f"-{x}") for x in own) for name, own in world.labels.items()},
    )
    one = place_gang(world.placer(), gang, world.topology)
    other = place_gang(again.placer(), gang, again.topology)
    assert one == place_gang(world.placer(), gang, world.topology)
    if isinstance(one, GangRefused):
        assert isinstance(other, GangRefused)
        assert (one.placed, one.fell) == (other.placed, other.fell)
    else:
        assert one == other


@settings(max_examples=examples(200))
@given(SEEDS)
def test_a_refusal_says_how_many_had_room_at_best_and_what_every_other_host_lacks(seed):
    chance = random.Random(seed)
    world, gang = a_world(chance), a_gang(chance, EQUAL)
    placer, topology = world.placer(), world.topology
    answer = place_gang(placer, gang, topology)
    if not isinstance(answer, GangRefused):
        return
    most = 0
    for number in range(1, len(gang.members)):
        fewer = Gang(gang.members[:number], gang.level, gang.is_required, gang.is_apart)
        ways = [
            apartness(way, fewer, topology, world.fleet)
            for way in every_way(placer, fewer, topology)
        ]
        if any(not gang.is_required or way[0] == 0 for way in ways):
            most = number
    assert answer.placed == most
    assert sum(count for _, count in answer.fell) == len(world.hosts)
    assert fit.FITS not in dict(answer.fell)
    assert (answer.domain == UNKNOWN) == (not (gang.is_required and gang.level) or not (
        topology.at(gang.level) >= 0).any())  # fmt: skip


@settings(max_examples=examples(100))
@given(SEEDS)
def test_equal_members_that_may_go_anywhere_go_where_each_would_have_gone_by_itself(seed):
    chance = random.Random(seed)
    world = a_world(chance, 8)
    placer, demand = world.placer(), chance.choice(EQUAL)
    answer = place_gang(placer, Gang((demand,) * 4), world.topology)
    which, chosen, total = ANY.index(demand), [], 0.0
    while len(chosen) < 4 and (choice := placer.choose(which)):
        total += placer.scores[which, choice.host]
        placer.take(which, choice)
        chosen.append(choice)
    assert isinstance(answer, GangPlacement) == (len(chosen) == 4)
    if isinstance(answer, GangPlacement):
        assert Counter(answer.choices) == Counter(chosen)
        assert answer.score == pytest.approx(total)


@settings(max_examples=examples(200))
@given(SEEDS)
def test_of_the_domains_with_room_it_takes_the_one_with_the_best_sum_of_scores(seed):
    chance = random.Random(seed)
    world, demand = a_world(chance, 8), chance.choice(EQUAL)
    topology = world.topology
    answer = place_gang(world.placer(), Gang((demand,) * 2, "zone", is_required=True), topology)
    totals = []
    for zone in set(topology.at("zone")) - {UNKNOWN}:
        names = {world.fleet.names[i] for i in np.flatnonzero(topology.at("zone") == zone)}
        alone = World(tuple(h for h in world.hosts if h.name in names), world.labels).placer()
        which, total = ANY.index(demand), 0.0
        for _ in range(2):
            if total > NOWHERE and (choice := alone.choose(which)):
                total += alone.scores[which, choice.host]
                alone.take(which, choice)
            else:
                total = NOWHERE
        totals.append(total)
    assert len(totals) <= TRIES
    best = max(totals, default=NOWHERE)
    assert (answer.score if isinstance(answer, GangPlacement) else NOWHERE) == pytest.approx(best)


@settings(max_examples=examples(100))
@given(SEEDS)
def test_ranks_that_follow_each_other_are_neighbours(seed):
    chance = random.Random(seed)
    world, demand = a_world(chance, 8), chance.choice(EQUAL)
    answer = place_gang(world.placer(), Gang((demand,) * 6), world.topology)
    if isinstance(answer, GangPlacement):
        hosts = [choice.host for choice in answer.choices]
        for own in (*world.topology.ids, np.arange(len(world.hosts))):
            runs = [domain for domain, _ in groupby(int(own[host]) for host in hosts)]
            assert all(runs.count(domain) == 1 for domain in set(runs) - {UNKNOWN})


def racks(*free: int) -> tuple[Placer, Topology]:
    """Return racks of nodes with two devices each, of which so many are free."""
    hosts, labels = [], {}
    for rack, many in enumerate(free):
        for node in range(-(-many // 2)):
            name = f"r{rack}n{node}"
            own = tuple(1000 if 2 * node + i < many else 0 for i in range(2))
            hosts.append(Host(name, 16000, 64, 0, own))
            labels[name] = (f"z{rack // 2}", f"r{rack}", name)
    world = World(tuple(hosts), labels)
    return world.placer(), world.topology


WHOLE = EQUAL[0]


def used(answer: object, topology: Topology, level: str) -> list[int]:
    assert isinstance(answer, GangPlacement)
    return sorted({int(topology.at(level)[choice.host]) for choice in answer.choices})


def test_what_prefers_a_rack_goes_to_one_zone_if_no_rack_has_room_and_to_few_racks_in_it():
    placer, topology = racks(3, 3, 3, 5, 2)
    for members, together, racks_used in (
        (5, "rack", 1),
        (6, "zone", 2),
        (8, "zone", 2),
        (9, "", 3),
    ):
        answer = place_gang(placer, Gang((WHOLE,) * members, "rack"), topology)
        assert answer.together == together
        assert len(used(answer, topology, "rack")) == racks_used


def test_of_racks_that_are_as_good_the_fullest_that_suffices_is_taken():
    placer, topology = racks(6, 4, 6)
    answer = place_gang(placer, Gang((WHOLE,) * 4, "rack", is_required=True), topology)
    assert used(answer, topology, "rack") == [1]


def test_racks_of_the_same_name_in_two_zones_are_two_racks():
    ids = Topology.of(
        ("zone", "rack"), [("a", "r"), ("b", "r"), ("a", "r"), ("", "r"), ("a", "")]
    ).ids
    assert ids.tolist() == [[0, 1, 0, UNKNOWN, 0], [0, 1, 0, 2, UNKNOWN]]


def test_a_host_of_which_nobody_knows_the_rack_never_does_where_one_is_required():
    host = Host("n", 16000, 64, 0, (1000, 1000))
    world = World((host,), {"n": ("z", "", "n")})
    gang = Gang((WHOLE, WHOLE), "rack", is_required=True)
    answer = place_gang(world.placer(), gang, world.topology)
    assert answer == GangRefused(2, 0, UNKNOWN, ((NOT_KNOWN, 1),))
    assert (
        place_gang(world.placer(), Gang((WHOLE, WHOLE), "rack"), world.topology).together == "zone"
    )


def test_one_per_node_in_one_node_is_refused_and_says_so():
    placer, topology = racks(2, 2)
    gang = Gang((WHOLE, WHOLE), "node", is_required=True, is_apart=True)
    answer = place_gang(placer, gang, topology)
    assert answer == GangRefused(2, 1, 0, ((HAS_ONE, 1), (ELSEWHERE, 1)))


def test_a_gang_larger_than_the_fleet_is_refused_with_what_there_is():
    placer, topology = racks(2, 4, 1)
    answer = place_gang(placer, Gang((WHOLE,) * 100), topology)
    assert answer == GangRefused(100, 7, UNKNOWN, ((fit.DEVICES, 4),))


def test_a_kind_that_the_fleet_has_not_is_refused_for_that():
    placer, topology = racks(2, 4)
    only_b = Demand(2000, 8, 1, (0, 80, 0))
    placer = Placer(placer.board.fleet(), [only_b], Columns(
        [only_b], KINDS, Fragmentation(Mix.of([only_b]), KINDS),
        Prices.none(placer.board.start.whole), MADANG))  # fmt: skip
    answer = place_gang(placer, Gang((only_b,)), topology)
    assert answer == GangRefused(1, 0, UNKNOWN, ((fit.WRONG_KIND, 3),))


def test_in_a_fleet_without_hosts_nobody_has_room():
    world = World((), {})
    topology = Topology(LEVELS, np.zeros((3, 0), np.int64))
    for gang in (Gang((WHOLE,)), Gang((WHOLE,), "rack", is_required=True, is_apart=True)):
        assert place_gang(world.placer(), gang, topology) == GangRefused(1, 0, UNKNOWN, ())


def test_nobody_is_no_gang():
    with pytest.raises(ValueError, match="without members"):
        Gang(())


def test_a_preference_of_kinds_moves_the_whole_gang():
    hosts = [Host("a", 16000, 64, 0, (1000,) * 3), Host("b", 16000, 64, 1, (80,) * 3)]
    world = World(tuple(hosts), {h.name: ("z", "r", h.name) for h in hosts})
    for bonus, name in (((0.0, 1e5, 0.0), "b"), ((1e5, 0.0, 0.0), "a")):
        answer = place_gang(world.placer(), Gang((WHOLE,) * 3), world.topology, bonus)
        assert {world.fleet.names[choice.host] for choice in answer.choices} == {name}


def test_a_host_and_its_sibling_do_not_both_give_what_they_share():
    node = [Host("n-0", 5000, 64, 0, (1000,) * 3, "n"), Host("n-1", 5000, 64, 1, (80,) * 3, "n")]
    world = World(tuple(node), {h.name: ("z", "r", "n") for h in node})
    assert isinstance(place_gang(world.placer(), Gang((WHOLE,) * 2), world.topology), GangPlacement)
    answer = place_gang(world.placer(), Gang((WHOLE,) * 3), world.topology)
    assert answer == GangRefused(3, 2, UNKNOWN, ((fit.CPU, 2),))
