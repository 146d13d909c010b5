"""Rounds from call to end: what operators do, what grants become, what is told of it to whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from madang.control import granting, rounding
from madang.control.rounding import RoundAsked
from madang.errors import Conflict, Forbidden, MadangError, Rejected
from madang.planning.explain import explain
from madang.planning.grants import Around
from madang.planning.rounds.calls import outcome
from madang.planning.rounds.rounds import holds
from madang.planning.snapshot import Snapshot
from madang.resources.grant import Deed, Grant, GrantPhase
from madang.resources.resource import Ref
from madang.resources.rights import RIGHTS, Principal, Role
from madang.resources.round import Round, RoundPhase
from madang.testing.builders import grant, node, round_, snapshot
from madang.testing.examples import examples
from madang.testing.paper import Paper

G, R = GrantPhase, RoundPhase
PLENTY = Around((), ("nvidia/h100",) * 1000)
DAY_S = 86_400.0


def who(user: str, role: Role = Role.OPERATOR, where: str = "") -> Principal:
    return Principal(actor="key/x", role=role, where=where, rights=RIGHTS[role], user=user)


LEE = who("gamma/lee")
MEMBER = who("acme/kim", Role.MEMBER, "acme/lab")


class Town:
    """A world in which people do things about a round and its grants."""

    def __init__(self, *grants: Grant, cards: int = 8, others: Iterable[Grant] = (),
                 **spec: Any) -> None:  # fmt: skip
        call = round_(**spec)
        self.paper = Paper(
            snapshot(node("one", cards=cards), call, *grants, *others, now=call.begins - DAY_S)
        )
        self.paper.settle()

    @property
    def now(self) -> Snapshot:
        return self.paper.snapshot

    @property
    def round(self) -> Round:
        return self.now.rounds[Ref("", "first")]

    def of(self, name: str) -> Grant:
        return next(each for each in self.now.grants.values() if each.name == name)

    def do(self, what: Any, by: Principal = LEE, **said: Any) -> tuple[Round, tuple[Grant, ...]]:
        asked = RoundAsked(what=what, **said)
        moved, grants = rounding.act(by, self.round, asked, self.now)
        if not asked.dry_run:
            self.paper.put(moved, *grants)
        return moved, grants

    def act(self, name: str, what: Any, by: Principal = LEE, **said: Any) -> None:
        asked = granting.Asked(what=what, **said)
        self.paper.put(granting.act(by, self.of(name), asked, self.now.now, PLENTY))

    def counts(self) -> dict[str, int]:
        return {each.name: each.status.count if each.stands else 0
                for each in sorted(self.now.grants.values(), key=lambda each: each.name)
                if each.spec.round}  # fmt: skip


def asked(
    name: str, count: int, score: float | None = 50.0, project: str = "", **spec: Any
) -> Grant:
    """Return a request that somebody has judged."""
    made = grant(name, project or f"{name}/lab", count=count, round="first", **spec)
    if score is None:
        return made
    points = {"effect": score * 0.4, "plan": score * 0.35, "need": score * 0.25}
    return granting.act(LEE, made, granting.Asked(what="review", points=points), 1_000.0, PLENTY)


def codes(town: Town, name: str) -> list[str]:
    return [each.code for each in explain(town.of(name), town.now).findings]


def test_the_clock_closes_and_ends_a_round_and_gives_nothing() -> None:
    town = Town(asked("a", 2))
    assert (town.round.status.phase, town.counts()) == (R.CLOSED, {"a": 0})
    town.paper.leap(town.round.ends - town.paper.now)
    town.paper.settle()
    assert (town.round.status.phase, town.of("a").status.phase) == (R.OVER, G.EXPIRED)
    with pytest.raises(Conflict, match=r"round\.not-now"):
        town.do("award")


def test_the_next_look_is_when_a_round_closes() -> None:
    call = round_()
    paper = Paper(snapshot(call, now=call.closes - 100))
    assert paper.intend().wake_s == 100


def test_an_award_gives_all_at_once_and_its_grants_live_on_as_others_do() -> None:
    town = Town(asked("a", 3, 70), asked("b", 2, 60), asked("c", 1, 50), asked("d", 1, None))
    town.do("award", text="as the rule says")
    assert town.counts() == {"a": 3, "b": 1, "c": 0, "d": 0}
    phases = {name: town.of(name).status.phase for name in "abcd"}
    assert phases == {"a": G.REVIEWED, "b": G.REVIEWED, "c": G.REVIEWED, "d": G.REFUSED}
    assert town.round.status.phase is R.AWARDED
    told = {name: town.of(name).status.reason for name in "abcd"}
    assert [told[name].code for name in "abcd" if told[name]] == [  # type: ignore[union-attr]
        "round.full", "round.part-units", "round.none-units", "round.none-judged",
    ]  # fmt: skip
    town.paper.leap(DAY_S)
    town.paper.settle()
    assert {name: town.of(name).status.phase for name in "abcd"} == {
        "a": G.ACTIVE, "b": G.ACTIVE, "c": G.REVIEWED, "d": G.REFUSED,
    }  # fmt: skip


def test_a_round_is_awarded_once_and_only_when_it_has_closed() -> None:
    town = Town(asked("a", 2), closes="2026-12-05")
    with pytest.raises(Conflict, match=r"round\.still-open"):
        town.do("award", dry_run=True)
    town.do("close")
    with pytest.raises(Conflict, match=r"round\.not-now"):
        town.do("close")
    town.do("award")
    before = town.now
    with pytest.raises(Conflict, match=r"round\.awarded-already"):
        town.do("award")
    assert town.now is before


def test_a_dry_run_says_what_an_award_then_does() -> None:
    town = Town(asked("a", 3, 70), asked("b", 2, 60))
    tried, grants = town.do("award", dry_run=True)
    assert town.counts() == {"a": 0, "b": 0}
    done, given = town.do("award")
    assert tried.status.decisions[0].awards == done.status.decisions[0].awards
    assert [each.status.count for each in grants] == [each.status.count for each in given]


@pytest.mark.parametrize(("what", "by", "error"), [
    ("award", who("acme/a", Role.MEMBER), "role.right-needed"),
    ("award", who("acme/a", Role.OPERATOR, "acme"), "role.site-needed"),
    ("close", MEMBER, "role.site-needed"),
    ("next", who("acme/a", Role.AUDITOR), "role.right-needed"),
    ("burst", who("acme/a", Role.VIEWER), "role.right-needed"),
])  # fmt: skip
def test_only_operators_of_the_site_decide(what: str, by: Principal, error: str) -> None:
    with pytest.raises(MadangError) as refused:
        Town(asked("a", 2)).do(what, by=by)
    assert refused.value.code == error


@pytest.mark.parametrize(("user", "says_so"), [("a/boss", False), ("", True)])
def test_who_is_too_near_to_a_request_does_not_decide(user: str, says_so: bool) -> None:
    """Known by the organization, or by what was said: by a key that is nobody's, too."""
    near = granting.act(who(user), grant("a", "a/lab", round="first"),
                        granting.Asked(what="review", points={"effect": 40}, conflict=says_so), 1.0,
                        PLENTY)  # fmt: skip
    town = Town(asked("b", 1), near)
    with pytest.raises(Forbidden, match=r"round\.conflict"):
        town.do("award", by=who(user))
    town.do("award")
    assert town.counts() == {"a": 0, "b": 1}


