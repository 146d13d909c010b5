"""Accelerators that fall ill, on paper: what is fenced, what moves, who is blamed, what returns."""

from __future__ import annotations

import pytest

from madang.planning.action import Verb, assume
from madang.planning.explain import explain
from madang.planning.health import fencing
from madang.planning.health.xids import XIDS, Level
from madang.planning.memo import Memo
from madang.planning.place.gangs import want_of
from madang.planning.place.ground import NOTHING
from madang.planning.plan import plan
from madang.resources.attempt import AttemptPhase, Outcome
from madang.resources.job import Job, JobPhase
from madang.resources.place import Accelerator, AcceleratorPhase
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Ref
from madang.testing.builders import PROJECT, job, model, node, service, snapshot
from madang.testing.paper import Paper

P = AcceleratorPhase
FATAL = (46, 48, 62, 64, 74, 79, 95, 110, 119, 120, 136, 140, 143, *range(144, 151))
OWN_FAULT = (13, 31, 32, 43, 45, 68, 69, 109)
"""Written here once more: what the table says is what was decided."""


def card(paper: Paper, name: str) -> Accelerator:
    return paper.snapshot.accelerators[Ref("", name)]


def phase(paper: Paper, name: str) -> AcceleratorPhase:
    return card(paper, name).status.phase


def why(paper: Paper, name: str) -> str:
    reason = card(paper, name).status.reason
    return reason.code if reason else ""


def train(paper: Paper) -> Job:
    return paper.snapshot.jobs[Ref(PROJECT, "train")]


def training(*, nodes: int = 2, cards: int = 2, **spec: object) -> tuple[Paper, str]:
    """Return a world in which a job runs, and the first accelerator that it has."""
    wanted = {"needs": {"accelerator": "nvidia", "count": 1}, **spec}
    paper = Paper(snapshot(*(node(f"n{i}", cards=cards) for i in range(nodes)), job(**wanted)))
    paper.settle()
    (attempt,) = paper.attempts("train")
    assert attempt.status.phase is AttemptPhase.RUNNING
    return paper, attempt.status.places[0].accelerators[0]


def fleet(cards: int = 4) -> Paper:
    paper = Paper(snapshot(node("n", cards=cards)))
    paper.settle()
    return paper


def die(paper: Paper, exit_code: int = 1, *lines: str) -> None:
    """Let rank 0 of the newest attempt end in error."""
    attempt = paper.attempts("train")[-1]
    paper.print(attempt, 0, *lines)
    paper.tell(attempt, 0, exit_code=exit_code, ended_at=paper.now, pid=0)


@pytest.mark.parametrize("xid", FATAL)
def test_hardware_that_is_lost_is_fenced_at_once_and_the_job_goes_on_elsewhere(xid: int) -> None:
    paper, broken = training()
    paper.log(broken, xid)
    began = paper.now
    paper.turn()
    assert phase(paper, broken) is P.FENCED
    paper.settle()
    first, second = paper.attempts("train")
    assert first.status.outcome is Outcome.FAULT
    assert first.status.cause is not None
    assert first.status.cause.code == "attempt.accelerator"
    assert first.status.cause.values["accelerator"] == broken
    assert first.status.cause.values["xid"] == xid
    assert second.status.phase is AttemptPhase.RUNNING
    assert broken not in second.status.places[0].accelerators
    assert second.status.started_at - began < 10
    assert train(paper).status.fruitless == 0, "that was no doing of the job's"


@pytest.mark.parametrize("xid", OWN_FAULT)
def test_a_programs_own_error_never_touches_its_accelerator(xid: int) -> None:
    paper, own = training()
    paper.log(own, xid)
    die(paper, 1, "RuntimeError: CUDA error: an illegal memory access was encountered")
    paper.settle()
    assert phase(paper, own) is P.OK
    assert paper.attempts("train")[0].status.outcome is Outcome.ERROR
    assert train(paper).status.phase is JobPhase.FAILED


def test_an_accelerator_that_falls_ill_is_blamed_before_the_error_of_the_rank() -> None:
    paper, own = training()
    paper.answer("n0")
    paper.answer("n1")
    die(paper, 1, "RuntimeError: CUDA error: unspecified launch failure")
    paper.turn()
    assert paper.attempts("train")[0].status.phase is AttemptPhase.RUNNING, "not judged yet"
    paper.wait(1)
    paper.log(own, 79)
    paper.settle()
    first, second = paper.attempts("train")
    assert (first.status.outcome, second.status.phase) == (Outcome.FAULT, AttemptPhase.RUNNING)
    assert first.status.cause is not None
    assert first.status.cause.code == "attempt.accelerator"


