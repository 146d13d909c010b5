"""The life of jobs and their attempts, on paper: one sentence, one story."""

from __future__ import annotations

from dataclasses import replace

import pytest

from madang.planning.action import Action, Halt, Launch, Plan, Record, Verb, Warn
from madang.planning.plan import plan
from madang.resources.attempt import AttemptPhase, Outcome, member_uid
from madang.resources.job import Job, JobPhase
from madang.resources.resource import Reason, Ref
from madang.testing.builders import PROJECT, job, node, service, snapshot
from madang.testing.builders import model as a_model
from madang.testing.paper import Paper

TRAIN = Ref(PROJECT, "train")


def now(paper: Paper, name: str = "train") -> Job:
    return paper.snapshot.jobs[Ref(PROJECT, name)]


def running(*, nodes: int = 1, cards: int = 8, **spec: object) -> Paper:
    """Return a world in which the job's first attempt runs."""
    wanted = {"needs": {"accelerator": "nvidia", "count": 2}, "nodes": nodes, **spec}
    paper = Paper(snapshot(*(node(f"n{i}", cards=cards) for i in range(nodes)), job(**wanted)))
    paper.settle()
    assert paper.attempts("train")[0].status.phase is AttemptPhase.RUNNING
    return paper


def held(paper: Paper) -> list[str]:
    return sorted(name for each in paper.snapshot.holdings() for name in each.accelerators)


def end_all(paper: Paper, exit_code: int = 0) -> None:
    (attempt,) = paper.attempts("train")[-1:]
    for rank in range(now(paper).spec.nodes * now(paper).spec.ranks_per_node):
        paper.tell(attempt, rank, exit_code=exit_code, ended_at=paper.now, pid=0)


def test_a_job_gets_its_places_and_its_orders_in_one_plan() -> None:
    paper = Paper(snapshot(node("n", cards=4), job(needs={"accelerator": "nvidia", "count": 2})))
    planned = paper.intend()
    (attempt,) = paper.attempts("train")
    assert [place.node for place in attempt.status.places] == ["n"]
    assert len(held(paper)) == 2
    assert [a.effect for a in planned.effects()] == [Launch(attempt.ref)]
    assert (now(paper).status.phase, now(paper).status.attempt) == (JobPhase.RUNNING, 1)


def test_a_gang_has_all_its_nodes_or_none() -> None:
    nodes = [node(f"n{i}", cards=2) for i in range(3)]
    wanted = {"accelerator": "nvidia", "count": 2}
    paper = Paper(snapshot(*nodes, job(needs=wanted, nodes=4), job("small", needs=wanted, nodes=2)))
    paper.settle()
    assert len(held(paper)) == 4, "the small one runs; the large one holds nothing"
    reason = now(paper).status.reason
    assert reason is not None
    assert (reason.code, reason.values["gang"], reason.values["placed"]) == (
        "placement.no-gang-whole", 4, 1,
    )  # fmt: skip


def test_a_gang_has_nodes_of_one_kind() -> None:
    mixed = [node("a", cards=2, kind="nvidia/a100"), node("b", cards=2, kind="nvidia/h100")]
    paper = Paper(snapshot(*mixed, job(needs={"accelerator": "nvidia", "count": 2}, nodes=2)))
    paper.settle()
    assert not held(paper)
    paper.put(*node("c", cards=2, kind="nvidia/a100"))
    paper.find("c")
    paper.settle()
    (attempt,) = paper.attempts("train")
    assert {place.node for place in attempt.status.places} == {"a", "c"}


def test_a_job_that_is_done_gives_everything_back_once() -> None:
    paper = running(nodes=2)
    end_all(paper)
    paper.settle()
    assert now(paper).status.phase is JobPhase.SUCCEEDED
    assert not held(paper)
    assert not paper.snapshot.seen.processes
    (attempt,) = paper.attempts("train")
    assert (attempt.status.phase, attempt.status.outcome) == (
        AttemptPhase.ENDED, Outcome.SUCCEEDED,
    )  # fmt: skip