def test_nothing_is_promised_that_is_not_there_or_promised_to_others() -> None:
    other = asked("o", 3, project="zeta/lab").model_copy(
        update={"spec": grant("o", count=3).spec}
    )  # fmt: skip
    other = granting.act(LEE, other, granting.Asked(what="approve"), 1.0, PLENTY)
    town = Town(asked("a", 4, 70), cards=6, others=[other])
    with pytest.raises(Conflict, match=r"round\.overcommit") as refused:
        town.do("award")
    values = refused.value.values
    assert [values[key] for key in ("wants", "had", "promised", "missing")] == [4, 6, 3, 1]
    tried, _ = town.do("award", dry_run=True)
    assert (tried.status.decisions[0].had, tried.status.decisions[0].promised) == (6, 3)
    town.do("award", overcommit=True)
    assert town.counts()["a"] == 4


def test_what_others_are_promised_at_other_times_is_free() -> None:
    early = asked("e", 3, project="zeta/lab")
    spec = grant("e", count=6, **{"from": "2026-11-01", "until": "2026-12-01"}).spec
    early = granting.act(LEE, early.model_copy(update={"spec": spec}),
                         granting.Asked(what="approve"), 1.0, PLENTY)  # fmt: skip
    town = Town(asked("a", 4), cards=6, others=[early])
    town.do("award")
    assert town.counts()["a"] == 4


