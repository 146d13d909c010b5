"""The queue in control, on a virtual clock: jobs on nodes, seeded, and what holds of shares."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from madang.planning.action import assume
from madang.planning.plan import plan
from madang.planning.queue.waiting import PER_HOUR_MAX
from madang.planning.share.rule import RULE
from madang.resources.attempt import AttemptPhase
from madang.resources.job import InLine, Job, JobPhase
from madang.testing.builders import job, node, quota, snapshot
from madang.testing.paper import Paper

pytestmark = pytest.mark.timeout(300)
ONE, TWO = "acme/one", "acme/two"
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
        for rank in range(8):
            self.tell(attempt, rank, step=int(first + ran), **said, **(over if is_over else {}))


def test_two_projects_of_weights_one_and_two_come_to_their_shares_of_a_full_fleet() -> None:
    world = Field(4, 4, 1, quota(TWO, weight=2.0))
    for project in (ONE, TWO):
        for _ in range(30):
            world.submit(project, world.chance.uniform(1, 4) * HOUR_S)
    world.go_on(2 * HOUR_S)
    world.had_s.clear()
    for _ in range(6):
        world.go_on(HOUR_S)
        for project in (ONE, TWO):
            waiting = [j for j in world.snapshot.open_jobs if j.project == project]
            for _ in range(30 - len(waiting)):
                world.submit(project, world.chance.uniform(1, 4) * HOUR_S)
    assert world.had_s.total() >= 0.95 * 16 * 6 * HOUR_S, "nothing lies idle"
    part = world.had_s[TWO] / world.had_s.total()
    assert (1 - RULE.budget - 0.03) * 2 / 3 <= part <= 0.72


def test_a_project_with_thousandfold_the_jobs_takes_nobodys_share() -> None:
    world = Field(4, 2, 2)
    for _ in range(200):
        world.submit(ONE, 600.0)
    world.submit(TWO, 2 * HOUR_S, 4)
    world.go_on(HOUR_S)
    assert [a.project for a in world.snapshot.living].count(TWO) == 1
    assert all(count <= 4 for name, count in world.waits.items() if name == "j200")


@pytest.mark.parametrize("seed", [0, 3])
def test_no_gang_starves_nobody_is_chased_and_a_plan_is_done_at_once(seed: int) -> None:
    world = Field(4, 3, seed)
    chance = world.chance
    for _ in range(8):
        world.submit(TWO, chance.uniform(2, 9) * HOUR_S, chance.choice((1, 2)))
    world.go_on(600)
    gang = world.submit(ONE, HOUR_S, 4, nodes=2)
    came = world.now - RULE.aged_full_s + 3 * HOUR_S
    line = InLine(queue="nvidia-h100", since=came, size=8.0)
    stored = world.snapshot.jobs[gang.ref]
    world.put(stored.model_copy(update={"status": stored.status.model_copy(update={"line": line})}))
    for hour in range(14):
        for _ in range(chance.randrange(2, 5)):
            world.submit(chance.choice((ONE, TWO)), chance.uniform(0.5, 5) * HOUR_S,
                         chance.choice((1, 1, 2, 4)))  # fmt: skip
        world.go_on(HOUR_S, 600.0)
        if hour % 5 == 0:
            assert plan(assume(world.snapshot, plan(world.snapshot))).actions == ()
        if world.snapshot.jobs[gang.ref].status.phase is JobPhase.SUCCEEDED:
            break
    ended_at = world.snapshot.jobs[gang.ref].status.ended_at
    assert ended_at is not None
    assert ended_at - came < RULE.aged_full_s + 6 * HOUR_S
    asked: dict[str, list[float]] = {}
    for attempt in world.snapshot.attempts.values():
        if attempt.status.room_for and attempt.status.ended_at:
            asked.setdefault(attempt.spec.job, []).append(attempt.status.ended_at)
    for times in asked.values():
        times.sort()
        for first, later in zip(times, times[PER_HOUR_MAX:], strict=False):
            assert later - first >= HOUR_S - 1
