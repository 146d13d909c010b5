"""Placement in numbers: the fast way says what the definition says, and nothing is given twice."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.planning.placement import fit
from madang.planning.placement.baselines import RULES, SIZES
from madang.planning.placement.columns import FGD, MADANG, NOWHERE, Columns, Weights
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import NO_DEVICE, Fleet, Host, Kind
from madang.planning.placement.fragmentation import Fragmentation
from madang.planning.placement.mix import Mix
from madang.planning.placement.moves import Mover
from madang.planning.placement.placer import Placer
from madang.planning.placement.prices import Prices
from madang.planning.placement.programme import MILLI, Programme, knapsack, unpack
from madang.planning.placement.reserve import Reserve, group_of
from madang.testing.examples import examples

KINDS = (Kind("a"), Kind("b", 80), Kind("c"))
SHARES = (100, 250, 500, 1000)


def a_demand(chance: random.Random) -> Demand:
    cpu, memory = chance.choice((1000, 4000, 12000)), chance.choice((1024, 8192))
    devices = chance.choice((0, 1, 1, 1, 2, 4))
    share = chance.choice(SHARES) if devices == 1 else 1000
    allowed = chance.choice(((1, 1, 1), (1, 0, 0), (0, 1, 0), (1, 1, 0)))
    parts = tuple(
        share * kind.whole // 1000 if devices and may else 0
        for kind, may in zip(KINDS, allowed, strict=True)
    )
    return Demand(cpu, memory, devices, parts)


def a_host(chance: random.Random, name: str) -> Host:
    kind = chance.randrange(len(KINDS))
    whole = (KINDS[kind].whole,) * chance.choice((0, 1, 2, 4))
    return Host(name, chance.choice((8000, 32000, 64000)), 65536, kind, whole)


def a_world(seed: int) -> tuple[Fleet, list[Demand], list[int]]:
    """Return a fleet, the distinct demands, and arrivals as their indices."""
    chance = random.Random(seed)
    fleet = Fleet.of(KINDS, [a_host(chance, f"n{i:02}") for i in range(chance.randint(1, 9))])
    demands = sorted({a_demand(chance) for _ in range(12)})
    return fleet, demands, [chance.randrange(len(demands)) for _ in range(60)]


def a_placer(
    fleet: Fleet, demands: list[Demand], mix: Mix, weights: Weights, prices: Prices | None = None
) -> Placer:
    measure = Fragmentation(mix, fleet.kinds)
    chosen = prices or Prices.none(fleet.whole)
    return Placer(fleet, demands, Columns(demands, fleet.kinds, measure, chosen, weights))


def fragments(mix: Mix, kind: int, cpu: int, free: list[int]) -> int:
    """Fragmentation as it is defined, one typical demand and one device after the other."""
    there = [f * 1000 // KINDS[kind].whole for f in free]
    out = 0
    for demand, count in mix.counts:
        part = demand.parts[kind]
        roomy = [f >= part for f in free]
        can = demand.devices and part and cpu >= demand.cpu_milli and sum(roomy) >= demand.devices
        lost = [t for t, fits in zip(there, roomy, strict=True) if not (can and fits)]
        out += count * sum(lost)
    return out


def score(mix: Mix, board: object, host: int, demand: Demand) -> float:
    """FGD's score of one host as it is defined; -inf if the demand does not fit."""
    kind = int(board.start.kind[host])
    cpu, memory = int(board.cpu_milli[host]), int(board.memory_mib[host])
    free = [int(f) for f in board.free[host] if f != NO_DEVICE]
    part = demand.parts[kind]
    roomy = sorted((f, i) for i, f in enumerate(free) if demand.devices and part and f >= part)
    if cpu < demand.cpu_milli or memory < demand.memory_mib or len(roomy) < demand.devices:
        return NOWHERE
    if demand.devices == 1:
        ways = [[i] for _, i in roomy]
    else:
        ways = [[i for _, i in roomy[: demand.devices]]]
    before, best = fragments(mix, kind, cpu, free), NOWHERE
    for way in ways:
        after = [f - part if i in way else f for i, f in enumerate(free)]
        less = before - fragments(mix, kind, cpu - demand.cpu_milli, after)
        best = max(best, math.floor(100 / (1 + math.exp(-less / (1000 * mix.total)))))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_every_score_is_what_the_definition_says_over_a_whole_replay(seed):
    fleet, demands, arrivals = a_world(seed)
    mix = Mix.of([demands[i] for i in arrivals])
    placer = a_placer(fleet, demands, mix, FGD)
    for number, which in enumerate(arrivals):
        if number % 7 == 0:
            for i, demand in enumerate(demands):
                for host in range(len(fleet.names)):
                    assert placer.scores[i, host] == score(mix, placer.board, host, demand)
        choice = placer.choose(which)
        row = placer.scores[which]
        if choice is None:
            assert (row == NOWHERE).all()
            continue
        assert row[choice.host] == row.max()
        ties = [fleet.names[h] for h in np.flatnonzero(row == row.max())]
        assert fleet.names[choice.host] == min(ties)
        placer.take(which, choice)