def test_another_score_after_the_award_changes_nothing_until_it_is_awarded_again() -> None:
    town = Town(asked("a", 4, 70), asked("b", 4, 60))
    town.do("award")
    town.act("b", "review", who("delta/x"), points={"effect": 40, "plan": 35, "need": 25})
    assert town.of("b").score == 80
    assert town.counts() == {"a": 4, "b": 0}
    assert "round.drift" in codes(town, "b")
    assert outcome(town.round, town.now, lambda _: True).changed == ("b/lab/b",)
    town.act("b", "appeal", who("b/x", Role.MEMBER, "b/lab"), text="read page 3")
    assert outcome(town.round, town.now, lambda _: True).appeals == ("b/lab/b",)
    with pytest.raises(Conflict, match=r"round\.not-now|round\.awarded-already"):
        town.do("award")
    with pytest.raises(Rejected, match=r"round\.no-text"):
        town.do("award", again=True)
    town.do("award", again=True, text="page 3 was read")
    assert town.counts() == {"a": 0, "b": 4}
    first, second = town.round.status.decisions
    assert (first.what, second.what) == ("award", "again")
    assert holds(first)
    assert holds(second)
    assert outcome(town.round, town.now, lambda _: True).changed == ()


def test_awarded_again_takes_nothing_from_who_has_begun_and_lets_in_who_was_refused() -> None:
    town = Town(asked("a", 3, 70), asked("b", 2, None))
    town.do("award")
    assert town.of("b").status.phase is G.REFUSED
    town.paper.leap(DAY_S)
    town.paper.settle()
    town.act("b", "review", who("delta/x"), points={"effect": 40, "plan": 35})
    assert town.of("b").status.phase is G.REFUSED
    town.do("award", again=True, text="the card came late")
    town.paper.settle()
    assert town.counts() == {"a": 3, "b": 1}
    assert {name: town.of(name).status.phase for name in "ab"} == {"a": G.ACTIVE, "b": G.ACTIVE}


def test_who_was_refused_by_hand_stays_so() -> None:
    town = Town(asked("a", 1, 70), asked("b", 1, 60))
    town.act("b", "refuse", text="withdrawn")
    town.do("award")
    town.do("award", again=True, text="once more")
    assert town.counts() == {"a": 1, "b": 0}
    assert "b/lab/b" not in {bid.grant for bid in town.round.status.decisions[-1].bids}


