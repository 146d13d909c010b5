"""What more weight, a grant or a higher quota would do for one that waits: what is told is true."""

from __future__ import annotations

from typing import Any

import pytest
from tests.planning.test_queue import ONE, TWO, a_job, held, on

from madang.messages import LANGUAGES, say
from madang.planning import wishes
from madang.planning.explain import Explanation, explain
from madang.planning.merit import granted, weighed
from madang.planning.queue.turns import would_make_room
from madang.planning.wishes import waiter_of, wished
from madang.resources.grant import GrantSpec
from madang.resources.month import day_at
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import AnyResource, Reason, Ref
from madang.testing.builders import job, model, node, quota, service, snapshot
from madang.testing.paper import Paper

NOW = 1_800_000_000.0


def squeezed(*more: AnyResource, second: int = 4) -> Paper:
    """Return a world of sixteen, in which one project had all, and another has come."""
    hardware = [node(name, cards=8) for name in ("n", "m")]
    runs = [a_job(f"r{n}", count=4) for n in range(4)]
    paper = Paper(snapshot(*hardware, *runs, *more, now=NOW))
    paper.settle()
    paper.put(*(a_job(f"w{n}", TWO, count=4, created_at=NOW + n) for n in range(second)))
    paper.settle()
    paper.wait(4000)
    paper.settle()
    return paper


def asked(paper: Paper, name: str, project: str = TWO) -> Explanation:
    found = paper.snapshot.jobs[Ref(project, name)]
    waiter = waiter_of(found, paper.snapshot)
    said = explain(found, paper.snapshot)
    return wished(said, waiter, paper.snapshot) if waiter else said


def fix(said: Explanation, code: str) -> Reason | None:
    every = (*filter(None, [said.smallest_fix]), *said.other_fixes)
    return next((each for each in every if each.code == code), None)


def pass_time(paper: Paper, hours: float) -> None:
    for _ in range(round(hours * 12)):
        paper.wait(300)
        paper.settle()


def given(paper: Paper, fix: Reason) -> None:
    """Give the grant that is told, as it is told."""
    values = fix.values
    spec = GrantSpec.model_validate({
        "accelerator": values["kind"], "count": values["count"], "from": values["begins"],
        "until": values["until"],
    })  # fmt: skip
    ref = Ref(str(values["project"]), str(values["name"]))
    paper.put(granted(ref, spec, paper.snapshot))


def test_with_the_weight_that_is_told_it_runs_by_then_and_with_what_it_has_it_does_not() -> None:
    for is_given in (True, False):
        paper = squeezed()
        assert held(paper) == {ONE: 8, TWO: 8}
        told = fix(asked(paper, "w2"), "queue.fix-weight")
        assert told is not None
        assert told.values == {"place": TWO, "weight": 2.0, "was": 1.0, "in": "1h"}
        if is_given:
            paper.put(weighed(TWO, 2.0, paper.snapshot))
        pass_time(paper, 1.25)
        assert ("w2" in on(paper)) is is_given


def test_a_weight_that_is_told_is_the_least_of_those_that_help() -> None:
    paper = squeezed()
    told = fix(asked(paper, "w3"), "queue.fix-weight")
    assert told is not None
    assert told.values["weight"] == 8.0
    paper.put(weighed(TWO, 4.0, paper.snapshot))
    pass_time(paper, 24)
    assert "w3" not in on(paper)


def test_the_weight_told_is_beside_that_which_the_project_has() -> None:
    paper = squeezed(quota(TWO, weight=0.5), quota(ONE, weight=0.5))
    told = fix(asked(paper, "w2"), "queue.fix-weight")
    assert told is not None
    assert (told.values["was"], told.values["weight"]) == (0.5, 1.0)


def test_with_the_grant_that_is_told_it_runs_and_with_a_smaller_one_it_does_not() -> None:
    for less in (0, 1):
        paper = squeezed()
        told = fix(asked(paper, "w2"), "queue.fix-grant")
        assert told is not None
        assert (told.values["kind"], told.values["project"]) == ("nvidia/h100", TWO)
        smaller = told.model_copy(
            update={"values": {**told.values, "count": int(str(told.values["count"])) - less}}
        )
        given(paper, smaller)
        paper.settle()
        paper.wait(60)
        paper.settle()
        assert ("w2" in on(paper)) is (less == 0)


def test_no_grant_is_told_of_what_is_promised_to_others_already() -> None:
    spec = GrantSpec.model_validate({
        "accelerator": "nvidia", "count": 8, "from": day_at(NOW), "until": day_at(NOW + 10**7),
    })  # fmt: skip
    paper = squeezed()
    assert fix(asked(paper, "w2"), "queue.fix-grant") is not None
    paper.put(granted(Ref(ONE, "theirs"), spec, paper.snapshot))
    assert fix(asked(paper, "w2"), "queue.fix-grant") is None, "ten and eight are more than sixteen"


def test_a_grant_of_that_name_that_is_there_is_not_told_anew() -> None:
    paper = squeezed()
    told = fix(asked(paper, "w2"), "queue.fix-grant")
    assert told is not None
    assert told.values["name"] == "more"
    given(paper, told.model_copy(update={"values": {**told.values, "count": 1}}))
    told = fix(asked(paper, "w2"), "queue.fix-grant")
    assert told is not None
    assert told.values["name"] == "more-2"


