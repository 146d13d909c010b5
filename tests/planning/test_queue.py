"""Who of all that wait goes first, who makes room by shares, and what is kept of each queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from madang.planning.action import Verb, assume
from madang.planning.ages import watched
from madang.planning.explain import explain
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.share.rule import RULE
from madang.resources.attempt import AttemptPhase
from madang.resources.grant import Grant, GrantPhase
from madang.resources.job import Job, JobPhase
from madang.resources.queue import Queue
from madang.resources.resource import Ref
from madang.testing.builders import grant, job, model, node, quota, service, snapshot
from madang.testing.paper import Paper

ONE, TWO = "acme/one", "acme/two"
LIVING = {AttemptPhase.STARTING, AttemptPhase.RUNNING}
HOUR_S = 3600.0


def a_job(name: str, project: str = ONE, count: int = 1, **spec: Any) -> Job:
    made = job(name, project=project, needs={"accelerator": "nvidia", "count": count}, **spec)
    return made.model_copy(update={"uid": f"job-{project}-{name}"})


def on(paper: Paper) -> set[str]:
    """Return the jobs that run."""
    return {a.spec.job for a in paper.snapshot.living if a.status.phase in LIVING}


def held(paper: Paper) -> dict[str, int]:
    """Return how many accelerators each project has."""
    found: dict[str, int] = {}
    for attempt in paper.snapshot.living:
        found[attempt.project] = found.get(attempt.project, 0) + attempt.spec.accelerators
    return found


def queue(paper: Paper, name: str = "nvidia-h100") -> Queue:
    return paper.snapshot.queues[Ref("", name)]


def finish(paper: Paper, name: str, code: int = 0) -> None:
    """Let the ranks of a job end."""
    attempt = paper.attempts(name)[-1]
    for rank in range(16):
        paper.tell(attempt, rank, exit_code=code, ended_at=paper.now, pid=0)
    paper.settle()


def waited(each: Job, days: float, now: float) -> Job:
    """Return a job that has been in line for so long."""
    waited_s = days * 24 * HOUR_S
    line = {"queue": "nvidia-h100", "since": now - waited_s, "waited_s": waited_s}
    status = each.status.model_validate({**each.status.model_dump(), "line": line})
    return each.model_copy(update={"status": status})


def test_what_is_short_and_small_goes_before_what_came_first() -> None:
    paper = Paper(snapshot(node("n", cards=4), a_job("runs", count=4)))
    paper.settle()
    paper.put(a_job("large", count=4, created_at=1.0))
    paper.settle(10)
    paper.put(a_job("small", TWO, created_at=2.0))
    paper.settle(10)
    finish(paper, "runs")
    assert "small" in on(paper)


def test_of_jobs_that_are_alike_who_came_first_goes_first() -> None:
    paper = Paper(snapshot(node("n"), a_job("runs")))
    paper.settle()
    for name in ("c", "a", "b"):
        paper.put(a_job(name, created_at=paper.now))
        paper.settle(5)
        paper.wait(1)
    for name in ("runs", "c", "a", "b"):
        assert on(paper) == {name}
        finish(paper, name)


def test_a_job_that_was_tried_again_keeps_its_place() -> None:
    paper = Paper(snapshot(node("n"), a_job("first")))
    paper.settle()
    paper.wait(60)
    paper.put(a_job("second", created_at=paper.now))
    paper.settle(5)
    before = paper.snapshot.jobs[Ref(ONE, "first")].status.line
    paper.lose("n")
    paper.wait(120)
    paper.forget(paper.attempts("first")[0])
    paper.find("n")
    paper.settle(60)
    paper.put(a_job("third", created_at=paper.now))
    paper.settle()
    first = paper.snapshot.jobs[Ref(ONE, "first")]
    assert before is not None
    assert first.status.line is not None
    assert first.status.line.since == before.since
    assert on(paper) == {"second"}, "while it backs off another may"
    assert explain(first, paper.snapshot).ahead == 0
    finish(paper, "second")
    assert on(paper) == {"first"}


def test_who_has_less_than_its_grant_gets_it_back_from_who_borrowed_it() -> None:
    given = grant(project=TWO, accelerator="nvidia/h100", count=2)
    given = Grant.model_validate(given.model_copy(update={"status": given.status.model_copy(
        update={"phase": GrantPhase.ACTIVE, "count": 2, "until": "2099-01-01"}
    )}).model_dump(by_alias=True))  # fmt: skip
    paper = Paper(snapshot(
        node("n", cards=4), given, *(a_job(f"borrows{n}") for n in range(4)),
    ))  # fmt: skip
    paper.settle()
    assert held(paper) == {ONE: 4}
    paper.put(*(a_job(f"owns{n}", TWO) for n in range(4)))
    paper.settle()
    assert held(paper) == {ONE: 2, TWO: 2}
    told = {a.status.cause.code for a in paper.snapshot.attempts.values() if a.status.room_for}
    assert told == {"attempt.yields-share-elsewhere"}
    for _ in range(20):
        paper.wait(RULE.every_s)
        paper.settle()
    assert held(paper) == {ONE: 1, TWO: 3}, "and of the rest each has half, by and by"


def test_nobody_makes_room_by_shares_for_what_counts_for_less() -> None:
    paper = Paper(snapshot(node("n", cards=2), *(a_job(f"runs{n}") for n in range(2))))
    paper.settle()
    paper.put(waited(a_job("low", TWO, priority="low"), 9, paper.now))
    for _ in range(5):
        paper.settle()
        paper.wait(RULE.every_s)
    assert on(paper) == {"runs0", "runs1"}
    assert not any(each.status.room_for for each in paper.snapshot.attempts.values())


def test_a_gang_that_waited_too_long_is_given_room_wherever_others_are_spread() -> None:
    paper = Paper(snapshot(
        *(node(f"n{n}", cards=4) for n in range(3)),
        *(a_job(f"runs{n}") for n in range(12)),
    ))  # fmt: skip
    paper.settle()
    assert len(on(paper)) == 12
    paper.put(waited(a_job("gang", TWO, count=4, nodes=2), 5, paper.now))
    paper.put(*(a_job(f"behind{n}", TWO) for n in range(20)))
    for _ in range(4):
        paper.settle()
        paper.wait(RULE.every_s)
    assert "gang" in on(paper)
    assert len(on(paper)) == 5, "four others stay"


def test_what_is_free_is_kept_for_whom_room_is_made_and_nobody_behind_takes_it() -> None:
    paper = Paper(snapshot(node("n", cards=4), a_job("a"), a_job("b")))
    paper.settle()
    slow = paper.attempts("b")[0]
    paper.put(waited(a_job("gang", TWO, count=4), 5, paper.now))
    paper.deaf.add(f"{slow.uid}-0")
    paper.turn()
    paper.put(*(a_job(f"behind{n}", TWO, created_at=paper.now) for n in range(4)))
    for _ in range(8):
        paper.turn()
        paper.wait(1)
        assert not {name for name in on(paper) if name.startswith("behind")}
    paper.deaf.clear()
    paper.settle(120)
    assert on(paper) == {"gang"}


def test_what_counts_for_more_goes_before_the_eldest() -> None:
    """And is told of no room that is kept for that, where it finds none either."""
    paper = Paper(snapshot(node("n", cards=4), a_job("stays", count=2, priority="high")))
    paper.settle()
    eldest = waited(a_job("gang", TWO, count=4), 5, paper.now)
    paper.put(eldest, a_job("small", priority="high"), a_job("large", count=3, priority="high"))
    paper.settle(60)
    assert on(paper) == {"stays", "small"}
    told = explain(paper.snapshot.jobs[Ref(ONE, "large")], paper.snapshot)
    assert told.reason is not None
    assert told.reason.code == "placement.nowhere-whole"


def test_whoever_room_is_made_for_gets_it_though_another_comes_that_is_worth_more() -> None:
    paper = Paper(snapshot(node("n", cards=4), a_job("a", count=4, priority="low")))
    paper.settle()
    (attempt,) = paper.attempts("a")
    paper.deaf.add(f"{attempt.uid}-0")
    paper.put(a_job("wide", TWO, count=4))
    paper.turn()
    assert attempt.ref in {each.ref for each in paper.snapshot.living if each.status.room_for}
    paper.put(a_job("small", TWO, created_at=1.0))
    for _ in range(8):
        paper.turn()
        paper.wait(1)
    paper.deaf.clear()
    paper.settle(120)
    assert on(paper) == {"wide"}


def test_each_job_that_ends_by_itself_is_learnt_of_once() -> None:
    paper = Paper(snapshot(node("n", cards=4), *(a_job(f"j{n}") for n in range(4))))
    paper.settle()
    paper.wait(600)
    finish(paper, "j0")
    finish(paper, "j1", code=1)
    stopped = paper.snapshot.jobs[Ref(ONE, "j2")]
    spec = stopped.spec.model_copy(update={"cancel": True})
    paper.put(stopped.model_copy(update={"spec": spec}))
    paper.settle()
    (by_age,) = queue(paper).status.projects[ONE].ended.values()
    assert sum(by_age.values()) == 2
    assert [j.name for j in paper.snapshot.jobs.values() if j.status.line] == ["j3"]
    for _ in range(3):
        paper.wait(60)
        paper.turn()
    (again,) = queue(paper).status.projects[ONE].ended.values()
    assert again == by_age


def test_an_idle_house_writes_its_clock_once_an_hour_and_the_account_goes_on() -> None:
    high = a_job("runs", count=2, priority="high")
    paper = Paper(snapshot(node("n", cards=2), high, a_job("waits", TWO, count=2)))
    paper.settle()
    written: list[Any] = []
    for _ in range(50):
        paper.wait(600)
        own = [a for a in paper.turn().actions if a.verb is Verb.QUEUE]
        written += [each.kind for action in own for each in action.writes]
    assert written == ["queue"] * 8
    finish(paper, "runs")
    assert queue(paper).status.projects[TWO].short_s == pytest.approx(50 * 600, rel=0.03)


def test_a_control_that_was_killed_knows_what_each_went_short_of() -> None:
    ledgers = []
    for is_killed in (False, True):
        high = a_job("runs", count=2, priority="high")
        paper = Paper(snapshot(node("n", cards=2), high, a_job("waits", TWO)))
        paper.settle()
        paper.wait(5 * HOUR_S)
        if is_killed:
            now = paper.snapshot
            known = [resource for kind in now.kept.values() for resource in kind.values()]
            ages = watched({}, known, (), 0.0)
            paper.snapshot = replace(now, term=now.term + 1, ages=ages, steady_s=0.0)
            paper.memo = Memo()
        paper.wait(5 * HOUR_S)
        finish(paper, "runs")
        ledgers.append(queue(paper).status.projects[TWO].short_s)
    assert ledgers[1] == pytest.approx(ledgers[0], rel=0.01)


@pytest.mark.parametrize("leap_s", [-1e9, -HOUR_S, HOUR_S, 1e9])
def test_a_clock_that_jumps_does_not_wreck_the_account(leap_s: float) -> None:
    paper = Paper(snapshot(
        node("n", cards=2), a_job("runs", count=2, priority="high"), a_job("waits", TWO), now=2e9
    ))  # fmt: skip
    paper.settle()
    paper.wait(5 * HOUR_S)
    paper.leap(leap_s)
    paper.wait(5 * HOUR_S)
    finish(paper, "runs")
    short_s = queue(paper).status.projects[TWO].short_s
    assert 9.7 * HOUR_S <= short_s <= 34.1 * HOUR_S


def test_services_count_for_their_project_and_make_room_for_no_share() -> None:
    bot = service("bot", project=ONE, needs={"accelerator": "nvidia"}, scale=2)
    paper = Paper(snapshot(node("n", cards=2), model(project=ONE), bot))
    paper.settle()
    assert queue(paper).status.projects[ONE].held == 2.0
    paper.put(waited(a_job("old", TWO), 9, paper.now))
    for _ in range(4):
        paper.settle()
        paper.wait(RULE.every_s)
    assert not on(paper)
    assert [r.status.phase for r in paper.replicas("bot")] == ["ready", "ready"]


def test_equal_worlds_in_any_order_have_one_plan_and_it_is_done_at_once() -> None:
    jobs = [
        a_job(f"j{n}", (ONE, TWO)[n % 2], count=1 + n % 3, priority=("low", "normal")[n % 5 > 0])
        for n in range(30)
    ]  # fmt: skip
    world = snapshot(*(node(f"n{n}", cards=4) for n in range(3)), *jobs)
    turned = {kind: dict(reversed(list(kept.items()))) for kind, kept in world.kept.items()}
    planned = plan(world)
    assert planned == plan(replace(world, kept=turned))
    assert plan(assume(world, planned)).actions == ()


def test_a_job_that_is_suspended_leaves_the_line_and_comes_anew() -> None:
    paper = Paper(snapshot(node("n"), a_job("runs", priority="high"), a_job("waits", TWO)))
    paper.settle()
    came = paper.snapshot.jobs[Ref(TWO, "waits")].status.line
    for is_held in (True, False):
        paper.wait(HOUR_S)
        known = paper.snapshot.jobs[Ref(TWO, "waits")]
        spec = known.spec.model_copy(update={"suspend": is_held})
        paper.put(known.model_copy(update={"spec": spec}))
        paper.settle()
    again = paper.snapshot.jobs[Ref(TWO, "waits")].status
    assert again.phase is JobPhase.WAITING
    assert came is not None
    assert again.line is not None
    assert again.line.since >= came.since + 2 * HOUR_S


def test_one_that_waits_is_told_who_is_before_it_and_what_its_project_has() -> None:
    paper = Paper(snapshot(
        node("n", cards=4), model(project=TWO), quota(ONE, weight=3.0),
        service("bot", project=TWO, needs={"accelerator": "nvidia"}),
    ))  # fmt: skip
    paper.settle()
    paper.put(*(a_job(f"runs{n}", TWO, priority="high") for n in range(3)))
    paper.settle()
    paper.put(a_job("high", TWO, priority="high"), a_job("small"), a_job("large", count=2),
              waited(a_job("old", TWO), 5, paper.now))  # fmt: skip
    paper.settle(10)
    told = explain(paper.snapshot.jobs[Ref(ONE, "large")], paper.snapshot)
    found = {reason.code: reason.values for reason in told.findings}
    assert told.ahead == 3
    assert found["queue.place"] == {
        "kind": "nvidia/h100", "place": 4, "waiting": 4, "higher": 1, "aged": 1, "share": 1,
        "worth": 0,
    }  # fmt: skip
    assert found["queue.fixed"] == {"fixed": 1.0, "capacity": 4}
    project = found["queue.project"]
    assert (project["entitled"], project["held"], project["weight"]) == (3.0, 0.0, 3.0)
    assert project["short"] == 100.0
    first = explain(paper.snapshot.jobs[Ref(TWO, "old")], paper.snapshot)
    assert "queue.given-aged" in {reason.code for reason in first.findings}


def test_what_is_free_is_kept_for_the_eldest_and_that_is_told_to_those_behind() -> None:
    paper = Paper(snapshot(node("n", cards=4)))
    stays = a_job("stays", count=2)
    status = {"preempted_at": (paper.now, paper.now, paper.now)}
    paper.put(stays.model_copy(update={"status": stays.status.model_copy(update=status)}))
    paper.settle()
    paper.put(waited(a_job("gang", TWO, count=4), 5, paper.now), a_job("behind"))
    paper.settle(60)
    assert on(paper) == {"stays"}, "two are free, and kept for the gang"
    told = explain(paper.snapshot.jobs[Ref(ONE, "behind")], paper.snapshot)
    assert told.reason is not None
    assert told.reason.code == "queue.kept-free"
    paper.wait(HOUR_S)
    paper.settle()
    assert on(paper) == {"gang"}, "an hour later that may be asked again which made room so often"


def test_a_job_that_never_ran_teaches_nothing_however_long_it_waited() -> None:
    paper = Paper(snapshot(node("n", cards=4), a_job("runs", count=4)))
    paper.settle()
    paper.put(*(a_job(f"waits{n}", count=4, created_at=float(n)) for n in range(5)))
    paper.settle()
    paper.wait(3 * HOUR_S)
    for n in range(5):
        waits = paper.snapshot.jobs[Ref(ONE, f"waits{n}")]
        assert waits.status.line is not None
        spec = waits.spec.model_copy(update={"cancel": True})
        paper.put(waits.model_copy(update={"spec": spec}))
    paper.settle()
    left = [job.status for job in paper.snapshot.jobs.values() if job.name != "runs"]
    assert {(str(each.phase), each.attempt, each.line) for each in left} == {("cancelled", 0, None)}
    assert queue(paper).status.projects[ONE].ended == {}
    finish(paper, "runs")
    (by_age,) = queue(paper).status.projects[ONE].ended.values()
    assert sum(by_age.values()) == 1
