"""Grants: their life by the clock, their score in any order, what their projects have of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from madang.control.granting import DEEDS_MAX, Asked, act
from madang.errors import Conflict, Forbidden, MadangError, NotFound, Rejected
from madang.planning.explain import explain
from madang.planning.grants import WARNED_S, Around, due, guaranteed, wake_s, weights
from madang.resources.attempt import AttemptPhase
from madang.resources.grant import NEXT, Beyond, Card, Deed, Grant, GrantPhase
from madang.resources.resource import Reason, Ref
from madang.resources.rights import RIGHTS, Principal, Role
from madang.testing.builders import PROJECT, grant, job, node, quota, snapshot
from madang.testing.paper import Paper

G = GrantPhase
DAY_S = 86_400.0
LG = {"effect": 33.6, "plan": 31.6, "need": 25.0}
LIVING = {AttemptPhase.STARTING, AttemptPhase.RUNNING}


def who(user: str, role: Role = Role.OPERATOR, where: str = "") -> Principal:
    return Principal(actor="key/x", role=role, where=where, rights=RIGHTS[role], user=user)


PLENTY = Around((), ("nvidia/h100",) * 64)
KIM, LEE = who("beta/kim"), who("gamma/lee")


def done(given: Grant, by: Principal, what: Any, **said: Any) -> Grant:
    return act(by, given, Asked(what=what, **said), 1_000.0, PLENTY)


def approved(**spec: Any) -> Grant:
    return done(done(grant(**spec), KIM, "review", points=LG), LEE, "approve")


def phase(paper: Paper) -> GrantPhase:
    return paper.snapshot.grants[Ref(PROJECT, "burst")].status.phase


def test_a_grant_lives_by_the_clock() -> None:
    begins, ends = grant().begins, grant().ends
    paper = Paper(snapshot(approved(), now=begins - DAY_S))
    paper.settle()
    assert (phase(paper), dict(guaranteed(paper.snapshot))) == (G.REVIEWED, {})
    for at, expected in [(begins, G.ACTIVE), (ends - WARNED_S, G.WARNED), (ends, G.EXPIRED)]:
        paper.leap(at - paper.now - DAY_S / 2)
        paper.settle()
        assert phase(paper) is not expected
        paper.leap(at - paper.now)
        paper.settle()
        assert phase(paper) is expected
    assert dict(guaranteed(paper.snapshot)) == {}


EARLY, LATE = grant().begins - 1, grant().ends - WARNED_S


@pytest.mark.parametrize(("before", "count", "at", "after"), [
    (G.REVIEWED, 2, EARLY, G.REVIEWED), (G.REVIEWED, 2, EARLY + 1, G.ACTIVE),
    (G.REVIEWED, 2, LATE, G.ACTIVE), (G.REVIEWED, 0, grant().begins, G.REVIEWED),
    (G.REVIEWED, 0, grant().ends, G.REVIEWED), (G.ACTIVE, 2, LATE - 1, G.ACTIVE),
    (G.ACTIVE, 2, LATE, G.WARNED), (G.WARNED, 2, LATE - 1, G.WARNED),
    (G.RENEWED, 2, LATE, G.WARNED), (G.WARNED, 2, grant().ends, G.EXPIRED),
    (G.REQUESTED, 0, grant().ends, G.REQUESTED), (G.RECLAIMED, 2, LATE, G.RECLAIMED),
])  # fmt: skip
def test_a_grant_is_in_each_phase_from_its_very_first_moment(
    before: GrantPhase, count: int, at: float, after: GrantPhase
) -> None:
    """One that is warned of since it is not used stays so; one that nobody decided never begins."""
    assert due(grant().with_status(phase=before, count=count), at) is after


def test_what_a_round_has_not_decided_expires_only_where_it_was_reviewed() -> None:
    asked = grant(round="first")
    assert due(asked, grant().ends) is G.REQUESTED
    assert due(asked.with_status(phase=G.REVIEWED), grant().begins) is G.REVIEWED
    assert due(asked.with_status(phase=G.REVIEWED), grant().ends) is G.EXPIRED


@pytest.mark.parametrize("at", [grant().begins, LATE, grant().ends])
def test_the_next_look_is_when_a_grant_changes_by_itself(at: float) -> None:
    assert wake_s(snapshot(approved(), now=at - 100)) == 100


def test_all_of_planning_looks_again_when_a_grant_begins() -> None:
    assert Paper(snapshot(approved(), now=grant().begins - 100)).intend().wake_s == 100


def test_an_active_grant_promises_and_weighs() -> None:
    paper = Paper(snapshot(approved(weight=3), quota(weight=2), now=grant().begins))
    paper.settle()
    assert guaranteed(paper.snapshot) == {PROJECT: {"nvidia": 2}}
    assert weights(paper.snapshot) == {PROJECT: 6.0}


def test_a_project_is_promised_all_its_grants_and_counts_for_the_best_of_them() -> None:
    """What was approved of each; and an organization has no weight among projects."""
    given = [
        grant(name, count=9, weight=weight).with_status(phase=G.ACTIVE, count=count)
        for name, count, weight in [("a", 2, 3), ("b", 1, 2)]
    ]  # fmt: skip
    world = snapshot(given, quota("acme", weight=5))
    assert guaranteed(world) == {PROJECT: {"nvidia": 3}}
    assert weights(world) == {PROJECT: 3.0}


def test_what_is_granted_comes_on_top_of_a_quota_and_leaves_politely_with_the_grant() -> None:
    needs = {"accelerator": "nvidia", "count": 2}
    paper = Paper(
        snapshot(
            node("one", cards=4), approved(), job(needs=needs),
            quota("acme", accelerators={"nvidia/h100": 0, "nvidia": 0}), now=grant().begins - 100,
        )
    )  # fmt: skip
    paper.settle()
    assert not paper.attempts("train")
    paper.leap(100)
    paper.settle()
    assert not paper.attempts("train"), (
        "those of any kind are granted, and of this one there are none"
    )
    (limit,) = paper.snapshot.quotas.values()
    spec = limit.spec.model_copy(update={"accelerators": {"nvidia": 0}})
    paper.put(limit.model_copy(update={"spec": spec}))
    paper.settle()
    (first,) = paper.attempts("train")
    assert first.status.phase in LIVING
    paper.tell(first, 0, step=5)
    paper.leap(grant().ends - paper.now)
    paper.settle()
    (first,) = paper.attempts("train")
    assert first.status.cause
    assert first.status.cause.code == "quota.over-accelerators"
    assert not list(paper.snapshot.holdings())


def test_the_published_score_comes_out_and_the_order_of_cards_changes_nothing() -> None:
    assert done(grant(), KIM, "review", points=LG).score == 90.2
    cards = [(who(f"org{i}/r"), {"effect": 10.1 * i, "plan": 0.3}) for i in range(3)]
    found = set()
    for order in itertools.permutations(cards):
        given = grant()
        for reviewer, points in order:
            given = done(given, reviewer, "review", points=points)
        found.add(given.model_dump_json(by_alias=True))
    assert len(found) == 1


def test_a_reviewer_of_the_same_organization_counts_for_nothing_nor_does_who_says_so() -> None:
    near = done(grant(), who("acme/park"), "review", points=LG)
    assert (near.status.phase, near.score) == (G.REQUESTED, None)
    said = done(near, KIM, "review", points=LG, conflict=True)
    assert said.score is None
    with pytest.raises(Conflict, match=r"grant\.not-now"):
        done(said, LEE, "approve")
    counted = done(said, LEE, "review", points={"effect": 10})
    assert counted.score == 10
    with pytest.raises(Forbidden, match=r"grant\.conflict"):
        done(counted, KIM, "approve")


def test_a_high_score_does_not_help_who_is_not_eligible_and_the_record_says_which() -> None:
    unmet = done(grant(), KIM, "review", points=LG, unmet="independence")
    with pytest.raises(Rejected, match=r"grant\.ineligible"):
        done(unmet, LEE, "approve")
    refused = done(unmet, LEE, "refuse", text="out")
    codes = [each.code for each in explain(refused, snapshot(refused)).findings]
    assert codes == ["grant.card", "grant.unmet", "grant.score", "grant.deed-refuse"]


@pytest.mark.parametrize(("what", "by", "error"), [
    ("review", who("acme/a", Role.MEMBER, PROJECT), "role.site-needed"),
    ("review", who("acme/a", Role.VIEWER), "role.right-needed"),
    ("approve", who("beta/a", Role.MEMBER), "role.right-needed"),
    ("approve", who("acme/a", Role.OPERATOR, "acme"), "role.site-needed"),
    ("renew", who("beta/a", Role.MEMBER), "role.right-needed"),
    ("reclaim", who("acme/a", Role.OPERATOR, "acme"), "role.site-needed"),
    ("appeal", who("acme/a", Role.VIEWER, PROJECT), "role.right-needed"),
])  # fmt: skip
def test_only_who_may_does(what: str, by: Principal, error: str) -> None:
    given = done(grant(), KIM, "review", points=LG)
    with pytest.raises(MadangError) as refused:
        done(given, by, what, until="2028-01-01", text="x")
    assert refused.value.code == error
    with pytest.raises(NotFound):
        done(given, who("beta/a", Role.MEMBER, "beta/one"), "appeal", text="x")


def test_a_part_can_be_approved_and_no_more_than_was_asked_for() -> None:
    given = done(grant(count=8), KIM, "review", points=LG)
    with pytest.raises(Rejected, match=r"grant\.too-many"):
        done(given, LEE, "approve", count=9)
    part = done(given, LEE, "approve", count=3)
    assert part.status.count == 3
    with pytest.raises(Conflict, match=r"grant\.decided"):
        done(part, LEE, "approve", count=4)
    with pytest.raises(Conflict, match=r"grant\.decided"):
        done(part, who("delta/x"), "review", points=LG)


def test_a_renewed_grant_lasts_longer_and_a_reclaimed_one_is_over() -> None:
    paper = Paper(snapshot(approved(), now=grant().ends - DAY_S))
    paper.settle()
    assert phase(paper) is G.WARNED
    (given,) = paper.snapshot.grants.values()
    with pytest.raises(Rejected, match=r"grant\.no-longer"):
        done(given, LEE, "renew", until="2027-02-01")
    paper.put(done(given, LEE, "renew", until="2027-06-01"))
    paper.leap(2 * DAY_S)
    paper.settle()
    assert (phase(paper), dict(guaranteed(paper.snapshot))) == (G.RENEWED, {PROJECT: {"nvidia": 2}})
    (given,) = paper.snapshot.grants.values()
    paper.put(done(given, LEE, "reclaim", text="idle"))
    paper.settle()
    assert (phase(paper), dict(guaranteed(paper.snapshot))) == (G.RECLAIMED, {})
    (given,) = paper.snapshot.grants.values()
    appealed = done(given, who("acme/a", Role.MEMBER, PROJECT), "appeal", text="it was not")
    assert [deed.what for deed in appealed.status.deeds] == [
        "approve", "renew", "reclaim", "appeal",
    ]  # fmt: skip


def test_a_renewed_grant_is_warned_and_ends_in_its_turn_and_may_be_renewed_again() -> None:
    paper = Paper(snapshot(approved(), now=grant().ends - DAY_S))
    paper.settle()
    (given,) = paper.snapshot.grants.values()
    again = done(done(given, LEE, "renew", until="2027-06-01"), LEE, "renew", until="2027-07-01")
    paper.put(again)
    for at, expected in [
        (again.ends - 2 * WARNED_S, G.RENEWED), (again.ends - WARNED_S, G.WARNED),
        (again.ends, G.EXPIRED),
    ]:  # fmt: skip
        paper.leap(at - paper.now)
        paper.settle()
        assert phase(paper) is expected
    assert dict(guaranteed(paper.snapshot)) == {}


ISSUE = {
    "requested": {"reviewed", "refused"},
    "reviewed": {"active", "refused", "reclaimed", "expired"},
    "active": {"warned", "renewed", "reclaimed", "expired"},
    "warned": {"active", "renewed", "reclaimed", "expired"},
    "renewed": {"warned", "reclaimed", "expired"},
    "refused": {"reviewed"}, "reclaimed": set(), "expired": set(),
}  # fmt: skip
"""Declined ones are reclaimed before they begin, and a round may be awarded again."""


def test_the_phases_follow_each_other_as_the_table_has_them() -> None:
    assert {each.value: {after.value for after in NEXT[each]} for each in G} == ISSUE


@pytest.mark.parametrize("what", ["renew", "reclaim"])
@pytest.mark.parametrize("before", [G.REQUESTED, G.REVIEWED, G.REFUSED, G.RECLAIMED, G.EXPIRED])
def test_only_what_is_given_is_renewed_or_reclaimed(before: GrantPhase, what: str) -> None:
    given: Grant = approved().with_status(phase=before)
    with pytest.raises(Conflict, match=r"grant\.not-now"):
        done(given, LEE, what, until="2029-01-01")


def test_the_same_inputs_explain_the_same_and_only_from_what_is_stored() -> None:
    given = approved()
    again = Grant.model_validate_json(given.model_dump_json(by_alias=True))
    now = snapshot(again, now=2_000.0)
    assert explain(again, now) == explain(given, now)
    changed = Card(reviewer="zeta/z", points={"effect": 1.0})
    other = given.with_status(cards=(*given.status.cards, changed))
    assert explain(other, now).findings != explain(given, now).findings


@pytest.mark.parametrize("days", [
    ("2026-13-01", "2027-01-01"), ("2026-02-29", "2027-01-01"), ("2027-01-01", "2027-01-01"),
    ("2027-01-02", "2027-01-01"), ("soon", "2027-01-01"), ("2026-1-1", "2027-01-01"),
    ("٢٠٢٦-٠١-٠١", "2027-01-01"), ("2026-12-01\n", "2027-01-01"),
])  # fmt: skip
def test_days_that_are_none_are_refused(days: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"value\.(day|grant-days)"):
        grant(**{"from": days[0], "until": days[1]})


def test_who_is_of_the_projects_own_organization_neither_approves_nor_prolongs() -> None:
    judged = done(grant(), KIM, "review", points=LG)
    own = who("acme/park")
    with pytest.raises(Forbidden, match=r"grant\.conflict"):
        done(judged, own, "approve")
    given: Grant = done(judged, LEE, "approve").with_status(phase=G.ACTIVE)
    with pytest.raises(Forbidden, match=r"grant\.conflict"):
        done(given, own, "renew", until="2028-01-01")
    assert done(given, own, "reclaim").status.phase is G.RECLAIMED


def test_a_grant_whose_only_card_is_taken_back_waits_for_another() -> None:
    judged = done(grant(), KIM, "review", points=LG)
    taken = done(judged, KIM, "review", conflict=True)
    assert (taken.status.phase, taken.status.score) == (G.REVIEWED, None)
    assert taken.status.reason
    assert taken.status.reason.code == "grant.requested"
    with pytest.raises(Conflict, match=r"grant\.unreviewed"):
        done(taken, LEE, "approve")


def test_a_card_without_points_says_nothing() -> None:
    with pytest.raises(Rejected, match=r"grant\.no-points"):
        done(grant(), KIM, "review", text="fine")
    assert done(grant(), KIM, "review", unmet="no plan").unmet == "no plan"


def test_more_than_there_is_is_promised_only_where_that_is_said_and_the_numbers_are_kept() -> None:
    now, there = 1_000.0, ("nvidia/h100",) * 3 + ("nvidia/l40s",)
    other: Grant = approved(name="other", accelerator="nvidia/h100", count=2)
    over: Grant = approved(name="over", count=3).with_status(phase=G.RECLAIMED)
    judged = done(grant(accelerator="nvidia/h100", count=2), KIM, "review", points=LG)
    around = Around([judged, other, over], there)
    with pytest.raises(Conflict, match=r"grant\.beyond") as refused:
        act(LEE, judged, Asked(what="approve"), now, around)
    told = refused.value.values
    assert [told[key] for key in ("kind", "there", "promised", "left")] == ["nvidia/h100", 3, 4, 1]
    one = act(LEE, judged, Asked(what="approve", count=1), now, around)
    assert one.status.deeds[0].beyond is None
    all_the_same = act(LEE, judged, Asked(what="approve", overcommit=True), now, around)
    assert all_the_same.status.deeds[0].beyond == Beyond(kind="nvidia/h100", there=3, promised=4)
    codes = [each.code for each in explain(all_the_same, snapshot(all_the_same)).findings]
    assert codes[-2:] == ["grant.deed-approve", "grant.deed-beyond"]


def test_what_is_prolonged_counts_from_now_on_and_with_what_begins_later() -> None:
    long: Grant = approved(**{"from": "2026-01-01", "until": "2026-12-01"})
    past: Grant = approved(name="past", **{"from": "2026-01-01", "until": "2026-02-01"})
    given: Grant = long.with_status(phase=G.WARNED)
    now = grant().begins - DAY_S
    around = Around([given, past], ("nvidia/h100",) * 2)
    longer = act(LEE, given, Asked(what="renew", until="2027-02-01"), now, around)
    assert longer.status.phase is G.RENEWED
    around = Around([given, approved(name="next")], ("nvidia/h100",) * 2)
    with pytest.raises(Conflict, match=r"grant\.beyond"):
        act(LEE, given, Asked(what="renew", until="2027-02-01"), now, around)


@pytest.mark.parametrize("count", [0, -1, 1_000_001, 2.0])
def test_a_grant_is_of_at_least_one(count: float) -> None:
    with pytest.raises(ValueError, match="count"):
        grant(count=count)


@pytest.mark.parametrize("count", [0, -1, 2.0])
def test_at_least_one_is_approved(count: float) -> None:
    with pytest.raises(ValueError, match="count"):
        Asked.model_validate({"what": "approve", "count": count})


def test_a_condition_that_only_one_who_is_near_finds_unmet_is_not_found() -> None:
    said = done(grant(), KIM, "review", points=LG, unmet="late", conflict=True)
    assert said.unmet == ""
    assert [each.code for each in explain(said, snapshot(said)).findings] == ["grant.card-conflict"]


def test_a_grant_says_what_it_is_before_it_begins() -> None:
    judged = done(grant(), KIM, "review", points=LG)
    told = [each.status.reason for each in (judged, done(judged, LEE, "approve"))]
    assert [each and each.code for each in told] == ["grant.reviewed", "grant.approved"]


def test_what_a_round_has_decided_is_told_whoever_reviews_it_again() -> None:
    decided = Reason(code="round.below", values={"round": "first"})
    asked: Grant = grant(round="first").with_status(phase=G.REFUSED, reason=decided)
    again = done(asked, KIM, "review", points=LG)
    assert (again.status.phase, again.status.reason, again.score) == (G.REFUSED, decided, 90.2)


def test_nobody_adds_deeds_to_a_grant_without_end() -> None:
    said = Deed(what="appeal", by="acme/a", at=1.0, text="no")
    full: Grant = approved().with_status(deeds=(said,) * DEEDS_MAX)
    with pytest.raises(Rejected, match=r"grant\.too-much"):
        done(full, who("acme/a", Role.MEMBER, PROJECT), "appeal", text="no")


def test_where_others_are_promised_more_than_there_is_nothing_is_left() -> None:
    judged = done(grant(count=1), KIM, "review", points=LG)
    around = Around([approved(name="other", count=9)], ("nvidia/h100",) * 4)
    with pytest.raises(Conflict, match=r"grant\.beyond") as refused:
        act(LEE, judged, Asked(what="approve"), 1_000.0, around)
    assert refused.value.values["left"] == 0


def test_a_key_that_is_nobodys_and_said_to_be_near_decides_nothing_either() -> None:
    judged = done(done(grant(), KIM, "review", points=LG), who(""), "review", conflict=True)
    with pytest.raises(Forbidden, match=r"grant\.conflict"):
        done(judged, who(""), "approve")
    other = Principal(actor="key/y", role=Role.OPERATOR, where="", rights=RIGHTS[Role.OPERATOR])
    assert done(judged, other, "approve").status.count == 2
