"""The queue in control, on a virtual clock: jobs on nodes, seeded, and what holds of shares."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from madang.planning.action import assume
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.queue.order import mark_of
from madang.planning.queue.waiting import PER_HOUR_MAX
from madang.planning.share.rule import RULE
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import AttemptPhase
from madang.resources.job import InLine, Job, JobPhase
from madang.resources.resource import Ref
from madang.testing.builders import job, node, quota, snapshot
from madang.testing.paper import Paper

pytestmark = pytest.mark.timeout(300)
ONE, TWO, THREE = "acme/one", "acme/two", "beta/three"
HOUR_S = 3600.0
LIVING = {AttemptPhase.STARTING, AttemptPhase.RUNNING}


class Field(Paper):
    """Jobs that run for as long as they were drawn, save twice an hour, and then end well."""

    def __init__(self, cards: int, nodes: int, seed: int, *more: object) -> None:
        hardware = [node(f"n{n}", cards=cards) for n in range(nodes)]
        super().__init__(snapshot(*hardware, *more))
        self.chance, self.made = random.Random(seed), 0
        self.runs_s: dict[str, float] = {}
        self.had_s: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def submit(self, project: str, runs_s: float, count: int = 1, **spec: object) -> Job:
        """Have a job come that runs so long."""
        name = f"j{self.made}"
        self.made += 1
        needs = {"accelerator": "nvidia", "count": count}
        made = job(name, project=project, created_at=self.now, needs=needs, **spec)
        self.runs_s[name] = runs_s
        self.put(made)
        return made

    def go_on(self, seconds: float, step_s: float = 150.0) -> None:
        """Let time pass, and jobs with it."""
        for _ in range(int(seconds // step_s)):
            for attempt in list(self.snapshot.living):
                if attempt.status.phase in LIVING:
                    self._work(attempt, step_s)
            self.wait(step_s)
            for _ in range(4):
                if not self.turn().actions:
                    break
                self.wait(0.1)
            for each in self.snapshot.open_jobs:
                self.waits[each.name] += each.status.phase is JobPhase.WAITING

    def _work(self, attempt, step_s: float) -> None:
        ran = self.now + step_s - attempt.status.started_at
        first = attempt.spec.first_step
        self.had_s[attempt.project] += step_s * attempt.spec.accelerators
        over = {"exit_code": 0, "ended_at": self.now + step_s, "pid": 0}
        is_over = first + ran >= self.runs_s[attempt.spec.job]
        saved = first + int(ran // 1800) * 1800
        said = {"checkpoint": f"step-{saved}"} if saved > first else {}
        spec = self.snapshot.jobs[attempt.job].spec
        for rank in range(spec.ranks_per_node * spec.nodes):
            self.tell(attempt, rank, step=int(first + ran), **said, **(over if is_over else {}))


def test_projects_of_weights_one_two_and_four_come_to_their_shares_of_a_full_fleet() -> None:
    weights = {ONE: 1.0, TWO: 2.0, THREE: 4.0}
    world = Field(7, 2, 1, *(quota(place, weight=weight) for place, weight in weights.items()))

    def fill() -> None:
        for project in weights:
            waiting = [each for each in world.snapshot.open_jobs if each.project == project]
            for _ in range(16 - len(waiting)):
                world.submit(project, world.chance.uniform(1, 3) * HOUR_S)

    for hour in range(9):
        fill()
        world.go_on(HOUR_S, 300.0)
        if hour == 2:
            world.had_s.clear()
    assert world.had_s.total() >= 0.95 * 14 * 6 * HOUR_S, "nothing lies idle"
    for project, weight in weights.items():
        part = world.had_s[project] / world.had_s.total()
        assert part >= (1 - RULE.budget - 0.03) * weight / 7, project


def test_a_project_with_thousandfold_the_jobs_takes_nobodys_share() -> None:
    world = Field(4, 2, 2)
    for _ in range(200):
        world.submit(ONE, 600.0)
    world.submit(TWO, 2 * HOUR_S, 4)
    world.go_on(HOUR_S)
    assert [a.project for a in world.snapshot.living].count(TWO) == 1
    assert all(count <= 4 for name, count in world.waits.items() if name == "j200")


def shuffled(world: Field) -> Snapshot:
    """Return the same world, all that is known of it in another order."""

    def turned(known: Mapping[Any, Any]) -> dict[Any, Any]:
        return dict(world.chance.sample(list(known.items()), len(known)))

    now = world.snapshot
    seen = replace(now.seen, processes=turned(now.seen.processes), places=turned(now.seen.places))
    return replace(now, kept=turned({k: turned(v) for k, v in now.kept.items()}), seen=seen)


def older(world: Field, made: Job, waited_s: float) -> Ref:
    """Let a job have been in line for so long."""
    line = InLine(queue="nvidia-h100", since=world.now - waited_s, waited_s=waited_s, size=8.0)
    world.put(world.snapshot.jobs[made.ref].with_status(line=line))
    return made.ref


@pytest.mark.parametrize("seed", [0, 3])
def test_whatever_comes_nobody_waits_for_ever_no_gang_for_another_and_nobody_is_chased(
    seed: int,
) -> None:
    """Two gangs of which only one has room at a time, and a small job, have waited for days."""
    world = Field(4, 3, seed)
    chance = world.chance
    for _ in range(8):
        world.submit(TWO, chance.uniform(2, 9) * HOUR_S, chance.choice((1, 2)))
    world.go_on(600)
    made = [world.submit(ONE, HOUR_S, 4, nodes=3), world.submit(THREE, HOUR_S, 4, nodes=2),
            world.submit(ONE, HOUR_S)]  # fmt: skip
    left = {older(world, each, RULE.aged_full_s - 3 * HOUR_S) for each in made}
    for hour in range(8):
        for _ in range(chance.randrange(2, 5)):
            world.submit(chance.choice((ONE, TWO, THREE)), chance.uniform(0.5, 5) * HOUR_S,
                         chance.choice((1, 1, 2, 4)))  # fmt: skip
        world.go_on(HOUR_S, 600.0)
        if hour % 5 == 0:
            planned = plan(world.snapshot, world.memo)
            assert plan(shuffled(world), Memo()) == planned
            assert plan(assume(world.snapshot, planned)).actions == ()
        left = {ref for ref in left if not world.snapshot.jobs[ref].status.ended_at}
        if not left:
            break
    assert not left, "within five hours from when age counts in full"
    are_seldom_asked(world)


def are_seldom_asked(world: Field) -> None:
    """Nobody makes room more than three times an hour, and no two swap there and back again."""
    names = {mark_of(each): each.name for each in world.snapshot.jobs.values()}
    asked: dict[str, list[float]] = {}
    swaps: dict[frozenset[str], list[float]] = {}
    for attempt in world.snapshot.attempts.values():
        if attempt.status.room_for and attempt.status.ended_at:
            pair = frozenset({attempt.spec.job, names[attempt.status.room_for]})
            asked.setdefault(attempt.spec.job, []).append(attempt.status.ended_at)
            swaps.setdefault(pair, []).append(attempt.status.ended_at)
    for most, found in ((PER_HOUR_MAX, asked), (2, swaps)):
        for times in found.values():
            times.sort()
            for first, later in zip(times, times[most:], strict=False):
                assert later - first >= HOUR_S - 1