def test_a_contained_memory_error_is_blamed_too_and_its_accelerator_gets_nothing_new() -> None:
    paper, own = training()
    paper.log(own, 94)
    die(paper, 1, "RuntimeError: CUDA error: uncorrectable ECC error encountered")
    paper.settle()
    first, second = paper.attempts("train")
    assert phase(paper, own) is P.IMPAIRED
    assert (first.status.outcome, second.status.phase) == (Outcome.FAULT, AttemptPhase.RUNNING)
    assert own not in second.status.places[0].accelerators


def test_a_user_error_on_a_watched_node_is_judged_after_a_moment() -> None:
    paper, _ = training()
    paper.answer("n0")
    paper.answer("n1")
    die(paper, 1, "ModuleNotFoundError: No module named 'torhc'")
    paper.settle()
    assert train(paper).status.phase is JobPhase.FAILED
    assert train(paper).status.cause is not None
    assert train(paper).status.cause.code == "job.no-module"


def test_a_service_gets_a_new_replica_elsewhere_even_if_the_old_one_can_not_be_ended() -> None:
    paper = Paper(snapshot(model(), node("a"), node("b"), service(needs={"memory": "40GB"})))
    paper.settle()
    (replica,) = paper.replicas("bot")
    (broken,) = replica.status.accelerators
    paper.deaf.add(replica.uid)
    paper.log(broken, 79)
    paper.settle(30)
    old, new = paper.replicas("bot")
    assert (old.status.phase, new.status.phase) == (ReplicaPhase.STOPPING, ReplicaPhase.READY)
    assert new.status.node != old.status.node
    paper.deaf.clear()
    paper.settle()
    assert [each.name for each in paper.replicas("bot")] == [new.name]


def test_a_job_does_not_wait_for_ever_for_what_hangs_on_a_lost_accelerator() -> None:
    paper, broken = training()
    paper.deaf.add(next(iter(paper.snapshot.seen.processes)))
    paper.log(broken, 79)
    paper.settle(fencing.FENCED_WINDOW_S)
    first, second = paper.attempts("train")
    assert first.status.phase is AttemptPhase.STOPPING, "it can't be ended"
    assert second.status.phase is AttemptPhase.RUNNING


@pytest.mark.parametrize(
    ("symptom", "code"),
    [
        ({"remap": "failed"}, "accelerator.remap-failed"),
        ({"is_halted": True}, "accelerator.halted"),
        ({"recovery": "reset"}, "accelerator.asks-for"),
    ],
)
def test_states_that_nothing_can_run_in_fence(symptom: dict[str, object], code: str) -> None:
    paper = fleet()
    paper.show("n-0", **symptom)
    paper.turn()
    assert (phase(paper, "n-0"), why(paper, "n-0")) == (P.FENCED, code)


@pytest.mark.parametrize(
    ("symptom", "code"),
    [
        ({"remap": "pending"}, "accelerator.remap-pending"),
        ({"is_hot": True}, "accelerator.hot"),
        ({"recovery": "drain"}, "accelerator.asks-for"),
    ],
)
def test_states_in_which_work_goes_on_only_keep_new_work_away(
    symptom: dict[str, object], code: str
) -> None:
    paper, own = training()
    paper.show(own, **symptom)
    paper.settle()
    assert (phase(paper, own), why(paper, own)) == (P.IMPAIRED, code)
    assert [each.status.phase for each in paper.attempts("train")] == [AttemptPhase.RUNNING]
    paper.show(own, **{name: type(value)() for name, value in symptom.items()})
    paper.settle(fencing.EASED_S + 10)
    assert phase(paper, own) is P.OK


def test_one_that_its_tool_lists_no_more_is_lost() -> None:
    paper = fleet()
    paper.answer("n")
    paper.drop("n-2")
    paper.turn()
    assert (phase(paper, "n-2"), why(paper, "n-2")) == (P.FENCED, "accelerator.gone")
    paper.settle(2 * fencing.WELL_S)
    assert phase(paper, "n-2") is P.FENCED, "it is still not there"


@pytest.mark.parametrize("cause", ["hung", "exit code 255"])
def test_a_tool_that_does_not_answer_fences_nothing(cause: str) -> None:
    paper, own = training(nodes=1)
    paper.answer("n0", cause)
    paper.settle()
    assert {phase(paper, f"n0-{i}") for i in range(2)} == {P.IMPAIRED}
    assert [each.status.phase for each in paper.attempts("train")] == [AttemptPhase.RUNNING]
    paper.answer("n0")
    paper.settle(fencing.EASED_S + 10)
    assert phase(paper, own) is P.OK