def test_what_it_had_is_free_only_when_its_processes_are_gone() -> None:
    paper = running()
    (attempt,) = paper.attempts("train")
    paper.deaf.add(member_uid(attempt, 0))
    paper.put(now(paper).model_copy(update={"spec": now(paper).spec.model_copy(
        update={"cancel": True})}))  # fmt: skip
    paper.turn()
    assert len(held(paper)) == 2
    paper.deaf.clear()
    paper.settle()
    assert not held(paper)
    assert now(paper).status.phase is JobPhase.CANCELLED


def test_a_rank_that_is_killed_has_the_whole_gang_started_again() -> None:
    paper = running(nodes=2)
    (first,) = paper.attempts("train")
    paper.tell(first, 3, exit_code=-9, ended_at=10.0, pid=0)
    paper.tell(first, 0, exit_code=1, ended_at=10.8, pid=0)
    paper.print(first, 0, "RuntimeError: Connection closed by peer")
    planned = paper.turn()
    assert any(isinstance(a.effect, Halt) and len(a.effect.orders) == 2 for a in planned.actions)
    paper.settle()
    first, second = paper.attempts("train")
    assert (first.status.outcome, first.status.rank) == (Outcome.FAULT, 3)
    assert second.status.phase is AttemptPhase.RUNNING
    assert now(paper).status.attempt == 2


def test_a_consequence_is_never_the_cause() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=5)
    paper.tell(first, 0, exit_code=1, ended_at=9.0, pid=0)
    paper.tell(first, 1, exit_code=-11, ended_at=9.5, pid=0)
    paper.print(first, 0, "RuntimeError: Connection closed by peer")
    paper.turn()
    assert paper.attempts("train")[0].status.rank == 1


def test_the_next_attempt_goes_on_from_the_last_checkpoint() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=100, checkpoint="step-100", step_s=0.5)
    paper.settle()
    assert [c.name for c in now(paper).status.checkpoints] == ["step-100"]
    paper.tell(first, 1, exit_code=-9, ended_at=1.0, pid=0)
    paper.settle()
    assert paper.attempts("train")[1].spec.resume_from == "step-100"
    assert paper.attempts("train")[1].spec.first_step == 100


def test_every_checkpoint_is_read_and_the_last_three_are_kept() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    for step in range(1, 6):
        paper.tell(first, 0, step=step, checkpoint=f"step-{step}")
        paper.settle()
    assert [c.step for c in now(paper).status.checkpoints] == [3, 4, 5]


def test_a_gang_that_lost_a_rank_is_not_waited_for_and_one_that_is_cancelled_may_save() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.tell(first, 1, exit_code=-9, ended_at=1.0, pid=0)
    (broken,) = [a.effect for a in paper.turn().actions if isinstance(a.effect, Halt)]
    paper.settle()
    spec = now(paper).spec.model_copy(update={"cancel": True})
    paper.put(now(paper).model_copy(update={"spec": spec}))
    assert not [a.effect for a in paper.intend().actions if isinstance(a.effect, Halt)]
    assert (broken.grace_s, paper.attempts("train")[-1].status.grace_s) == (2.0, 30.0)


def wish(paper: Paper, name: str = "train", **spec: object) -> None:
    """Change a job's spec, as its user does."""
    known = now(paper, name)
    paper.put(known.model_copy(update={"spec": known.spec.model_copy(update=spec)}))


def test_a_suspended_job_saves_gives_all_back_and_goes_on_when_it_is_resumed() -> None:
    paper = running(nodes=2, resume={"attempts": 1})
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=7, total=100)
    wish(paper, suspend=True)
    warned = [a.effect for a in paper.turn().actions if isinstance(a.effect, Warn)]
    assert [len(each.members) for each in warned] == [2], "every node is told, and none stopped"
    assert len(held(paper)) == 4, "what it has is its own while it saves"
    paper.settle()
    status = now(paper).status
    assert (held(paper), status.phase) == ([], JobPhase.WAITING)
    assert status.reason is not None
    assert status.smallest_fix is not None
    assert (status.reason.code, status.smallest_fix.code) == ("job.suspended", "job.fix-resume")
    assert [c.step for c in status.checkpoints] == [7]
    assert (status.preempted, status.barren, status.next_try) == (1, 0, None)
    wish(paper, suspend=False)
    paper.settle()
    first, second = paper.attempts("train")
    assert first.status.outcome is Outcome.PREEMPTED
    assert (second.spec.first_step, second.status.phase) == (7, AttemptPhase.RUNNING)


