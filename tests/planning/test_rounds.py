"""Rounds: what each request is given, by one rule, in any order; and the public round's sums."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.errors import Unfit
from madang.planning.rounds.rounds import decide, digest_of, gate, holds
from madang.resources.round import Award, Bid, Decision, Lane, RoundSpec

DAYS = {"closes": "2026-12-10", "from": "2027-01-01", "until": "2027-07-01"}


def rules(**spec: Any) -> RoundSpec:
    return RoundSpec.model_validate({"accelerator": "nvidia", "capacity": 4, **DAYS, **spec})


def bid(name: str, asked: int, score: float | None = 50.0, **more: Any) -> Bid:
    return Bid(grant=name if "/" in name else f"{name}/lab/g", asked=asked, score=score, **more)


def given_to(spec: RoundSpec, *bids: Bid, what: str = "award") -> dict[str, int]:
    return {award.grant.partition("/")[0]: award.count for award in decide(spec, bids, what)}


def told(spec: RoundSpec, *bids: Bid, what: str = "award") -> dict[str, str]:
    awards = decide(spec, bids, what)
    return {award.grant.partition("/")[0]: award.reason.code for award in awards}


def award_of(spec: RoundSpec, name: str, *bids: Bid) -> Award:
    return next(a for a in decide(spec, bids, "award") if a.grant.startswith(f"{name}/"))


# the rule, case by case


def test_more_points_come_first_and_the_last_one_gets_the_part_that_is_left() -> None:
    bids = bid("a", 2, 70), bid("b", 3, 90), bid("c", 1, 60)
    assert given_to(rules(), *bids) == {"b": 3, "a": 1, "c": 0}
    assert told(rules(), *bids) == {
        "b": "round.full", "a": "round.part-units", "c": "round.none-units",
    }  # fmt: skip
    last = award_of(rules(), "c", *bids).reason.values
    assert (last["rank"], last["of"], last["cut"], last["below"]) == (3, 3, 70, 10)


@pytest.mark.parametrize(("first", "second", "tie"), [
    (bid("z", 1), bid("a", 2), "round.tie-size"),
    (bid("z", 2, at=1.0), bid("a", 2, at=2.0), "round.tie-time"),
    (bid("a", 2), bid("z", 2), "round.tie-name"),
])  # fmt: skip
def test_of_equal_points_the_smaller_then_the_earlier_then_the_name_comes_first(
    first: Bid, second: Bid, tie: str
) -> None:
    for bids in ((first, second), (second, first)):
        awards = decide(rules(capacity=1), bids, "award")
        assert [award.grant for award in awards] == [first.grant, second.grant]
        assert {award.tie.code for award in awards if award.tie} == {tie}


@pytest.mark.parametrize(("more", "code"), [
    ({"unmet": "independence"}, "round.none-unmet"),
    ({"score": None}, "round.none-judged"),
    ({"score": 59.5}, "round.none-score"),
])  # fmt: skip
def test_who_may_have_nothing_gets_nothing_whatever_is_left_and_is_told_which(
    more: dict[str, Any], code: str
) -> None:
    spec = rules(least_score=60)
    out = bid("out", 1, **{"score": 99.0, **more})
    assert given_to(spec, bid("in", 1, 60), out) == {"in": 1, "out": 0}
    assert told(spec, out) == {"out": code}
    assert award_of(spec, "out", out).rank == 0


def test_a_round_in_which_nobody_qualifies_gives_nothing() -> None:
    assert given_to(rules(least_score=80), bid("a", 1, 79), bid("b", 2, 10)) == {"a": 0, "b": 0}


def test_a_floor_is_kept_for_its_sector_and_the_record_says_so() -> None:
    spec = rules(floors={"academia": 2, "industry": 0})
    bids = bid("firm", 4, 90, sector="industry"), bid("school", 3, 20, sector="academia")
    assert given_to(spec, *bids) == {"firm": 2, "school": 2}
    assert told(spec, *bids) == {"firm": "round.part-floor", "school": "round.part-units"}
    small = bid("school", 2, 20, sector="academia")
    assert told(spec, bids[0], small)["school"] == "round.full-floor"


def test_a_floor_that_nobody_can_fill_goes_to_the_others() -> None:
    spec = rules(floors={"academia": 3, "industry": 0})
    firm, school = bid("firm", 4, 90, sector="industry"), bid("school", 1, 20, sector="academia")
    assert given_to(spec, firm, school) == {"firm": 3, "school": 1}
    assert given_to(spec, firm) == {"firm": 4}
    proud = bid("school", 4, 20, sector="academia", least=4)
    assert given_to(spec, firm, proud) == {"firm": 4, "school": 0}


def test_no_organization_gets_more_than_the_cap_in_all_its_requests() -> None:
    spec = rules(cap=2)
    bids = bid("a/x/g", 1, 90), bid("a/y/g", 3, 80), bid("a/z/g", 1, 70), bid("b", 1, 10)
    counts = {award.grant: award.count for award in decide(spec, bids, "award")}
    assert counts == {"a/x/g": 1, "a/y/g": 1, "a/z/g": 0, "b/lab/g": 1}
    codes = {award.grant: award.reason.code for award in decide(spec, bids, "award")}
    assert (codes["a/y/g"], codes["a/z/g"]) == ("round.part-cap", "round.none-cap")


def test_a_part_that_is_of_no_use_is_given_to_the_next() -> None:
    bids = bid("a", 3, 90), bid("b", 3, 80, least=2), bid("c", 1, 70)
    assert given_to(rules(), *bids) == {"a": 3, "b": 0, "c": 1}
    lost = award_of(rules(), "b", *bids).reason
    assert (lost.code, lost.values["could"], lost.values["least"]) == ("round.none-least", 1, 2)


def test_whole_units_are_given_and_single_accelerators_only_from_the_small_pool() -> None:
    spec = rules(unit=8, capacity=4, small={"units": 1, "up_to": 4})
    small = [bid(f"s{i}", 3, 50 + i, lane=Lane.SMALL) for i in range(4)]
    counts = given_to(spec, *small, bid("big", 32, 10))
    assert counts == {"s3": 3, "s2": 3, "s1": 2, "s0": 0, "big": 24}
    assert given_to(spec, bid("big", 32, 10)) == {"big": 32}, "units that they don't touch are free"
    assert given_to(spec, small[0], bid("big", 32, 10)) == {"s0": 3, "big": 24}
    tied = rules(unit=8, capacity=4, cap=2, small={"units": 1, "up_to": 4})
    mine = bid("a/x/g", 3, 50, lane=Lane.SMALL), bid("a/y/g", 16, 10)
    assert [award.count for award in decide(tied, mine, "award")] == [3, 8], "13 are left, 8 fit"


def test_what_is_idle_is_lent_and_never_more_than_is_there() -> None:
    spec = rules(unit=8, capacity=4, bursts={"units": 3, "cap": 2, "days": 14})
    stands = bid("big", 16, 90, has=16)
    bursts = [bid(name, 24, 60 - i, lane=Lane.BURST) for i, name in enumerate(("x", "y"))]
    assert given_to(spec, stands, *bursts, what="burst") == {"x": 16, "y": 0}
    lent = [bursts[0].model_copy(update={"has": 8}), bursts[1]]
    assert given_to(spec, stands, *lent, what="burst") == {"x": 16, "y": 0}
    assert given_to(spec, stands, lent[0], bid("w", 32, 5), what="next") == {"big": 16, "w": 8}


def test_what_came_back_goes_to_the_next_in_line_and_what_is_had_stays() -> None:
    first = bid("a", 2, 90), bid("b", 3, 80), bid("c", 2, 70)
    assert given_to(rules(), *first) == {"a": 2, "b": 2, "c": 0}
    later = bid("b", 3, 80, has=2), bid("c", 2, 70)
    assert given_to(rules(), *later, what="next") == {"b": 3, "c": 1}
    assert given_to(rules(), *later, what="next") == given_to(rules(), *later[::-1], what="next")


def test_floors_that_are_both_short_are_filled_by_rank_before_all_others() -> None:
    spec = rules(capacity=3, floors={"x": 1, "y": 1, "z": 0})
    has = bid("o", 2, 99, sector="z", has=2)
    line = (
        has,
        bid("a", 1, 90, sector="z"),
        bid("b", 1, 50, sector="x"),
        bid("c", 1, 60, sector="y"),
    )
    assert given_to(spec, *line, what="next") == {"o": 2, "a": 0, "b": 0, "c": 1}


@pytest.mark.parametrize(("spec", "code"), [
    ({"floors": {"a": 3, "b": 2}}, "value.round-kept"),
    ({"floors": {"a": 4}, "small": {"units": 1, "up_to": 1}}, "value.round-kept"),
    ({"bursts": {"units": 5, "cap": 1, "days": 1}}, "value.round-bursts"),
    ({"until": "2027-01-01"}, "value.grant-days"),
    ({"closes": "2027-07-01"}, "value.round-closes"),
])  # fmt: skip
def test_a_call_that_does_not_hold_together_is_refused(spec: dict[str, Any], code: str) -> None:
    with pytest.raises(ValueError, match=code) as refused:
        rules(**spec)
    assert isinstance(refused.value.errors()[0]["ctx"]["error"], Unfit)  # type: ignore[attr-defined]


# the public round of 2026-03-03: 514 proposals asked for 1,714 servers of 8 GPUs, 8,600 GPUs of
# them for academia; 528 servers were given: 2,624 GPUs to academia, 1,288 to industry and 312 to
# research (reported by asiatoday 20260303010000523 and newsis NISX20260303_0003532105).

PUBLIC = {"academia": 2624, "industry": 1288, "research": 312}
ASKED = {"academia": 8600 // 8, "industry": 500, "research": 1714 - 8600 // 8 - 500}
PROPOSALS = {"academia": 322, "industry": 150, "research": 42}


def proposals(seed: int) -> list[Bid]:
    """Proposals whose number and servers are those of the public round; scores are made up."""
    chance, made = random.Random(seed), list[Bid]()
    for sector, count in PROPOSALS.items():
        asked = [1] * count
        for _ in range(ASKED[sector] - count):
            asked[chance.randrange(count)] += 1
        made += [
            Bid(grant=f"{sector}{i // 2}/p{i}/g", sector=sector, asked=8 * units, at=float(i),
                score=round(chance.uniform(40, 99), 1))
            for i, units in enumerate(asked)
        ]  # fmt: skip
    return made


@pytest.mark.parametrize("seed", range(5))
def test_the_sums_of_the_public_round_come_out(seed: int) -> None:
    floors = {sector: gpus // 8 for sector, gpus in PUBLIC.items()}
    spec = rules(capacity=528, unit=8, floors=floors)
    bids = proposals(seed)
    assert (len(bids), sum(each.asked for each in bids)) == (514, 13_712)
    awards = decide(spec, bids, "award")
    given = Counter[str]()
    for award in awards:
        given[str(award.reason.values["sector"])] += award.count
    assert given == PUBLIC
    assert sum(given.values()) == 2624 + 1288 + 312 == 4224 == 528 * 8 == spec.total
    random.Random(seed).shuffle(bids)
    assert decide(spec, bids, "award") == awards


def test_without_floors_the_same_units_go_to_whoever_has_most_points() -> None:
    bids, spec = proposals(1), rules(capacity=528, unit=8)
    awards = decide(spec, bids, "award")
    assert sum(award.count for award in awards) == 4224
    cut = min(a.reason.values["score"] for a in awards if a.count)
    assert all(a.reason.values["score"] <= cut for a in awards if not a.count)  # type: ignore[operator]


# what holds for any round


ORGANIZATIONS = ("a", "b", "c", "d", "e")
SECTOR = dict(zip(ORGANIZATIONS, ("x", "x", "y", "y", "z"), strict=True))


@st.composite
def bids_of_any_kind(draw: st.DrawFn, unit: int, up_to: int) -> list[Bid]:
    made = []
    for i in range(draw(st.integers(0, 9))):
        whose = draw(st.sampled_from(ORGANIZATIONS))
        is_small = up_to > 0 and draw(st.booleans())
        asked = draw(st.integers(1, up_to)) if is_small else unit * draw(st.integers(1, 6))
        made.append(
            Bid(
                grant=f"{whose}/p{i}/g", sector=SECTOR[whose], asked=asked,
                lane=Lane.SMALL if is_small else Lane.WHOLE,
                least=draw(st.sampled_from([0, 0, 0, asked, (asked + 1) // 2])),
                score=draw(st.sampled_from([None, 40.0, 60.0, 60.0, 75.5, 90.0])),
                unmet=draw(st.sampled_from(["", "", "", "no"])), at=float(draw(st.integers(0, 2))),
            )
        )  # fmt: skip
    return made


@st.composite
def rounds(draw: st.DrawFn) -> tuple[RoundSpec, list[Bid]]:
    unit, capacity = draw(st.sampled_from([1, 4, 8])), draw(st.integers(1, 12))
    left, floors = capacity, dict[str, int]()
    for sector in ("x", "y", "z"):
        floors[sector] = draw(st.integers(0, left))
        left -= floors[sector]
    small = draw(st.integers(1, left)) if left and unit > 1 and draw(st.booleans()) else 0
    up_to = unit - 1 if small else 0
    spec = rules(
        capacity=capacity, unit=unit, floors=draw(st.sampled_from([{}, floors])),
        cap=draw(st.sampled_from([None, 1, 3])), least_score=draw(st.sampled_from([0, 50])),
        small={"units": small, "up_to": up_to} if small else None,
    )  # fmt: skip
    return spec, draw(bids_of_any_kind(unit, up_to))


def of_lane(spec: RoundSpec, bids: list[Bid], lane: Lane) -> list[tuple[Bid, Award]]:
    """Return the requests that may have something, in line, with what they are given."""
    known = {each.grant: each for each in bids}
    awards = [a for a in decide(spec, bids, "award") if known[a.grant].lane is lane and a.rank]
    return [(known[a.grant], a) for a in sorted(awards, key=lambda a: a.rank)]


def organization_has(spec: RoundSpec, bids: list[Bid], whose: str) -> int:
    return sum(a.count for a in decide(spec, bids, "award") if a.grant.startswith(f"{whose}/"))


@given(rounds(), st.randoms(use_true_random=False))
def test_any_order_of_requests_is_decided_alike(
    made: tuple[RoundSpec, list[Bid]], chance: random.Random
) -> None:
    spec, bids = made
    awards = decide(spec, bids, "award")
    shuffled = list(bids)
    chance.shuffle(shuffled)
    assert decide(spec, shuffled, "award") == awards
    assert sorted(a.grant for a in awards) == sorted(b.grant for b in bids)


@given(rounds())
def test_never_above_what_there_is_what_was_asked_or_the_cap(
    made: tuple[RoundSpec, list[Bid]],
) -> None:
    spec, bids = made
    awards = {award.grant: award for award in decide(spec, bids, "award")}
    small = sum(awards[each.grant].count for each in bids if each.lane is Lane.SMALL)
    whole = sum(awards[each.grant].count for each in bids if each.lane is Lane.WHOLE)
    assert -(-small // spec.unit) * spec.unit + whole <= spec.total
    assert small <= (spec.small.units * spec.unit if spec.small else 0)
    for each in bids:
        award = awards[each.grant]
        assert award.count <= each.asked
        assert award.count == 0 or award.count >= each.least
        assert each.lane is Lane.SMALL or award.count % spec.unit == 0
        assert award.count == 0 or not gate(spec, each)
    for whose in ORGANIZATIONS if spec.cap else ():
        assert organization_has(spec, bids, whose) <= spec.cap * spec.unit  # type: ignore[operator]


def could_take(spec: RoundSpec, bids: list[Bid], each: Bid, count: int, more: int) -> bool:
    """Tell whether a request would have use for so many more, and its organization may."""
    step = 1 if each.lane is Lane.SMALL else spec.unit
    if spec.cap is not None:
        has = organization_has(spec, bids, each.organization)
        more = min(more, spec.cap * spec.unit - has)
    more = min(more, each.asked - count) // step * step
    return more > 0 and count + more >= each.least


@given(rounds())
def test_a_floor_is_missed_only_where_its_sector_has_no_more_use_for_it(
    made: tuple[RoundSpec, list[Bid]],
) -> None:
    spec, bids = made
    line = of_lane(spec, bids, Lane.WHOLE)
    for sector, units in spec.floors.items():
        own = [(each, award) for each, award in line if each.sector == sector]
        short = units * spec.unit - sum(award.count for _, award in own)
        for each, award in own if short > 0 else ():
            assert not could_take(spec, bids, each, award.count, short), (sector, each)


@given(rounds())
def test_nothing_stays_while_somebody_could_use_it(made: tuple[RoundSpec, list[Bid]]) -> None:
    spec, bids = made
    awards = {award.grant: award.count for award in decide(spec, bids, "award")}
    small = sum(awards[each.grant] for each in bids if each.lane is Lane.SMALL)
    whole = sum(awards[each.grant] for each in bids if each.lane is Lane.WHOLE)
    left = spec.total - whole - -(-small // spec.unit) * spec.unit
    for each, award in of_lane(spec, bids, Lane.WHOLE):
        assert not could_take(spec, bids, each, award.count, left), each


@given(rounds())
def test_nobody_gets_nothing_while_fewer_points_in_their_class_get_what_they_could_use(
    made: tuple[RoundSpec, list[Bid]],
) -> None:
    spec, bids = made
    for lane in (Lane.SMALL, Lane.WHOLE):
        line = of_lane(spec, bids, lane)
        for i, (upper, award) in enumerate(line):
            for lower, other in line[i + 1 :] if award.count == 0 else ():
                if lower.sector == upper.sector or lane is Lane.SMALL:
                    assert not could_take(spec, bids, upper, 0, other.count), (upper, lower)


@given(rounds())
def test_a_decision_comes_out_the_same_from_what_is_stored_and_no_other_does(
    made: tuple[RoundSpec, list[Bid]],
) -> None:
    spec, bids = made
    kept = tuple(sorted(bids, key=lambda each: each.grant))
    decision = Decision(
        what="award", by="key/x", at=1.0, rules=spec, bids=kept, digest=digest_of(spec, kept),
        awards=decide(spec, kept, "award"),
    )  # fmt: skip
    again = Decision.model_validate_json(decision.model_dump_json(by_alias=True))
    assert holds(again)
    for award in again.awards[:1]:
        more = award.model_copy(update={"count": award.count + 1})
        assert not holds(again.model_copy(update={"awards": (more, *again.awards[1:])}))
    for each in again.bids[:1]:
        raised = each.model_copy(update={"score": 99.9})
        assert not holds(again.model_copy(update={"bids": (raised, *again.bids[1:])}))