def test_memory_errors_count_from_when_the_watch_began_and_more_of_them_are_fatal() -> None:
    paper = fleet()
    paper.show("n-0", uncorrectable=3)
    paper.settle()
    assert phase(paper, "n-0") is P.OK, "these were there before"
    paper.show("n-0", uncorrectable=4)
    paper.settle()
    assert (phase(paper, "n-0"), why(paper, "n-0")) == (P.IMPAIRED, "accelerator.uncorrectable")
    paper.show("n-0", uncorrectable=6)
    paper.turn()
    assert phase(paper, "n-0") is P.FENCED


def test_a_fenced_one_is_offered_again_after_it_was_well_for_long() -> None:
    paper = fleet()
    paper.log("n-0", 48)
    paper.settle()
    paper.settle(fencing.WELL_S - 120)
    assert phase(paper, "n-0") is P.FENCED
    assert card(paper, "n-0").status.next_try is not None
    paper.settle(240)
    assert phase(paper, "n-0") is P.OK
    paper.settle()
    assert phase(paper, "n-0") is P.OK, "what its kernel once logged is heeded once"


def test_whoever_is_not_seen_is_not_well() -> None:
    paper = fleet()
    paper.log("n-0", 48)
    paper.turn()
    paper.lose("n")
    paper.settle(2 * fencing.WELL_S)
    assert phase(paper, "n-0") is P.FENCED


def test_the_second_failure_of_a_day_for_another_reason_is_quarantine() -> None:
    paper = fleet()
    paper.log("n-0", 48)
    paper.settle(2 * fencing.WELL_S)
    assert phase(paper, "n-0") is P.OK
    paper.log("n-0", 79)
    paper.turn()
    assert phase(paper, "n-0") is P.QUARANTINED
    paper.settle(4 * fencing.WELL_S)
    assert phase(paper, "n-0") is P.QUARANTINED, "only somebody ends that"


def test_the_same_failure_under_the_same_job_is_no_quarantine() -> None:
    paper, own = training(nodes=1, cards=1)
    for _ in range(2):
        paper.log(own, 48)
        paper.settle(2 * fencing.WELL_S)
    assert len(card(paper, own).status.failures) == 2
    assert phase(paper, own) is P.OK


def test_two_failures_more_than_a_day_apart_have_nothing_to_do_with_each_other() -> None:
    paper = fleet()
    paper.log("n-0", 48)
    paper.settle(2 * fencing.WELL_S)
    paper.wait(fencing.UNRELATED_S)
    paper.log("n-0", 79)
    paper.turn()
    assert phase(paper, "n-0") is P.FENCED


def release(paper: Paper, name: str) -> None:
    found = card(paper, name)
    spec = found.spec.model_copy(update={"releases": found.spec.releases + 1})
    paper.put(found.model_copy(update={"spec": spec}))


def test_an_operator_releases_one_from_quarantine_and_its_past_is_forgotten() -> None:
    paper = fleet()
    for xid in (48, 79):
        paper.log("n-0", xid)
        paper.settle(2 * fencing.WELL_S)
    assert phase(paper, "n-0") is P.QUARANTINED
    assert fencing.check(card(paper, "n-0"), paper.snapshot) is None
    release(paper, "n-0")
    paper.turn()
    assert phase(paper, "n-0") is P.OK
    paper.settle()
    paper.log("n-0", 95)
    paper.turn()
    assert phase(paper, "n-0") is P.FENCED


def test_the_check_before_a_release_says_what_is_still_wrong() -> None:
    paper = fleet()
    unheard = fencing.check(card(paper, "n-0"), paper.snapshot)
    assert unheard is not None
    assert unheard.code == "accelerator.unwatched"
    paper.show("n-0", remap="failed")
    paper.turn()
    found = fencing.check(card(paper, "n-0"), paper.snapshot)
    assert found is not None
    assert found.code == "accelerator.remap-failed"
    paper.show("n-0", remap="")
    assert fencing.check(card(paper, "n-0"), paper.snapshot) is None


def test_no_more_than_a_fifth_of_a_pool_is_fenced_within_five_minutes() -> None:
    paper = Paper(snapshot(*(node(f"n{i}", cards=5) for i in range(4))))  # 20: four may go
    paper.settle()
    for i in range(4):
        for j in range(3):
            paper.log(f"n{i}-{j}", 79)
    paper.turn()

    def count(wanted: AcceleratorPhase) -> int:
        found = paper.snapshot.accelerators.values()
        return sum(each.status.phase is wanted for each in found)

    assert (count(P.FENCED), count(P.SUSPECT), count(P.OK)) == (4, 8, 8)
    suspect = next(a for a in paper.snapshot.accelerators.values() if a.status.phase is P.SUSPECT)
    assert suspect.status.reason is not None
    assert suspect.status.reason.values["limit"] == 4
    paper.settle(fencing.FENCED_WINDOW_S + 30)
    assert (count(P.FENCED), count(P.SUSPECT)) == (8, 4), "the next as soon as they may"