def test_a_gang_that_does_not_end_when_it_is_asked_to_is_stopped_after_its_grace() -> None:
    paper = running(resume={"grace": "90s"})
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=7)
    wish(paper, suspend=True)
    paper.intend()  # and nobody hears it
    paper.wait(89)
    assert not paper.intend().actions
    paper.wait(2)
    (stopped,) = [a.effect for a in paper.turn().actions if isinstance(a.effect, Halt)]
    assert stopped.grace_s == 2.0
    paper.settle()
    assert paper.attempts("train")[0].status.outcome is Outcome.PREEMPTED


def test_the_grace_is_as_long_as_a_step_and_a_checkpoint_need() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=7, step_s=20.0, checkpoint="step-7")
    paper.settle()
    kept = now(paper).status.checkpoints[-1].model_copy(update={"write_s": 40.0})
    paper.put(now(paper).with_status(checkpoints=(kept,)))
    wish(paper, suspend=True)
    paper.intend()
    assert paper.attempts("train")[0].status.grace_s == 120.0


def test_the_next_attempt_waits_until_the_last_checkpoint_is_read() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=7, checkpoint="step-7")
    paper.tell(first, 1, exit_code=-9, ended_at=1.0, pid=0)
    paper.intend()
    asked = paper.attempts("train")[0]
    assert (asked.status.phase, asked.status.claim) == (AttemptPhase.STOPPING, "step-7")
    paper.forget(first)
    for _ in range(3):
        reading = paper.intend()  # and it takes its time
        assert len(paper.attempts("train")) == 1
    paper.carry_out(Plan((Action(Verb.READ_CHECKPOINT, first, Reason(code="-"),
                                 effect=Record(TRAIN, first.ref)),)))  # fmt: skip
    paper.settle()
    assert reading.actions == ()
    assert paper.attempts("train")[1].spec.first_step == 7


def test_a_checkpoint_that_is_never_read_is_not_waited_for_for_ever() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=7, checkpoint="step-7")
    paper.tell(first, 1, exit_code=-9, ended_at=1.0, pid=0)
    paper.intend()
    paper.forget(first)
    paper.intend()
    paper.wait(601)
    paper.intend()
    assert paper.attempts("train")[1].spec.first_step == 0


def test_a_program_that_ends_well_because_it_was_asked_to_is_not_done() -> None:
    for step, outcome in ((7, Outcome.PREEMPTED), (100, Outcome.SUCCEEDED)):
        paper = running()
        (first,) = paper.attempts("train")
        paper.tell(first, 0, step=step, total=100)
        wish(paper, suspend=True)
        paper.intend()
        end_all(paper)
        paper.settle()
        assert paper.attempts("train")[0].status.outcome is outcome


def test_a_control_that_takes_over_asks_once_more() -> None:
    paper = running()
    wish(paper, suspend=True)
    paper.intend()
    paper.snapshot = replace(paper.snapshot, term=2)
    (again,) = paper.intend().actions
    assert (again.verb, type(again.effect)) == (Verb.REPEAT_SAVE, Warn)
    assert not paper.intend().actions


def test_a_cancelled_job_keeps_what_it_saves_at_the_end() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=7)
    wish(paper, cancel=True)
    paper.settle()
    assert (now(paper).status.phase, now(paper).status.checkpoints[-1].step) == (
        JobPhase.CANCELLED, 7,
    )  # fmt: skip