@settings(max_examples=examples(60))
@given(st.integers(0, 10**6), st.booleans())
def test_nothing_is_given_twice_and_all_comes_back(seed, is_ours):
    fleet, demands, arrivals = a_world(seed)
    mix, weights = Mix.of([demands[i] for i in arrivals]), MADANG if is_ours else FGD
    placer = a_placer(fleet, demands, mix, weights)
    chance, running = random.Random(seed), []
    for which in arrivals:
        if running and chance.random() < 0.3:
            placer.give(*running.pop(chance.randrange(len(running))))
        choice = placer.choose(which)
        if choice:
            demand = demands[which]
            kind = int(fleet.kind[choice.host])
            assert len(set(choice.devices)) == demand.devices
            assert not demand.devices or demand.parts[kind] > 0
            placer.take(which, choice)
            running.append((which, choice))
        board = placer.board
        assert (board.cpu_milli >= 0).all()
        assert (board.memory_mib >= 0).all()
        assert (board.free >= np.where(fleet.free == NO_DEVICE, NO_DEVICE, 0)).all()
    for one in running:
        placer.give(*one)
    for left, had in ((placer.board.free, fleet.free), (placer.board.cpu_milli, fleet.cpu_milli)):
        assert (left == had).all()


@settings(max_examples=examples(30))
@given(st.integers(0, 10**6))
def test_neither_the_order_of_hosts_nor_what_is_remembered_changes_a_choice(seed):
    fleet, demands, arrivals = a_world(seed)
    chance = random.Random(seed)
    hosts = [
        Host(fleet.names[i], int(fleet.cpu_milli[i]), int(fleet.memory_mib[i]),
             int(fleet.kind[i]), tuple(int(f) for f in fleet.free[i] if f != NO_DEVICE))
        for i in range(len(fleet.names))
    ]  # fmt: skip
    chance.shuffle(hosts)
    mix = Mix.of([demands[i] for i in arrivals])
    first, second = (
        a_placer(each, demands, mix, MADANG) for each in (fleet, Fleet.of(KINDS, hosts))
    )
    for which in arrivals:
        choice = first.choose(which)
        assert choice == second.choose(which)
        cold = a_placer(first.board.fleet(), demands, mix, MADANG)
        assert cold.choose(which) == choice
        if choice:
            first.take(which, choice)
            second.take(which, choice)


@pytest.mark.parametrize("seed", range(6))
def test_the_filters_agree_with_what_fits_and_name_the_first_that_fails(seed):
    fleet, demands, arrivals = a_world(seed)
    placer = a_placer(fleet, demands, Mix.of(demands), FGD)
    for which in arrivals:
        choice = placer.choose(which)
        if choice:
            placer.take(which, choice)
        for i, demand in enumerate(demands):
            fits = fit.fitting(placer.board, demand)
            assert (fits == (placer.scores[i] > NOWHERE)).all()
            assert (fits == (fit.first_filter(placer.board, demand) == fit.FITS)).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_a_published_rule_scores_every_host_from_nothing_to_a_hundred(rule, seed):
    fleet, demands, _ = a_world(seed)
    board, sizes = fleet.board(), np.zeros((len(fleet.names), SIZES), np.int64)
    for demand in demands:
        fits = fit.fitting(board, demand)
        scores = RULES[rule](board, demand, sizes)[fits]
        assert ((scores >= 0) & (scores <= 100)).all()