def test_what_runs_on_a_suspect_stays_and_nothing_new_comes() -> None:
    paper = Paper(snapshot(node("n", cards=2), job(needs={"accelerator": "nvidia", "count": 1})))
    paper.settle()
    (attempt,) = paper.attempts("train")
    (busy,) = attempt.status.places[0].accelerators
    idle = next(name for name in ("n-0", "n-1") if name != busy)
    paper.log(idle, 79)
    paper.turn()
    paper.log(busy, 79)
    paper.settle(30)
    assert (phase(paper, idle), phase(paper, busy)) == (P.FENCED, P.SUSPECT)
    assert [each.status.phase for each in paper.attempts("train")] == [AttemptPhase.RUNNING]
    paper.put(job("next", needs={"accelerator": "nvidia", "count": 1}))
    paper.settle(30)
    waiting = paper.snapshot.jobs[Ref(PROJECT, "next")]
    assert waiting.status.reason is not None
    assert waiting.status.reason.values["fell_fenced"] == 1


def test_what_waits_is_told_how_many_nodes_fell_for_their_accelerators() -> None:
    paper = Paper(snapshot(model(), node("a"), node("b"), service(needs={"memory": "40GB"})))
    for name in ("a-0", "b-0"):
        paper.show(name, is_hot=True)
    paper.settle(30)
    (replica,) = paper.replicas("bot")
    assert replica.status.phase is ReplicaPhase.WAITING
    told = explain(replica, paper.snapshot)
    assert told.reason is not None
    assert told.reason.values["fell_fenced"] == 2
    assert explain(card(paper, "a-0"), paper.snapshot).phase == "impaired"


def test_a_group_is_lost_with_any_of_it() -> None:
    made = node("n", cards=4, kind="rebellions/atom-max")
    grouped = [
        each.model_copy(update={"spec": each.spec.model_copy(update={"group": "g"})})
        if isinstance(each, Accelerator) else each for each in made
    ]  # fmt: skip
    paper = Paper(snapshot(grouped, job(needs={"accelerator": "rebellions", "count": 4})))
    paper.show("n-3", is_hot=True)
    paper.settle(30)
    assert not paper.attempts("train")


def test_what_is_given_back_on_a_fenced_one_is_not_free() -> None:
    """In the very plan in which its job lets go of it."""
    paper, broken = training(nodes=1, cards=1)
    paper.log(broken, 79)
    paper.settle(120)
    assert len(paper.attempts("train")) == 1
    assert train(paper).status.phase is JobPhase.WAITING
    assert train(paper).status.reason is not None
    assert train(paper).status.reason.values["fell_fenced"] == 1


def test_what_is_given_back_within_a_turn_is_not_free_either() -> None:
    paper, broken = training(nodes=1, cards=1)
    paper.deaf.add(next(iter(paper.snapshot.seen.processes)))
    paper.log(broken, 79)
    paper.turn()
    (held,) = paper.snapshot.holdings()
    ground = Memo().ground(paper.snapshot)
    ground.change(held, NOTHING)
    assert not ground.fits(want_of(train(paper)).ask)


def test_the_table_says_of_each_what_was_decided() -> None:
    by_level = {level: {n for n, known in XIDS.items() if known.level is level} for level in Level}
    assert by_level == {Level.OK: set(OWN_FAULT), Level.DEGRADED: {63, 94}, Level.FATAL: set(FATAL)}


def test_any_memory_plans_the_same_and_a_plan_leaves_nothing_to_plan() -> None:
    paper, broken = training()
    paper.log(broken, 79)
    paper.show("n1-1", is_hot=True)
    memo = Memo()
    plan(paper.snapshot, memo)
    planned = plan(paper.snapshot, memo)
    assert planned == plan(paper.snapshot)
    verbs = {action.verb for action in planned.actions}
    assert {Verb.FENCE_ACCELERATOR, Verb.IMPAIR_ACCELERATOR, Verb.STOP_ATTEMPT} <= verbs
    assert not plan(assume(paper.snapshot, planned)).actions


def test_another_device_of_that_name_begins_with_a_clean_slate_of_errors() -> None:
    paper = fleet()
    paper.show("n-0", uncorrectable=9)
    paper.settle()
    paper.show("n-0", serial="another", uncorrectable=11)
    paper.settle()
    assert phase(paper, "n-0") is P.OK
    assert card(paper, "n-0").status.serial == "another"
