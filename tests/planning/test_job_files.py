"""What the disk was asked for in vain is asked for again."""

from __future__ import annotations

import pytest

from madang.planning.action import Verb
from madang.planning.attempts.attempts import AGAIN_S
from madang.planning.plan import plan
from madang.resources.job import Job
from madang.testing.builders import job, node, snapshot
from madang.testing.paper import Paper


@pytest.fixture
def paper() -> Paper:
    """A world in which the job's first attempt runs."""
    made = Paper(snapshot(node("n", kind="cpu", shared=True), job()))
    made.settle()
    return made


def now(paper: Paper) -> Job:
    (found,) = paper.snapshot.jobs.values()
    return found


def test_a_checkpoint_that_nobody_read_is_read_later(paper: Paper) -> None:
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=100, checkpoint="step-100", step_s=0.5)
    assert [a.verb for a in paper.intend().actions] == [Verb.READ_CHECKPOINT]
    paper.wait(AGAIN_S - 1)
    assert not plan(paper.snapshot).actions, "it may take its time"
    paper.wait(1)
    assert [a.verb for a in paper.turn().actions] == [Verb.READ_CHECKPOINT]
    assert [c.name for c in now(paper).status.checkpoints] == ["step-100"]


def test_files_that_nobody_removed_are_removed_later(paper: Paper) -> None:
    (first,) = paper.attempts("train")
    paper.tell(first, 0, exit_code=0, ended_at=paper.now, pid=0)
    paper.settle()
    paper.put(now(paper).model_copy(update={"deleted_at": paper.now}))
    assert [a.verb for a in paper.intend().actions] == [Verb.CLEAR_JOB]
    assert plan(paper.snapshot).wake_s == AGAIN_S
    paper.wait(AGAIN_S)
    assert [a.verb for a in paper.turn().actions] == [Verb.CLEAR_JOB]
    assert not paper.snapshot.jobs