def test_who_is_to_have_room_now_is_told_nothing_else_and_who_runs_neither() -> None:
    paper = squeezed()
    paper.put(a_job("first", "acme/three", count=4, created_at=paper.now))
    pass_time(paper, 0.0)
    paper.settle()
    waiting = [n for n in ("w0", "w1", "w2", "w3", "r0", "r1", "r2", "r3") if n not in on(paper)]
    assert waiting
    first = asked(paper, "first", "acme/three")
    assert first.other_fixes == ()
    running = paper.snapshot.jobs[Ref(TWO, "w0")]
    assert waiter_of(running, paper.snapshot) is None


@pytest.mark.parametrize(("limit", "codes"), [
    ({"accelerators": {"nvidia": 4}},
     ["placement.fix-count", "quota.fix-raise", "quota.fix-grant"]),
    ({"accelerators": {"nvidia": 4}, "cores": 1}, ["quota.fix-raise-all"]),
    ({"cores": 1}, ["placement.fix-cores", "quota.fix-raise"]),
], ids=["accelerators", "two", "cores"])  # fmt: skip
def test_who_waits_for_a_quota_is_told_what_of_it_would_have_to_be_higher(
    limit: dict[str, Any], codes: list[str]
) -> None:
    needs = {"accelerator": "nvidia", "count": 8, "cores": 2.0 if "cores" in limit else 0.0}
    barred = job("barred", project=ONE, needs=needs)
    paper = Paper(snapshot(node("n", cards=8), quota(ONE, **limit), barred, now=NOW))
    paper.settle()
    said = asked(paper, "barred", ONE)
    assert said.smallest_fix is not None
    assert [each.code for each in (said.smallest_fix, *said.other_fixes)] == codes


def test_the_quota_and_the_grant_that_are_told_are_enough_and_one_less_is_not() -> None:
    def barred() -> Paper:
        paper = Paper(snapshot(
            node("n", cards=8), quota(ONE, accelerators={"nvidia": 5}), a_job("barred", count=8),
            now=NOW,
        ))  # fmt: skip
        paper.settle()
        return paper

    said = asked(barred(), "barred", ONE)
    raised, grant = fix(said, "quota.fix-raise"), fix(said, "quota.fix-grant")
    assert raised is not None
    assert grant is not None
    told = (raised.values["key"], raised.values["most"], raised.values["was"])
    assert told == ("accelerators", "{nvidia: 8}", "{nvidia: 5}")
    assert (grant.values["count"], grant.values["kind"]) == (3, "nvidia")
    for count, runs in ((3, {"barred"}), (2, set[str]())):
        paper = barred()
        given(paper, grant.model_copy(update={"values": {**grant.values, "count": count}}))
        paper.settle()
        assert on(paper) == runs


def test_a_quota_is_told_as_it_stands_in_its_file_without_what_grants_add() -> None:
    spec = GrantSpec.model_validate({
        "accelerator": "nvidia", "count": 2, "from": day_at(NOW), "until": day_at(NOW + 10**7),
    })  # fmt: skip
    paper = Paper(snapshot(
        node("n", cards=8), quota(ONE, accelerators={"nvidia": 4}), a_job("barred", count=8),
        now=NOW,
    ))  # fmt: skip
    paper.put(granted(Ref(ONE, "have"), spec, paper.snapshot))
    paper.settle()
    raised = fix(asked(paper, "barred", ONE), "quota.fix-raise")
    assert raised is not None
    assert (raised.values["most"], raised.values["was"]) == ("{nvidia: 6}", "{nvidia: 4}")
    paper.put(quota(ONE, accelerators={"nvidia": 6}))
    paper.settle()
    assert on(paper) == {"barred"}


def test_of_a_service_the_first_replica_that_waits_is_told() -> None:
    needs = {"accelerator": "nvidia", "count": 4}
    paper = squeezed(model(project=TWO), second=2)
    paper.put(service(project=TWO, needs=needs, scale=2))
    paper.settle()
    pass_time(paper, 1)
    bot = paper.snapshot.services[Ref(TWO, "bot")]
    waiter = waiter_of(bot, paper.snapshot)
    assert waiter is not None
    assert waiter.status.phase is ReplicaPhase.WAITING
    said = wished(explain(bot, paper.snapshot), waiter, paper.snapshot)
    assert fix(said, "queue.fix-grant") is not None


def test_what_would_help_a_thousand_that_wait_is_found_in_few_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paper = squeezed(second=1000)
    tried: list[int] = []

    def counted(*given: Any) -> bool:
        tried.append(1)
        return would_make_room(*given)

    monkeypatch.setattr(wishes, "would_make_room", counted)
    waiting = [each for each in paper.snapshot.open_jobs if each.name not in on(paper)]
    counts = []
    for each in (waiting[0], waiting[500], waiting[-1]):
        tried.clear()
        asked(paper, each.name, each.project)
        counts.append(len(tried))
    assert max(counts) <= 24, "three worlds aged up to four times, and a handful of grants"


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_would_help_is_a_sentence_in_both_languages(language: str) -> None:
    said = asked(squeezed(), "w2")
    for told in said.other_fixes:
        text = say(told.code, told.values, language).text
        assert "{" not in text
        assert str(told.values.get("weight", told.values.get("until"))).removesuffix(".0") in text
    assert len(said.other_fixes) == 2


def test_only_who_has_its_share_is_told_that_others_with_less_come_first() -> None:
    paper = squeezed()
    assert "queue.has-share" in {each.code for each in asked(paper, "w2").findings}
    paper.put(weighed(TWO, 3.0, paper.snapshot))
    assert "queue.has-share" not in {each.code for each in asked(paper, "w3").findings}
