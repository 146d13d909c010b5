"""What holds of grants whatever people decide, in whatever order, and whatever the clock does."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from madang.control.granting import Asked, act
from madang.errors import Forbidden, MadangError
from madang.planning.action import Verb
from madang.planning.grants import Around, findings, guaranteed
from madang.resources.attempt import AttemptPhase
from madang.resources.grant import NEXT, Grant, GrantPhase
from madang.resources.holding import Holding
from madang.resources.month import day_of, month_of
from madang.resources.resource import Ref
from madang.resources.rights import RIGHTS, Principal, Role
from madang.resources.tenancy import Empty, User, UserSpec
from madang.testing.builders import grant, job, node, quota, snapshot
from madang.testing.examples import examples
from madang.testing.paper import Paper

G = GrantPhase
DAY_S = 86_400.0
KINDS = ("nvidia/h100",) * 4 + ("nvidia/l40s",) * 2
STARTS = ["nvidia", "nvidia/h100", "nvidia/l40s"]
PEOPLE = ["acme/ann", "beta/bob", "gamma/cho", "delta/dan"]
LIVING = {AttemptPhase.STARTING, AttemptPhase.RUNNING}


def who(user: str) -> Principal:
    rights = RIGHTS[Role.OPERATOR]
    return Principal(actor="key/x", role=Role.OPERATOR, where="", rights=rights, user=user)


def written(at: float) -> str:
    """Return the day of a moment in Seoul."""
    month = month_of(at)
    year, number = divmod(month.number, 100)
    return f"{year:04}-{number:02}-{int((at - month.begins) // DAY_S) + 1:02}"


def is_near(user: str, one: Grant) -> bool:
    said = {card.reviewer for card in one.status.cards if card.conflict}
    return user.partition("/")[0] == one.project.partition("/")[0] or user in said


OUTSIDE = [User(
    project="delta", name="dan", uid="u", spec=UserSpec(roles={"site": Role.OPERATOR}),
    status=Empty(), created_at=0.0,
)]  # fmt: skip


class Committee(RuleBasedStateMachine):
    """People request, review, approve, renew, refuse, reclaim and appeal; time goes by."""

    def __init__(self) -> None:
        super().__init__()
        begins = day_of("2026-12-01") + 1.0
        self.paper = Paper(snapshot(
            node("one", cards=4), node("two", cards=2, kind="nvidia/l40s", memory_gb=48), now=begins
        ))  # fmt: skip
        self.made = 0
        self.users = OUTSIDE

    @rule(are_known=st.booleans())
    def hire(self, are_known: bool) -> None:
        """Users of another organization become operators of the site, or are no more."""
        self.users = OUTSIDE if are_known else []

    @property
    def grants(self) -> list[Grant]:
        return [one for _, one in sorted(self.paper.snapshot.grants.items())]

    @rule(project=st.sampled_from(["acme/lab", "acme/other", "beta/one"]),
          kind=st.sampled_from(STARTS), count=st.integers(1, 6), begins=st.integers(0, 9),
          lasts=st.integers(1, 40), user=st.sampled_from(PEOPLE), points=st.floats(0, 25),
          beyond=st.integers(0, 3))  # fmt: skip
    def request(
        self, project: str, kind: str, count: int, begins: int, lasts: int, **said: Any
    ) -> None:
        """Somebody requests one, and mostly it is reviewed at once, and decided."""
        self.made += 1
        first = self.paper.now + begins * DAY_S
        days = {"from": written(first), "until": written(first + lasts * DAY_S)}
        one = grant(f"g{self.made:02}", project=project, accelerator=kind, count=count, **days)
        self.paper.put(one)
        points = {"effect": said["points"], "need": said["points"]}
        self.do(one.ref, said["user"], what="review", points=points)
        self.do(one.ref, "delta/dan", what="approve", overcommit=said["beyond"] == 0)

    @rule(data=st.data(), user=st.sampled_from(PEOPLE), conflict=st.integers(0, 4),
          unmet=st.integers(0, 5), points=st.floats(0, 25), own=st.booleans())  # fmt: skip
    def review(
        self, data: st.DataObject, user: str, conflict: int, unmet: int, points: float, **said: bool
    ) -> None:
        self.do(self.one(data), user, what="review", points={"plan": points, "need": points},
                conflict=conflict == 0, unmet="late" if unmet == 0 else "", text="so it is",
                **said)  # fmt: skip

    @rule(data=st.data(), user=st.sampled_from(PEOPLE), overcommit=st.booleans(),
          count=st.sampled_from([None, None, 1, 2, 9]), own=st.booleans(),
          text=st.sampled_from(["", "so it is"]))  # fmt: skip
    def approve(self, data: st.DataObject, user: str, **said: Any) -> None:
        self.do(self.one(data), user, what="approve", **said)

    @rule(data=st.data(), user=st.sampled_from(PEOPLE), overcommit=st.booleans(),
          longer=st.integers(-3, 60), own=st.booleans(),
          text=st.sampled_from(["", "so it is"]))  # fmt: skip
    def renew(self, data: st.DataObject, user: str, longer: int, **said: Any) -> None:
        until = written(self.paper.now + longer * DAY_S)
        self.do(self.one(data), user, what="renew", until=until, **said)

    @rule(data=st.data(), what=st.sampled_from(["refuse", "reclaim", "appeal"]))
    def end(self, data: st.DataObject, what: str) -> None:
        self.do(self.one(data), "delta/dan", what=what, text="so it is")

    @rule(days=st.sampled_from([0.5, 1.0, 7.0, 30.0]))
    def wait(self, days: float) -> None:
        self.paper.leap(days * DAY_S)
        self.paper.turn()

    def one(self, data: st.DataObject) -> Ref | None:
        """Return one that is not over yet, if there is any."""
        over = {G.REFUSED, G.RECLAIMED, G.EXPIRED}
        known = [one.ref for one in self.grants if one.status.phase not in over]
        return data.draw(st.sampled_from(known)) if known else None

    def do(self, ref: Ref | None, user: str, **asked: Any) -> None:
        """Let somebody do something about one; what is done must have been allowed."""
        if ref is None:
            return
        one = self.paper.snapshot.grants[ref]
        around = Around(self.grants, KINDS, self.users)
        try:
            after = act(who(user), one, Asked(**asked), self.paper.now, around)
        except Forbidden:
            assert is_near(user, one)
            return
        except MadangError:
            return
        before = one.status.phase
        assert after.status.phase is before or after.status.phase in NEXT[before]
        if asked["what"] in {"approve", "renew"}:
            assert after.status.deeds[-1].own == is_near(user, one)
            assert not is_near(user, one) or self.may_be_own(user, one, asked)
            self.is_told_what_is_beyond(after, asked["overcommit"])
        self.paper.put(after)
        self.paper.turn()

    def may_be_own(self, user: str, one: Grant, asked: dict[str, Any]) -> bool:
        """Tell whether somebody may decide within their organization."""
        near = {card.reviewer for card in one.status.cards if card.conflict}
        others = {f"{each.project}/{each.name}" for each in self.users} - near
        return bool(asked["own"] and asked["text"]) and not others and user not in near

    def is_told_what_is_beyond(self, after: Grant, may_be: bool) -> None:
        """Add up, day by day, what is promised while it lasts."""
        beside = [one for one in self.grants if one.ref != after.ref and self.counts(one)]
        named = {one.spec.accelerator for one in [*beside, after]}
        most = {start: 0 for start in sorted(named) if after.spec.accelerator.startswith(start)}
        at = max(self.paper.now, after.begins)
        while at < after.ends:
            for start, known in most.items():
                now = [one for one in [*beside, after] if one.begins <= at < one.ends
                       and one.spec.accelerator.startswith(start)]  # fmt: skip
                most[start] = max(known, sum(one.status.count for one in now))
            at += DAY_S / 4
        over = {start for start in most if most[start] > self.there(start)}
        said = after.status.deeds[-1].beyond
        assert bool(over) == bool(said)
        if said:
            assert may_be
            assert (said.promised, said.there) == (most[said.kind], self.there(said.kind))

    @staticmethod
    def there(start: str) -> int:
        return sum(kind.startswith(start) for kind in KINDS)

    @staticmethod
    def counts(one: Grant) -> bool:
        over = {G.REFUSED, G.RECLAIMED, G.EXPIRED, G.REQUESTED}
        return bool(one.status.count) and one.status.phase not in over

    @invariant()
    def no_more_is_promised_than_there_is_but_for_what_was_decided_so_with_numbers(self) -> None:
        promised = [one for one in self.grants if self.counts(one)]
        for at in [self.paper.now, *(one.begins for one in promised)]:
            for start in STARTS:
                now = [one for one in promised if one.begins <= at < one.ends
                       and one.spec.accelerator.startswith(start)]  # fmt: skip
                told = any(deed.beyond for one in now for deed in one.status.deeds)
                past = at < self.paper.now
                assert past or told or sum(o.status.count for o in now) <= self.there(start)

    @invariant()
    def the_score_is_of_those_that_are_not_near_and_what_is_not_eligible_is_not_given(self) -> None:
        for one in self.grants:
            far = [
                c
                for c in one.status.cards
                if not c.conflict
                and c.own == (c.reviewer.split("/")[0] == one.project.split("/")[0])
            ]
            totals = [math.fsum(card.points.values()) for card in far]
            mean = math.fsum(totals) / len(totals) if totals else None
            assert one.status.score == (None if mean is None else round(mean, 3))
            assert not one.status.count or (far and not any(card.unmet for card in far))

    @invariant()
    def what_is_guaranteed_follows_from_the_days_alone(self) -> None:
        owed: dict[str, dict[str, int]] = {}
        for one in self.grants:
            if self.counts(one) and one.begins <= self.paper.now < one.ends:
                own = owed.setdefault(one.project, {})
                kind = one.spec.accelerator
                own[kind] = own.get(kind, 0) + one.status.count
        assert {place: dict(own) for place, own in guaranteed(self.paper.snapshot).items()} == owed

    @invariant()
    def each_decision_comes_out_again_from_what_is_stored(self) -> None:
        for one in self.grants:
            again = Grant.model_validate_json(one.model_dump_json(by_alias=True))
            assert list(findings(again)) == list(findings(one))
            assert sum(f.code.startswith("grant.card") for f in findings(one)) == len(
                one.status.cards
            )


TestCommittee = Committee.TestCase
TestCommittee.settings = settings(
    max_examples=examples(60), stateful_step_count=40, deadline=None, derandomize=True,
    database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip


@settings(derandomize=True, max_examples=examples(12), deadline=None, database=None)
@given(granted=st.integers(1, 3), running=st.integers(1, 4), waiting=st.integers(0, 5),
       ends=st.sampled_from(["expire", "reclaim"]), back=st.booleans())  # fmt: skip
def test_what_a_grant_gave_goes_once_to_the_next_in_line(
    granted: int, running: int, waiting: int, ends: str, back: bool
) -> None:
    """Of four accelerators one project has some by its grant alone; another waits for more."""
    one = grant(accelerator="nvidia/h100", count=granted)
    one = one.with_status(phase=G.REVIEWED, count=granted)
    needs = {"accelerator": "nvidia"}
    own = [job(f"own-{n}", needs=needs, created_at=float(n)) for n in range(running)]
    paper = Paper(snapshot(
        node("one", cards=4), *own, one, quota("acme", accelerators={"nvidia": 0}),
        now=one.ends - 300.0,
    ))  # fmt: skip
    paper.settle()
    had = _held(paper, "acme/lab")
    assert len(had) == min(granted, running)
    rest = [job(f"next-{n}", project="beta/one", needs=needs, created_at=100.0 + n)
            for n in range(waiting)]  # fmt: skip
    paper.put(*(reversed(rest) if back else rest))
    paper.settle()
    before = _held(paper, "beta/one")
    assert len(before) == min(waiting, 4 - len(had))
    begun = len(paper.done)
    if ends == "expire":
        paper.wait(one.ends - paper.now)
    else:
        (known,) = paper.snapshot.grants.values()
        around = Around([known], KINDS)
        paper.put(act(who("beta/bob"), known, Asked(what="reclaim"), paper.now, around))
    paper.settle()
    assert not _held(paper, "acme/lab")
    after = _held(paper, "beta/one")
    assert len(after) == len(set(after)) == min(waiting, 4)
    assert set(before) <= set(after), "nobody else is moved for it"
    given_again = [
        action.subject.spec.job for done in paper.done[begun:] for action in done.actions
        if action.verb is Verb.START_ATTEMPT
    ]  # fmt: skip
    expected = [f"next-{n}" for n in range(len(before), len(after))]
    assert given_again == expected, "each unit once, and in the order of the line"


def _held(paper: Paper, project: str) -> list[str]:
    """Return the accelerators that a project's attempts have."""
    places: list[Holding] = [
        place for attempt in paper.snapshot.living
        if attempt.project == project and attempt.status.phase in LIVING
        for place in attempt.status.places
    ]  # fmt: skip
    return [name for place in places for name in place.accelerators]