@pytest.mark.parametrize(("line", "code", "what"), [
    ("ModuleNotFoundError: No module named 'torhc'", "job.no-module", "torhc"),
    ("python3: can't open file '/code/x.py': [Errno 2] No such", "job.no-file", "/code/x.py"),
    ("MemoryError", "job.memory", "MemoryError"),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 8.00 GiB.",
        "job.accelerator-memory", "CUDA out of memory",
    ),
    (
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        "job.accelerator-access", "an illegal memory access was encountered",
    ),
    (
        "torch.AcceleratorError: CUDA error: device-side assert triggered",
        "job.accelerator-access", "device-side assert triggered",
    ),
    ("OSError: [Errno 28] No space left on device", "job.disk-full", "No space left on device"),
])  # fmt: skip
def test_an_error_before_any_step_fails_at_once_with_its_likely_cause(
    line: str, code: str, what: str
) -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.print(first, 0, line)
    end_all(paper, 1)
    paper.settle()
    status = now(paper).status
    assert status.phase is JobPhase.FAILED
    assert status.reason is not None
    assert (status.reason.code, status.reason.values["what"]) == (code, what)
    assert status.last_lines == (line,)
    assert len(paper.attempts("train")) == 1


def test_three_attempts_without_a_new_step_are_enough() -> None:
    paper = running()
    for _ in range(10):
        attempt = paper.attempts("train")[-1]
        if now(paper).status.phase is JobPhase.FAILED:
            break
        paper.tell(attempt, 0, step=7)
        end_all(paper, 1)
        paper.settle(120)
    assert now(paper).status.phase is JobPhase.FAILED
    assert len(paper.attempts("train")) == 4, "the first brought steps, three more brought none"


def test_attempts_bound_everything() -> None:
    paper = running(resume={"attempts": 3})
    for _ in range(6):
        paper.tell(paper.attempts("train")[-1], 0, exit_code=-9, ended_at=1.0, pid=0)
        paper.settle(300)
    status = now(paper).status
    assert (status.phase, len(paper.attempts("train"))) == (JobPhase.FAILED, 3)
    assert status.reason is not None
    assert status.reason.code == "job.attempts"


def test_a_gang_that_makes_no_step_is_stopped_and_the_stopped_rank_named() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    for rank in (0, 1):
        paper.tell(first, rank, step=40, stalled=True, quiet_s=61.0, halted=rank == 1)
    paper.settle()
    first, second = paper.attempts("train")
    assert first.status.cause is not None
    assert (first.status.cause.code, first.status.rank) == ("attempt.halted", 1)
    assert second.status.phase is AttemptPhase.RUNNING


def test_one_rank_that_evaluates_keeps_all_others_alive() -> None:
    paper = running()
    (first,) = paper.attempts("train")
    paper.tell(first, 0, step=40, phase="evaluation")
    paper.tell(first, 1, step=40, stalled=True, quiet_s=400.0)
    paper.settle()
    assert len(paper.attempts("train")) == 1


def test_a_node_that_is_lost_is_waited_for_a_minute_and_then_done_without() -> None:
    paper = running(nodes=2)
    paper.put(*node("spare", cards=8))
    paper.find("spare")
    lost = paper.attempts("train")[0].status.places[1].node
    paper.lose(lost)
    paper.settle(30)
    assert len(paper.attempts("train")) == 1
    paper.settle(120)
    first, second = paper.attempts("train")
    assert first.status.phase is AttemptPhase.STOPPING, "what nobody sees is still held"
    assert lost not in {place.node for place in second.status.places}
    paper.find(lost)
    paper.settle()
    assert paper.attempts("train")[0].status.phase is AttemptPhase.ENDED
    assert not [uid for uid in paper.snapshot.seen.processes if uid.startswith(first.uid)]


def test_a_job_waits_for_those_it_comes_after() -> None:
    wanted = {"needs": {"accelerator": "nvidia"}}
    paper = Paper(
        snapshot(node("n", cards=4), job(**wanted), job("eval", after=["train"], **wanted))
    )
    paper.settle()
    assert now(paper, "eval").status.blocked_by == "job/train"
    assert not paper.attempts("eval")
    end_all(paper)
    paper.settle()
    assert len(paper.attempts("eval")) == 1


