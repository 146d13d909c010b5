"""What of all that is queued counts: what waits at a door, could never start, or is withdrawn."""

from __future__ import annotations

from typing import Any

import pytest
from tests.planning.test_queue import HOUR_S, ONE, TWO, a_job, finish, on, queue

from madang.resources.resource import Ref
from madang.testing.builders import node, quota, snapshot
from madang.testing.paper import Paper


def test_jobs_beyond_what_may_be_in_line_wait_at_the_door_and_count_for_nothing() -> None:
    paper = Paper(snapshot(
        node("n", cards=2), quota(ONE, queued=3), a_job("runs", TWO, count=2, priority="high"),
    ))  # fmt: skip
    paper.settle()
    for number in range(8):
        paper.put(a_job(f"j{number}", created_at=float(number)))
    paper.settle(10)
    codes = [paper.snapshot.jobs[Ref(ONE, f"j{n}")].status.reason.code for n in range(8)]
    assert codes == ["placement.nowhere-whole"] * 3 + ["queue.door"] * 5
    assert queue(paper).status.projects[ONE].demand == 3.0
    finish(paper, "runs")
    assert len(on(paper)) == 2
    told = [paper.snapshot.jobs[Ref(ONE, f"j{n}")].status.reason for n in range(8)]
    assert [r and r.code for r in told] == [None] * 2 + ["placement.nowhere-whole"] * 3 + [
        "queue.door"] * 3  # fmt: skip


def test_an_organization_has_a_door_for_all_its_projects_together() -> None:
    paper = Paper(snapshot(
        node("n", cards=2), quota("acme", queued=2), a_job("runs", "beta/b", 2, priority="high"),
    ))  # fmt: skip
    paper.settle()
    paper.put(*(a_job(f"j{n}", (ONE, TWO)[n % 2], created_at=float(n)) for n in range(4)))
    paper.settle(10)
    told = [paper.snapshot.jobs[Ref((ONE, TWO)[n % 2], f"j{n}")].status.reason for n in range(4)]
    assert [r and r.code for r in told] == ["placement.nowhere-whole"] * 2 + ["queue.door"] * 2


def test_whatever_is_queued_beyond_the_door_nobody_is_entitled_to_more_or_to_less() -> None:
    """Two of one project may be in line: so it never counts for the half of all that it could."""
    stood = []
    for fakes in (2, 3, 40):
        own = [a_job(f"own{n}", TWO, priority="high") for n in range(8)]
        fake = [a_job(f"fake{n}", created_at=float(n)) for n in range(fakes)]
        paper = Paper(snapshot(node("n", cards=8), quota(ONE, queued=2), *own, *fake))
        paper.settle()
        paper.wait(12 * HOUR_S)
        paper.put(a_job("more", TWO))
        paper.settle()
        stood.append(queue(paper).status.projects)
    assert stood[0] == stood[1] == stood[2]
    assert (stood[0][ONE].entitled, stood[0][TWO].entitled) == (2.0, 6.0)


@pytest.mark.parametrize("unfit", [
    {"count": 5}, {"nodes": 3}, {"after": ["runs"]}, {"suspend": True},
])  # fmt: skip
def test_what_could_never_start_now_raises_nobodys_share(unfit: dict[str, Any]) -> None:
    world = [node(f"n{n}", cards=2) for n in range(2)]
    paper = Paper(
        snapshot(*world, *(a_job(f"x{n}", TWO) for n in range(3)), a_job("runs", count=1))
    )
    paper.settle()
    before = queue(paper).status.projects[ONE]
    count = unfit.get("count", 1)
    rest = {key: value for key, value in unfit.items() if key != "count"}
    paper.put(*(a_job(f"fake{n}", count=count, **rest) for n in range(5)))
    paper.settle()
    assert queue(paper).status.projects[ONE] == before


def test_what_was_withdrawn_and_never_ran_leaves_no_shortfall() -> None:
    paper = Paper(snapshot(node("n", cards=2), a_job("runs", TWO, count=2, priority="high")))
    paper.settle()
    paper.put(*(a_job(f"fake{n}") for n in range(5)))
    paper.settle()
    paper.wait(24 * HOUR_S)
    paper.put(a_job("fake5"))
    paper.settle()
    assert queue(paper).status.projects[ONE].short_s > 10 * HOUR_S
    for number in range(6):
        fake = paper.snapshot.jobs[Ref(ONE, f"fake{number}")]
        spec = fake.spec.model_copy(update={"cancel": True})
        paper.put(fake.model_copy(update={"spec": spec}))
    paper.settle()
    assert queue(paper).status.projects[ONE].short_s == pytest.approx(0.0, abs=1e-6)