@pytest.mark.parametrize("lowered", [0, 1, 2, 3])
def test_a_lowered_quota_is_kept_within_bounded_time_and_nothing_is_killed(lowered: int) -> None:
    """Each is asked to save first, the least in front; what stays is as much as is allowed."""
    needs = {"accelerator": "nvidia"}
    names = ["low-old", "low-new", "normal-old", "normal-new"]
    jobs = [
        job(name, needs=needs, priority=name.split("-")[0], created_at=float(place))
        for place, name in enumerate(names)
    ]  # fmt: skip
    paper = Paper(snapshot(node("one", cards=4), *jobs, quota(accelerators={"nvidia": 4})))
    paper.settle()
    for name in names:
        paper.tell(paper.attempts(name)[0], 0, step=5)
    (known,) = paper.snapshot.quotas.values()
    spec = known.spec.model_copy(update={"accelerators": {"nvidia": lowered}})
    paper.put(known.model_copy(update={"spec": spec}))
    begun, since = len(paper.done), paper.now
    while len(_held(paper, "acme/lab")) > lowered:
        paper.turn()
        paper.wait(1.0)
        assert paper.now - since < 120.0
    paper.settle()
    verbs = [a for done in paper.done[begun:] for a in done.actions]
    asked = [a.subject.spec.job for a in verbs if a.verb is Verb.SAVE_ATTEMPT]
    assert asked == ["low-new", "low-old", "normal-new", "normal-old"][: 4 - lowered]
    for name in asked:
        kept = paper.snapshot.jobs[Ref("acme/lab", name)].status
        assert (kept.step, kept.checkpoints[-1].step) == (5, 5), "nothing is lost"