def test_the_mix_covers_what_it_is_told_to_and_forgets_memory():
    usual, rare = Demand(1, 5, 1, (1000,)), Demand(2, 5, 1, (500,))
    other = Demand(1, 9, 1, (1000,))
    mix = Mix.of([usual] * 90 + [other] * 6 + [rare] * 4)
    assert mix.counts == ((Demand(1, 0, 1, (1000,)), 96),)
    assert len(Mix.of([usual] * 90 + [rare] * 10).counts) == 2


@settings(max_examples=examples(50))
@given(st.dictionaries(st.integers(1, MILLI), st.integers(0, 900), min_size=1, max_size=5))
def test_the_knapsack_is_worth_what_its_pattern_holds_and_no_pattern_is_worth_more(values):
    sizes = sorted(values)
    worth, took = knapsack(sizes, [float(values[s]) for s in sizes])
    pattern = unpack(took)
    assert sum(size * n for size, n in pattern.items()) <= MILLI
    assert sum(values[size] * n for size, n in pattern.items()) == pytest.approx(worth[MILLI])
    best = max(Fraction(values[s], 1) * (MILLI // s) for s in sizes)
    assert worth[MILLI] >= best
    assert (np.diff(worth) >= 0).all()


@pytest.mark.parametrize("seed", range(8))
def test_no_policy_gives_more_than_the_linear_programme_says_is_possible(seed):
    fleet, demands, arrivals = a_world(seed)
    counts = Counter(demands[i] for i in arrivals)
    solution = Programme(fleet, {d: float(n) for d, n in counts.items()}).solve()
    placer = a_placer(fleet, demands, Mix.of(counts), MADANG, solution.prices)
    given_milli = 0.0
    for which in arrivals:
        choice = placer.choose(which)
        if choice:
            placer.take(which, choice)
            demand, kind = demands[which], int(fleet.kind[choice.host])
            given_milli += demand.devices * demand.parts[kind] * 1000 / KINDS[kind].whole
    assert given_milli <= solution.bound + 1e-6
    planned = sum(sum(row) for row in solution.reserve.values())
    assert planned == pytest.approx(solution.bound)


def test_what_runs_anywhere_leaves_the_only_place_of_others_alone_while_there_is_room():
    kinds = (Kind("common"), Kind("rare"))
    hosts = [Host("z-common", 64000, 65536, 0, (1000,)), Host("a-rare", 64000, 65536, 1, (1000,))]
    fleet = Fleet.of(kinds, hosts)
    anyone, picky = Demand(1000, 1024, 1, (1000, 1000)), Demand(1000, 1024, 1, (0, 1000))
    demands = [anyone, picky]
    solution = Programme(fleet, {anyone: 1.0, picky: 1.0}).solve()
    reserve = Reserve(demands, (1000, 1000), solution.reserve)
    placer = a_placer(fleet, demands, Mix.of(demands), Weights(fragmentation=0.0))
    assert fleet.names[placer.choose(0).host] == "a-rare"
    assert fleet.names[placer.choose(0, reserve.bonus(0)).host] == "z-common"
    assert group_of(picky) == (1,)
    reserve.count(0, 0)
    assert not reserve.takes(0, 0)


def moving_world(seed: int) -> tuple[Placer, Mover, dict[int, tuple[int, object]], list[Demand]]:
    fleet, demands, arrivals = a_world(seed)
    counts = Counter(demands[i] for i in arrivals)
    solution = Programme(fleet, {d: float(n) for d, n in counts.items()}).solve()
    placer = a_placer(fleet, demands, Mix.of(counts), MADANG, solution.prices)
    mover, running = Mover(placer), {}
    for key, which in enumerate(arrivals):
        choice = placer.choose(which)
        if choice:
            placer.take(which, choice)
            mover.add(key, which, choice)
            running[key] = which, choice
    return placer, mover, running, demands


@pytest.mark.parametrize("seed", range(12))
def test_each_move_makes_the_fleet_worth_more_and_takes_nothing_from_anyone(seed):
    placer, mover, running, demands = moving_world(seed)
    hosts = range(len(placer.board.cpu_milli))

    def worth() -> float:
        return sum(placer.column(host).value for host in hosts)

    before = worth()
    for move in mover.improve(10, lambda which, kind: True):
        after = worth()
        assert after >= before + 4.99
        before = after
        which, choice = running[move.key]
        assert (which, choice) == (move.which, move.source)
        assert move.goal.host != move.source.host
        running[move.key] = which, move.goal
    for which, choice in running.values():
        assert len(choice.devices) == demands[which].devices
        placer.give(which, choice)
    assert (placer.board.free == placer.board.start.free).all()


def test_one_move_makes_room_for_what_fits_nowhere():
    fleet = Fleet.of((Kind("a"),), [Host(f"n{i}", 64000, 65536, 0, (1000,) * 2) for i in range(2)])
    one, pair = Demand(1000, 1024, 1, (1000,)), Demand(1000, 1024, 2, (1000,))
    placer = a_placer(fleet, [one, pair], Mix.of([one, pair]), FGD)
    mover = Mover(placer)
    for key in range(2):
        choice = type(placer.choose(0))(key, (0,))
        placer.take(0, choice)
        mover.add(key, 0, choice)
    assert placer.choose(1) is None
    move = mover.make_room(1, lambda which, kind: True)
    assert move.which == 0
    assert {move.source.host, move.goal.host} == {0, 1}
    assert placer.choose(1).host == move.source.host


def test_where_no_move_helps_none_is_made():
    fleet = Fleet.of((Kind("a"),), [Host("n0", 64000, 65536, 0, (1000,) * 2)])
    one, pair = Demand(1000, 1024, 1, (1000,)), Demand(1000, 1024, 2, (1000,))
    placer = a_placer(fleet, [one, pair], Mix.of([one, pair]), FGD)
    mover = Mover(placer)
    choice = placer.choose(0)
    placer.take(0, choice)
    mover.add(1, 0, choice)
    assert mover.make_room(1, lambda which, kind: True) is None
    assert list(mover.improve(5, lambda which, kind: True)) == []


def test_kinds_of_one_node_share_its_processors_and_memory():
    node = {"cpu_milli": 8000, "memory_mib": 4096, "node": "n"}
    hosts = [Host("n a", kind=0, free=(1000,), **node), Host("n b", kind=1, free=(80,), **node)]
    fleet = Fleet.of(KINDS[:2], [*hosts, Host("m", 8000, 4096, 1, (80,))])
    on_a, on_b = Demand(5000, 3000, 1, (1000, 0)), Demand(5000, 1000, 1, (0, 80))
    placer = a_placer(fleet, [on_a, on_b], Mix.of([on_a, on_b]), FGD)
    first = placer.choose(0)
    placer.take(0, first)
    assert placer.scores[1, fleet.names.index("n b")] == NOWHERE
    assert fleet.names[placer.choose(1).host] == "m"
    placer.give(0, first)
    assert (placer.board.cpu_milli == 8000).all()
    assert (placer.board.memory_mib == 4096).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_matrix_that_goes_on_from_another_state_is_the_one_made_of_that_state(seed):
    fleet, demands, arrivals = a_world(seed)
    mix = Mix.of(demands[i] for i in arrivals)
    placer, other = (a_placer(fleet, demands, mix, MADANG) for _ in range(2))
    for which in arrivals[:20]:
        choice = placer.choose(which)
        if choice:
            placer.take(which, choice)
    other.sync(placer.board.fleet())
    assert (other.scores == placer.scores).all()
    other.sync(fleet)
    assert (other.scores == a_placer(fleet, demands, mix, MADANG).scores).all()