def test_a_job_that_comes_after_a_failed_one_fails() -> None:
    wanted = {"needs": {"accelerator": "nvidia"}}
    paper = Paper(
        snapshot(node("n", cards=4), job(**wanted), job("eval", after=["train"], **wanted))
    )
    paper.settle()
    end_all(paper, 2)
    paper.settle()
    status = now(paper, "eval").status
    assert (status.phase, status.reason and status.reason.code) == (
        JobPhase.FAILED, "job.after-failed",
    )  # fmt: skip


def test_a_job_that_finds_no_room_says_the_smallest_fix_and_starts_once_it_is_done() -> None:
    paper = Paper(snapshot(
        node("n", cards=2), a_model(), service(scale=2, needs={"accelerator": "nvidia"}),
    ))  # fmt: skip
    paper.settle()
    paper.put(job(needs={"accelerator": "nvidia", "count": 2}))
    paper.settle()
    fix = now(paper).status.smallest_fix
    assert fix is not None
    assert fix.code == "placement.fix-scale"
    bot = paper.snapshot.services[Ref(PROJECT, "bot")]
    fewer = bot.spec.model_copy(update={"scale": fix.values["scale"]})
    paper.put(bot.model_copy(update={"spec": fewer, "generation": bot.generation + 1}))
    paper.settle()
    assert paper.attempts("train")[0].status.phase is AttemptPhase.RUNNING


def test_who_came_first_is_given_room_first() -> None:
    wanted = {"needs": {"accelerator": "nvidia", "count": 2}}
    late, early = job("a", created_at=2.0, **wanted), job("b", created_at=1.0, **wanted)
    paper = Paper(snapshot(node("n", cards=2), late, early))
    paper.settle()
    assert (len(paper.attempts("a")), len(paper.attempts("b"))) == (0, 1)


def test_a_job_that_is_deleted_leaves_nothing() -> None:
    paper = running(nodes=2)
    paper.put(now(paper).model_copy(update={"deleted_at": paper.now}))
    paper.settle()
    assert not paper.snapshot.jobs
    assert not paper.snapshot.attempts
    assert not paper.snapshot.seen.processes


@pytest.mark.parametrize("when", ["intended", "running", "ended"])
def test_at_the_same_instant_there_is_nothing_more_to_plan(when: str) -> None:
    paper = running(nodes=2)
    if when == "intended":
        paper.tell(paper.attempts("train")[0], 0, exit_code=-9, ended_at=1.0, pid=0)
        paper.intend()
    if when == "ended":
        end_all(paper)
        paper.settle()
    assert not plan(paper.snapshot).actions


def test_what_runs_for_no_attempt_is_told_to_stop() -> None:
    paper = running()
    (attempt,) = paper.attempts("train")
    paper.snapshot = paper.snapshot.after((), (attempt, now(paper)))
    planned = paper.turn()
    assert [a.verb for a in planned.actions if a.effect] == [Verb.STOP_ORPHAN]


def test_a_member_that_held_too_much_memory_is_its_jobs_own_error() -> None:
    paper = running(needs={"accelerator": "nvidia", "count": 2, "host_memory": "4GB"})
    (first,) = paper.attempts("train")
    uid = member_uid(first, 0)
    found = paper.snapshot.seen.processes[uid]
    processes = {**paper.snapshot.seen.processes, uid: replace(found, over_bytes=5_200_000_000)}
    paper.snapshot = replace(
        paper.snapshot, seen=replace(paper.snapshot.seen, processes=processes)
    )  # fmt: skip
    paper.settle()
    status = now(paper).status
    assert (status.phase, status.attempt) == (JobPhase.FAILED, 1), "it would do so again"
    assert status.cause is not None
    assert (status.cause.code, status.cause.values) == (
        "job.over-memory", {"node": "n0", "memory": "5.2GB", "asked": "4GB"},
    )  # fmt: skip
