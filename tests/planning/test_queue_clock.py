"""Waits count by the clock of their queue: time that somebody watched, whatever clocks show."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.planning.test_queue import HOUR_S, ONE, TWO, a_job, finish, on, queue

from madang.planning.ages import watched
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.queue.clock import STEP_S
from madang.planning.share.rule import RULE
from madang.resources.job import InLine
from madang.resources.resource import Ref
from madang.testing.builders import model, node, service, snapshot
from madang.testing.examples import examples
from madang.testing.paper import Paper

DAY_S = 24 * HOUR_S
SETTLED_S = 130.0
"""A world takes so long at most to settle, twice."""


def squeezed() -> Paper:
    """Return a world in which one runs that nobody may ask to leave, and others wait for it."""
    high = a_job("runs", count=2, priority="high")
    paper = Paper(snapshot(node("n", cards=2), high, a_job("waits", TWO, count=2)))
    paper.settle()
    return paper


def restart(paper: Paper) -> None:
    """Let another control take over, which has watched nothing yet."""
    now = paper.snapshot
    known = [resource for kind in now.kept.values() for resource in kind.values()]
    paper.snapshot = replace(now, term=now.term + 1, ages=watched({}, known, (), 0.0), steady_s=0.0)


def waited_s(paper: Paper, name: str = "waits", project: str = TWO) -> float:
    """Return how long the queue takes one to have waited."""
    (lane,) = Memo().order(paper.snapshot).lanes.values()
    at = next(at for at, m in enumerate(lane.present) if m.owner.ref == Ref(project, name))
    return float(lane.line.waited_s[at])


def line(paper: Paper, name: str = "waits", project: str = TWO) -> InLine:
    found = paper.snapshot.jobs[Ref(project, name)].status.line
    assert found is not None
    return found


def watch(paper: Paper, hours: float) -> None:
    """Let control watch for so long, and look once an hour."""
    left_s = hours * HOUR_S
    while left_s > 0:
        paper.turn()
        paper.wait(min(left_s, STEP_S))
        left_s -= STEP_S
    paper.turn()


@pytest.mark.parametrize("days", [1, 5, 400])
def test_a_clock_that_is_set_forward_has_nobody_wait_longer_than_a_step(days: int) -> None:
    paper = squeezed()
    watch(paper, 3)
    paper.leap(days * DAY_S)
    paper.turn()
    assert waited_s(paper) == pytest.approx(3 * HOUR_S + STEP_S, abs=SETTLED_S)
    watch(paper, 2)
    assert waited_s(paper) == pytest.approx(5 * HOUR_S + STEP_S, abs=SETTLED_S)


def test_a_clock_that_is_set_back_takes_nobodys_wait() -> None:
    paper = squeezed()
    watch(paper, 3)
    paper.leap(-9 * DAY_S)
    watch(paper, 2)
    assert waited_s(paper) == pytest.approx(5 * HOUR_S, abs=SETTLED_S)


def test_a_day_without_control_counts_as_a_step() -> None:
    paper = squeezed()
    watch(paper, 3)
    paper.leap(DAY_S)
    restart(paper)
    assert waited_s(paper) == pytest.approx(3 * HOUR_S + STEP_S, abs=SETTLED_S)


def test_who_restarts_control_every_half_hour_loses_nobodys_wait() -> None:
    paper = squeezed()
    for _ in range(20):
        watch(paper, 0.5)
        restart(paper)
    assert waited_s(paper) == pytest.approx(10 * HOUR_S, abs=SETTLED_S)


def test_control_wakes_to_write_the_clock_down_while_somebody_waits_and_else_does_not() -> None:
    paper = squeezed()
    paper.wait(2600)
    due = paper.turn().wake_s
    assert due is not None
    assert due <= STEP_S - 2600
    watch(paper, 4)
    assert queue(paper).status.clock_s >= 4 * HOUR_S
    stored = queue(paper).status
    withdrawn = paper.snapshot.jobs[Ref(TWO, "waits")]
    spec = withdrawn.spec.model_copy(update={"cancel": True})
    paper.put(withdrawn.model_copy(update={"spec": spec}))
    paper.settle()
    at = queue(paper).status.at
    assert at >= stored.at
    watch(paper, 4)
    assert queue(paper).status.at == at


def test_all_who_wait_do_not_count_as_too_late_at_once_when_the_clock_is_set() -> None:
    jobs = [a_job(f"w{n}", TWO, count=2, created_at=float(n)) for n in range(6)]
    paper = Paper(snapshot(node("n", cards=2), a_job("runs", count=2, priority="high"), *jobs))
    paper.settle()
    paper.leap(2 * RULE.aged_full_s)
    paper.turn()
    (lane,) = Memo().order(paper.snapshot).lanes.values()
    assert lane.eldest is None
    assert (lane.line.waited_s <= STEP_S + SETTLED_S).all()


def test_who_really_waited_too_long_is_the_eldest_by_that_clock() -> None:
    paper = squeezed()
    watch(paper, RULE.aged_s / HOUR_S - 1)
    (lane,) = Memo().order(paper.snapshot).lanes.values()
    assert lane.eldest is None
    watch(paper, 1.1)
    (lane,) = Memo().order(paper.snapshot).lanes.values()
    assert lane.present[lane.eldest or 0].owner.name == "waits"


def test_what_one_waited_before_it_ran_stays_and_what_it_ran_does_not_count() -> None:
    paper = Paper(snapshot(node("n", cards=2), a_job("first", count=2)))
    paper.settle()
    paper.put(a_job("second", count=2, created_at=paper.now))
    paper.settle(10)
    watch(paper, 5)
    finish(paper, "first")
    assert on(paper) == {"second"}
    before = line(paper, "second", ONE)
    assert before.waited_s == pytest.approx(5 * HOUR_S, abs=SETTLED_S)
    assert before.attempt == 1
    watch(paper, 7)
    assert line(paper, "second", ONE) == before
    paper.lose("n")
    paper.wait(120)
    paper.forget(paper.attempts("second")[0])
    paper.put(a_job("blocks", TWO, count=2, priority="high"))
    paper.find("n")
    paper.settle()
    assert on(paper) == {"blocks"}
    watch(paper, 2)
    assert line(paper, "second", ONE).attempt == 0
    assert waited_s(paper, "second", ONE) == pytest.approx(7 * HOUR_S, abs=SETTLED_S)


def test_who_goes_to_another_queue_takes_along_what_it_waited() -> None:
    kinds = {"n": "nvidia/h100", "m": "nvidia/l40s"}
    hardware = [node(name, cards=2, kind=kind, memory_gb=80) for name, kind in kinds.items()]
    runs = [a_job(f"r{n}", count=2, priority="high") for n in range(2)]
    paper = Paper(snapshot(*hardware, *runs, a_job("waits", TWO, count=2)))
    paper.settle()
    first = line(paper).queue
    watch(paper, 6)
    gone = next(name for name, kind in kinds.items() if first == kind.replace("/", "-"))
    paper.lose(gone)
    paper.turn()
    assert line(paper).queue != first
    assert line(paper).waited_s == pytest.approx(6 * HOUR_S, abs=SETTLED_S)


def test_a_service_that_waits_is_not_taken_to_have_waited_for_what_nobody_watched() -> None:
    high = a_job("runs", count=2, priority="high")
    bot = service(project=TWO, needs={"accelerator": "nvidia", "count": 2})
    paper = Paper(snapshot(node("n", cards=2), high, model(project=TWO)))
    paper.settle()
    paper.put(bot)
    paper.settle()
    paper.leap(9 * DAY_S)
    (lane,) = Memo().order(paper.snapshot).lanes.values()
    at = next(at for at, m in enumerate(lane.present) if m.owner.kind == "replica")
    assert lane.line.waited_s[at] <= DAY_S + SETTLED_S


STEPS = st.lists(
    st.tuples(
        st.floats(0.1, 3 * HOUR_S), st.sampled_from(["", "leap", "back", "restart", "down"]),
        st.floats(60.0, 30 * DAY_S),
    ),
    max_size=4,
)  # fmt: skip


@settings(max_examples=examples(10), deadline=None)
@given(STEPS)
def test_whatever_clocks_do_a_wait_is_what_was_watched_give_or_take_a_step_for_each_jump(
    steps: list[tuple[float, str, float]],
) -> None:
    paper = squeezed()
    least, most = 0.0, SETTLED_S
    for passed_s, what, jump_s in steps:
        watch(paper, passed_s / HOUR_S)
        least, most = least + passed_s, most + passed_s
        if what == "leap":
            paper.leap(jump_s + 0.0625)
        elif what == "back":
            paper.leap(-jump_s - 0.0625)
        elif what == "restart":
            restart(paper)
        elif what == "down":
            paper.leap(jump_s + 0.0625)
            restart(paper)
        most += STEP_S if what in {"leap", "down"} else 0.0
        least -= STEP_S if what in {"back", "restart", "down"} else 0.0
        paper.turn()
        assert not plan(paper.snapshot).actions
        assert least - 1 <= waited_s(paper) <= most + 1