@pytest.mark.parametrize("back", ["decline", "reclaim", "expire"])
def test_what_comes_back_goes_to_the_next_in_line_once(back: str) -> None:
    short = {"until": "2026-12-20"} if back == "expire" else {}
    town = Town(asked("a", 3, 70, **short), asked("b", 3, 60), asked("c", 3, 50))
    town.do("award")
    assert town.counts() == {"a": 3, "b": 1, "c": 0}
    if back == "decline":
        town.act("a", "decline", who("a/x", Role.MEMBER, "a/lab"))
    else:
        town.paper.leap(DAY_S if back == "reclaim" else 30 * DAY_S)
        town.paper.settle()
    if back == "reclaim":
        town.act("a", "reclaim", text="idle")
    assert town.counts() == {"a": 0, "b": 1, "c": 0}, "nothing is given by itself"
    town.do("next")
    assert town.counts() == {"a": 0, "b": 3, "c": 1}
    town.do("next")
    assert town.counts() == {"a": 0, "b": 3, "c": 1}, "and each unit once"
    with pytest.raises(Conflict):
        town.act("a", "decline", who("a/x", Role.MEMBER, "a/lab"))


def test_what_somebody_has_is_not_given_on_to_a_higher_rank() -> None:
    town = Town(asked("a", 2, 90), asked("b", 3, 80, least=3), asked("c", 2, 70))
    town.do("award")
    assert town.counts() == {"a": 2, "b": 0, "c": 2}
    town.act("a", "decline", who("a/x", Role.MEMBER, "a/lab"))
    town.do("next")
    assert town.counts() == {"a": 0, "b": 0, "c": 2}


def test_who_has_given_back_what_lay_unused_is_not_next_in_line_for_it() -> None:
    town = Town(asked("a", 4, 70), asked("b", 4, 60))
    town.do("award")
    town.paper.leap(DAY_S)
    town.paper.settle()
    fewer = town.of("a").with_status(
        count=1, deeds=(*town.of("a").status.deeds, Deed(what="return", by="control", at=1.0))
    )
    town.paper.put(fewer)
    for what in ("next", "award"):
        town.do(what, again=what == "award", text="x")
        assert town.counts() == {"a": 1, "b": 3}


def test_who_is_next_is_so_by_the_scores_of_the_award() -> None:
    town = Town(asked("a", 4, 70), asked("b", 4, 60), asked("c", 4, 50))
    town.do("award")
    town.act("c", "review", who("delta/x"), points={"effect": 40, "plan": 35, "need": 25})
    town.act("a", "decline", who("a/x", Role.MEMBER, "a/lab"))
    town.do("next")
    assert town.counts() == {"a": 0, "b": 4, "c": 0}


def test_a_burst_is_lent_of_what_is_idle_and_comes_back_by_itself() -> None:
    bursts = {"units": 2, "cap": 1, "days": 14}
    days = {"from": "2026-12-01", "until": "2026-12-14"}
    short = [asked(name, 2, 90, burst=True, **days) for name in ("x", "y")]
    town = Town(asked("a", 3, 70), *short, bursts=bursts)
    town.do("award")
    assert town.counts() == {"a": 3, "x": 0, "y": 0}
    town.do("burst")
    assert town.counts() == {"a": 3, "x": 1, "y": 0}
    town.paper.leap(DAY_S)
    town.paper.settle()
    assert town.of("x").status.phase is G.WARNED, "it is soon over from its first day on"
    with pytest.raises(Rejected, match=r"grant\.short"):
        town.act("x", "renew", until="2027-03-01")
    town.paper.leap(13 * DAY_S)
    town.paper.settle()
    assert town.counts() == {"a": 3, "x": 0, "y": 0}


def test_a_grant_of_a_round_is_approved_by_nobody_alone() -> None:
    with pytest.raises(Conflict, match=r"grant\.by-round"):
        Town(asked("a", 2)).act("a", "approve")


def test_explain_works_a_decision_out_again_and_tells_whoever_got_less_how_to_appeal() -> None:
    town = Town(asked("a", 3, 70), asked("b", 3, 70), asked("c", 1, 20), least_score=30)
    town.do("award")
    assert codes(town, "a")[-4:] == [
        "round.deed-award", "round.holds", "round.full", "round.tie-name",
    ]  # fmt: skip
    assert codes(town, "b")[-3:] == ["round.part-units", "round.tie-name", "round.may-appeal"]
    assert codes(town, "c")[-2:] == ["round.none-score", "round.may-appeal"]
    found = explain(town.round, town.now)
    assert [each.code for each in found.findings] == ["round.deed-award", "round.holds"]


