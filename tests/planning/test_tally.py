"""What pools and projects have seen: each thing once, whatever is forgotten later."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from madang.planning.action import Verb
from madang.planning.attempts.course import course
from madang.planning.cadence import ACCELERATOR_MTBF_S, suggested_s
from madang.planning.plan import plan
from madang.planning.tally import spent, spent_in
from madang.resources.attempt import Attempt
from madang.resources.job import Checkpoint, Job
from madang.resources.place import Pool, PoolSpec, PoolStatus
from madang.resources.resource import Ref
from madang.resources.tenancy import Project, ProjectSpec, ProjectStatus
from madang.testing.builders import PROJECT, job, node, snapshot
from madang.testing.paper import Paper

WANTED: dict[str, Any] = {"needs": {"accelerator": "nvidia", "count": 2}, "nodes": 2}
GANG = 4
HOUR_S = 3600.0


def a_pool(**status: object) -> Pool:
    seen = PoolStatus.model_validate(status)
    return Pool(name="default", uid="pool-default", spec=PoolSpec(site="here"), status=seen)


def a_project() -> Project:
    name = PROJECT.rpartition("/")[2]
    return Project(
        project=PROJECT, name=name, uid="project", spec=ProjectSpec(), status=ProjectStatus()
    )


def running(**spec: Any) -> Paper:
    """Return a world, of which pool and project are known, in which a gang of four runs."""
    nodes = [*node("a", cards=4), *node("b", cards=4)]
    paper = Paper(snapshot([a_pool(), a_project(), *nodes], job(**{**WANTED, **spec})))
    paper.settle()
    return paper


def newest(paper: Paper) -> Attempt:
    return paper.attempts("train")[-1]


def pool(paper: Paper) -> PoolStatus:
    return paper.snapshot.all(Pool)[Ref("", "default")].status


def project(paper: Paper) -> Project:
    return next(iter(paper.snapshot.all(Project).values()))


def train(paper: Paper) -> Job:
    return paper.snapshot.jobs[Ref(PROJECT, "train")]


def kill_after(paper: Paper, seconds: float, step: int) -> None:
    """Let rank 0 be killed once the newest attempt has run for that long."""
    attempt = newest(paper)
    paper.leap(attempt.status.started_at + seconds - paper.now)
    paper.tell(attempt, 0, exit_code=-9, ended_at=paper.now, pid=0, step=step)
    paper.settle()


def test_a_pool_knows_how_long_its_accelerators_had_jobs_and_how_often_that_failed() -> None:
    paper = running()
    assert (pool(paper).run_s, pool(paper).faults) == (0.0, 0)
    kill_after(paper, HOUR_S, step=1)
    kill_after(paper, HOUR_S, step=2)
    assert pool(paper).faults == 2
    assert pool(paper).run_s == pytest.approx(2 * GANG * HOUR_S, rel=0.01)


def test_an_attempt_is_counted_in_the_transaction_that_ends_it() -> None:
    paper = running()
    attempt = newest(paper)
    paper.tell(attempt, 0, exit_code=-9, ended_at=paper.now, pid=0, step=1)
    planned = plan(paper.snapshot)
    changed, _ = planned.intent()
    ended = next(each for each in changed if each.uid == attempt.uid)
    assert isinstance(ended, Attempt)
    assert (ended.status.outcome, ended.status.counted) == ("fault", True)
    assert any(isinstance(each, Pool) and each.status.faults == 1 for each in changed)


@pytest.mark.parametrize(("exit_code", "faults"), [(0, 0), (1, 0), (-9, 1)])
def test_only_what_is_no_doing_of_the_job_is_a_fault_of_the_pool(
    exit_code: int, faults: int
) -> None:
    paper = running()
    for rank in range(GANG):
        paper.tell(newest(paper), rank, exit_code=exit_code, ended_at=paper.now, pid=0, step=1)
    paper.turn()
    assert pool(paper).faults == faults
    assert newest(paper).status.counted or newest(paper).spec.number == 2


def test_a_pool_that_fails_often_has_its_gangs_save_more_often() -> None:
    saved = Checkpoint(
        name="step-1", step=1, attempt=1, digest="d", size_bytes=1, at=1.0, write_s=10.0
    )
    calm = suggested_s(saved, 8, a_pool(run_s=ACCELERATOR_MTBF_S))
    rough = suggested_s(saved, 8, a_pool(run_s=1000 * HOUR_S, faults=99))
    assert calm == HOUR_S
    # One fault in about 510 hours of an accelerator: in 64 hours of eight. By Young: 36 minutes.
    assert rough == pytest.approx(36 * 60, rel=0.03)


def test_the_next_attempt_is_asked_to_save_by_what_the_pool_has_seen_and_its_user_is_told_why() -> (
    None
):
    paper = running()
    seen = a_pool(run_s=1000 * HOUR_S, faults=99)
    paper.put(seen)
    kill_after(paper, HOUR_S, step=1)
    told = course(train(paper), paper.snapshot)
    assert (told.attempt, told.pool, told.pool_faults) == (2, "default", 100)
    assert told.save_every_s == newest(paper).spec.save_every_s < HOUR_S
    assert told.save_every_s == suggested_s(None, GANG, a_pool(**pool(paper).model_dump()))
    assert told.write_s == 0.0, "nothing was saved yet"


def test_a_project_knows_what_its_jobs_have_spent_and_lost() -> None:
    paper = running()
    kill_after(paper, HOUR_S, step=1)
    run_s, lost_s = spent_in(project(paper), paper.snapshot)
    assert lost_s == pytest.approx(GANG * HOUR_S, rel=0.01), "nothing was saved"
    assert run_s >= lost_s
    assert spent(train(paper), paper.snapshot) == (run_s, lost_s)


def test_what_a_forgotten_job_has_spent_stays_with_its_project_and_is_counted_once() -> None:
    paper = running()
    kill_after(paper, HOUR_S, step=1)
    attempt = newest(paper)
    paper.leap(HOUR_S)
    paper.put(train(paper).model_copy(update={"deleted_at": paper.now}))
    sums = []
    for _ in range(12):
        planned = paper.turn()
        assert [a.verb for a in planned.actions].count(Verb.TALLY) <= 2
        sums.append(spent_in(project(paper), paper.snapshot))
    paper.settle()
    assert train_is_gone(paper)
    kept = project(paper).status
    assert (kept.run_s, kept.lost_s) == spent_in(project(paper), paper.snapshot) == sums[-1]
    assert kept.run_s == pytest.approx(2 * GANG * HOUR_S, rel=0.02), attempt.name
    assert kept.lost_s == pytest.approx(kept.run_s), "nothing of it was ever saved"
    assert all(earlier.run_s <= later.run_s + 1e-6 for earlier, later in pairwise(sums))


def train_is_gone(paper: Paper) -> bool:
    return Ref(PROJECT, "train") not in paper.snapshot.jobs
