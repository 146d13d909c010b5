"""Which jobs are kept once they are over, and what a line of many jobs is told."""

from __future__ import annotations

from dataclasses import replace

from madang.planning.action import Verb
from madang.planning.explain import explain
from madang.planning.jobs import ATTEMPTS_KEPT
from madang.resources.job import Checkpoint, Job, JobPhase
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, job, node, snapshot
from madang.testing.paper import Paper

SAVED = Checkpoint(name="step-1", step=1, attempt=1, digest="d", size_bytes=1, at=1.0)


def over(name: str, at: float, **status: object) -> Job:
    done: Job = job(name).with_status(phase=JobPhase.SUCCEEDED, ended_at=at, **status)
    return done


def left(paper: Paper) -> list[str]:
    return sorted(ref.name for ref in paper.snapshot.jobs)


def test_of_jobs_that_are_over_the_oldest_go_but_none_that_has_saved_something() -> None:
    jobs = [over(f"j{n}", float(n), checkpoints=(SAVED,) if n == 1 else ()) for n in range(6)]
    elsewhere = over("other", 0.0).model_copy(update={"project": "local/other"})
    paper = Paper(replace(snapshot(node("n"), *jobs, elsewhere), jobs_kept=3))
    first = paper.intend()
    assert [a.subject.name for a in first.actions if a.verb is Verb.FORGET_JOB] == ["j0", "j2"]
    paper.carry_out(first)
    paper.settle()
    assert left(paper) == ["j1", "j3", "j4", "j5", "other"]


def test_all_are_kept_where_that_is_asked_for() -> None:
    paper = Paper(snapshot(node("n"), *(over(f"j{n}", float(n)) for n in range(5))))
    paper.settle()
    assert len(left(paper)) == 5


def test_only_the_newest_attempts_of_a_job_are_kept() -> None:
    wanted = {"needs": {"accelerator": "nvidia"}, "resume": {"attempts": 1000}}
    paper = Paper(snapshot(node("n", cards=1), job(**wanted)))
    for number in range(1, ATTEMPTS_KEPT + 4):
        paper.settle()
        newest = paper.attempts("train")[-1]
        assert newest.spec.number == number
        paper.tell(newest, 0, exit_code=-9, ended_at=paper.now, pid=0, step=number)
    numbers = [attempt.spec.number for attempt in paper.attempts("train")]
    assert numbers == list(range(4, ATTEMPTS_KEPT + 4))


def test_who_waits_behind_another_for_the_same_is_told_why_once() -> None:
    wanted = {"needs": {"accelerator": "nvidia", "count": 2}}
    jobs = [
        job(f"j{n}", **wanted).model_copy(update={"created_at": float(n)}) for n in range(8)
    ]  # fmt: skip
    paper = Paper(snapshot(node("n", cards=4), *jobs))
    planned = paper.turn()
    held = [a for a in planned.telling() if a.verb is Verb.HOLD_JOB]
    assert {a.reason.code for a in held} == {"placement.nowhere-whole"}
    assert len(held) == 6
    assert [a.subject.name for a in held if a.fix] == ["j2"], "its own fix is worked out when asked"
    paper.settle()
    last = explain(paper.snapshot.jobs[Ref(PROJECT, "j7")], paper.snapshot)
    assert (last.ahead, last.ahead_higher) == (5, 0)
    assert last.smallest_fix
    assert last.smallest_fix.values["count"] == 3, "nodes for all six that wait"
    attempt = paper.attempts("j0")[-1]
    paper.tell(attempt, 0, exit_code=0, ended_at=paper.now, pid=0)
    paper.tell(attempt, 1, exit_code=0, ended_at=paper.now, pid=0)
    seen = len(paper.done)
    paper.settle()
    told = [a for each in paper.done[seen:] for a in each.actions if a.verb is Verb.HOLD_JOB]
    assert {a.subject.name for a in told} <= {"j3"}, "only who is first now"
    assert paper.snapshot.jobs[Ref(PROJECT, "j2")].status.phase is JobPhase.RUNNING