def test_a_decision_that_somebody_has_changed_in_the_store_is_found() -> None:
    town = Town(asked("a", 3, 70), asked("b", 3, 60))
    town.do("award")
    made = town.round.status.decisions[0]
    bids = tuple(bid.model_copy(update={"score": 99.0}) if "b/" in bid.grant else bid
                 for bid in made.bids)  # fmt: skip
    town.paper.put(town.round.with_status(decisions=(made.model_copy(update={"bids": bids}),)))
    assert "round.differs" in codes(town, "a")


def test_everybody_is_told_the_call_and_its_sums_and_only_their_own_requests() -> None:
    town = Town(asked("a", 3, 70, sector="x"), asked("b", 3, 60, sector="y"),
                floors={"x": 0, "y": 2})  # fmt: skip
    town.do("award")
    told = outcome(town.round, town.now, MEMBER.sees)
    assert [(each.sector, each.requests, each.asked, each.given) for each in told.sectors] == [
        ("x", 1, 3, 2), ("y", 1, 3, 2),
    ]  # fmt: skip
    assert (told.total, told.given, told.free) == (4, 4, 0)
    assert [made.rows for made in told.decisions] == [()]
    own = outcome(town.round, town.now, who("b/x", Role.MEMBER, "b/lab").sees)
    assert [row.grant for row in own.decisions[0].rows] == ["b/lab/b"]


class AnyRound(RuleBasedStateMachine):
    """Whatever people do in whatever order: each unit is promised once, and decisions hold."""

    def __init__(self) -> None:
        super().__init__()
        requests = [asked(f"p{i}", 1 + i % 3, 40.0 + 7 * i % 30, project=f"o{i % 4}/p{i}")
                    for i in range(7)]  # fmt: skip
        lent = asked("lent", 1, 80, burst=True, until="2026-12-10")
        self.town = Town(*requests, lent, cap=3, bursts={"units": 2, "cap": 1, "days": 14})
        self.town.do("award")
        self.names = [*(f"p{i}" for i in range(7)), "lent"]

    @rule(i=st.integers(0, 7), what=st.sampled_from(["decline", "reclaim", "refuse", "review"]))
    def act(self, i: int, what: str) -> None:
        name = self.names[i]
        who_ = LEE if what != "decline" else who("o/x", Role.MEMBER, self.town.of(name).project)
        try:
            self.town.act(name, what, who_, points={"effect": 10 + i} if what == "review" else {})
        except (Conflict, Rejected):
            return

    @rule(what=st.sampled_from(["next", "burst", "again"]))
    @precondition(lambda self: self.town.round.status.phase is R.AWARDED)
    def decide(self, what: str) -> None:
        again = what == "again"
        self.town.do("award" if again else what, again=again, text="x")

    @rule(days=st.sampled_from([1, 5, 30]))
    def wait(self, days: int) -> None:
        self.town.paper.leap(days * DAY_S)
        self.town.paper.settle()

    @invariant()
    def each_unit_is_promised_once(self) -> None:
        counts = self.town.counts()
        assert sum(counts.values()) <= self.town.round.spec.total
        for grants in (self.town.now.grants.values(),):
            assert all(each.status.count <= each.spec.count for each in grants)

    @invariant()
    def no_organization_is_above_its_cap(self) -> None:
        stands = [g for g in self.town.now.grants.values() if g.stands and not g.spec.burst]
        for place in {g.project.partition("/")[0] for g in stands}:
            assert sum(g.status.count for g in stands if g.project.startswith(f"{place}/")) <= 3

    @invariant()
    def decisions_hold(self) -> None:
        assert all(map(holds, self.town.round.status.decisions))


TestAnyRound = AnyRound.TestCase
TestAnyRound.settings = settings(max_examples=examples(20), stateful_step_count=15)
