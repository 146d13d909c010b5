"""What the queue costs a turn of control: 10,000 jobs that wait, on the nodes of a public fleet.

A part of `make bench-queue`. What runs fills the fleet; what waits asks for 1 to 64 accelerators,
for 40 projects. Then a job ends, and control plans: the lanes, their shares and turns, who goes
where, who makes room, and what is kept of it. Cold: nothing is known from a turn before, as after
a start of control.
"""

from __future__ import annotations

import csv
import gc
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from madang.planning.action import assume
from madang.planning.jobs import plan_job, tasks
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.queue.queues import plan_queues
from madang.planning.queue.turns import plan_turns
from madang.planning.snapshot import Snapshot
from madang.resources.attempt import (
    Attempt,
    AttemptPhase,
    AttemptSpec,
    AttemptStatus,
    member_uid,
)
from madang.resources.holding import Holding
from madang.resources.job import Job, JobPhase
from madang.resources.place import (
    Accelerator,
    AcceleratorSpec,
    AcceleratorStatus,
    Node,
    NodePhase,
    NodeSpec,
    NodeStatus,
)
from madang.resources.resource import AnyResource
from madang.supervisor.protocol import Process, Rank
from madang.testing.builders import job, quota, snapshot
from openb import opened
from rows import Row

GB, MIB = 10**9, 2**20
MEMORY_GB = {"P100": 16, "T4": 16, "V100M16": 16, "V100M32": 32, "G2": 24, "G3": 80, "A10": 24}
WAITING, PROJECTS, NODES = 10_000, 40, 1_213
TURN_MS, TURNS = 300.0, 9
SIZES = ((1, 1), (1, 1), (1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 8))
"""Accelerators of a node, nodes."""


def fleet() -> Iterator[AnyResource]:
    """Return the nodes of the public fleet that have accelerators, and these."""
    for row in csv.DictReader(opened("node_list_gpu_node")):
        count = int(row["gpu"])
        kind = f"nvidia/{row['model'].lower()}" if count else "cpu"
        status = NodeStatus(
            phase=NodePhase.READY, cores=int(row["cpu_milli"]) / 1000,
            memory_bytes=int(row["memory_mib"]) * MIB,
        )  # fmt: skip
        name = row["sn"].removeprefix("openb-")
        yield Node(name=name, uid=f"node-{name}", spec=NodeSpec(pool="default"), status=status)
        for index in range(count):
            spec = AcceleratorSpec(
                node=name, accelerator=kind, memory_bytes=MEMORY_GB[row["model"]] * GB,
                device=str(index), shared=False,
            )  # fmt: skip
            yield Accelerator(name=f"{name}-{index}", uid=f"accelerator-{name}-{index}", spec=spec,
                              status=AcceleratorStatus())  # fmt: skip


def world(chance: random.Random) -> Snapshot:
    """Return the fleet, filled, with as many jobs as that waiting for a part of it."""
    hardware = list(fleet())
    made = snapshot(hardware, now=1e6)
    cards: dict[str, list[Accelerator]] = {}
    for each in made.accelerators.values():
        cards.setdefault(each.spec.node, []).append(each)
    jobs: list[AnyResource] = []
    attempts: list[AnyResource] = []
    for node, own in sorted(cards.items()):
        at = 0
        while at < len(own):
            took = own[at : at + chance.choice((1, 1, 2, 4, 8))]
            running, attempt = _running(len(jobs), node, took, chance)
            at += len(took)
            jobs.append(running)
            attempts.append(attempt)
    jobs.extend(_waiting(number, chance) for number in range(WAITING))
    return _seen(snapshot(hardware, jobs, attempts, now=1e6))


def _seen(made: Snapshot) -> Snapshot:
    """Let what runs be there."""
    processes, places = {}, {}
    for attempt in made.living:
        number = 0
        for member, place in enumerate(attempt.status.places):
            uid = member_uid(attempt, member)
            ranks = tuple(Rank(number + n, pid=1) for n in range(len(place.accelerators)))
            number += len(ranks)
            epoch = attempt.spec.number
            processes[uid] = Process(uid=uid, epoch=epoch, state="running", pid=1, ranks=ranks)
            places[uid] = place.node
    return replace(made, seen=replace(made.seen, processes=processes, places=places))


def _running(
    number: int, node: str, cards: list[Accelerator], chance: random.Random
) -> tuple[Job, Attempt]:
    began_at = 1e6 - chance.uniform(0, 3e5)
    needs = {"accelerator": cards[0].spec.accelerator, "count": len(cards)}
    name = f"runs-{number}"
    own = job(name, project=_project(chance), created_at=began_at, needs=needs).with_status(
        phase=JobPhase.RUNNING, attempt=1, since=began_at, began_at=began_at
    )
    place = Holding(node=node, accelerators=tuple(c.name for c in cards), whole=True)
    attempt = Attempt(
        project=own.project, name=f"{name}-1", uid=f"attempt-{name}", created_at=began_at,
        spec=AttemptSpec(job=name, number=1, accelerators=len(cards), save_every_s=3600.0),
        status=AttemptStatus(phase=AttemptPhase.RUNNING, places=(place,), since=began_at,
                             started_at=began_at, running_at=began_at),
    )  # fmt: skip
    return own, attempt


def _waiting(number: int, chance: random.Random) -> Job:
    count, nodes = chance.choice(SIZES)
    kind = chance.choice(("nvidia", "nvidia/g2", "nvidia/t4", "nvidia/g3"))
    needs = {"accelerator": kind, "count": min(count, 2) if kind == "nvidia/t4" else count}
    return job(f"waits-{number}", project=_project(chance), needs=needs, nodes=nodes,
               created_at=1e6 - chance.uniform(0, 4e5))  # fmt: skip


def _project(chance: random.Random) -> str:
    return f"org{chance.randrange(8)}/team{chance.randrange(PROJECTS // 8)}"


def measured() -> list[Row]:
    """Return what one turn costs of processor time, all of it and the queue's part."""
    now, memo, chance = world(random.Random(6)), Memo(), random.Random(7)
    assert len(now.nodes) == NODES
    parts, wholes, now = _turns(now, memo, chance)
    cold = _timed(lambda: _queue(now, Memo()))
    assert sum(each.status.phase is JobPhase.WAITING for each in now.open_jobs) > WAITING - 100
    limits = [quota(f"org{n}", accelerators={"nvidia": 2_000}) for n in range(8)]
    limited, _, _ = _turns(now.after(limits), memo, chance)
    where = f"{WAITING:,} jobs wait on {NODES:,} nodes, one has ended"
    unit = "ms of CPU"
    return [
        Row(f"the queue in a turn of control: {where}", _middle(parts), unit, TURN_MS),
        Row(f"the same, with a quota for each of 8 organizations: {where}", _middle(limited), unit),
        Row(f"the same, nothing known from before: {where}", round(cold, 1), unit),
        Row(f"all of a turn of control: {where}", _middle(wholes), unit),
    ]


def _turns(
    now: Snapshot, memo: Memo, chance: random.Random
) -> tuple[list[float], list[float], Snapshot]:
    """Return what turns cost after one job has ended: the queue, and all; and what is then."""
    parts, wholes = [], []
    for _ in range(3):
        now = _settled(now, memo)
    for _ in range(TURNS):
        now = _ended(now, chance)
        parts.append(_timed(partial(_queue, now, memo)))
        wholes.append(_timed(partial(plan, replace(now), memo)))
        now = _settled(now, memo)
    return parts, wholes, _ended(now, chance)


def _queue(now: Snapshot, memo: Memo) -> None:
    """Do what a turn does of the queue: who is next, who goes where, who makes room."""
    ground, order = memo.ground(now), memo.order(now)
    for task in tasks(now, ground, order):
        for action in plan_job(task, now, ground, order) if order.is_in(task.job) else ():
            for changed in action.writes:
                if isinstance(changed, Attempt):
                    ground.change_all((), changed.status.places)
    tuple(plan_turns(now, ground, order))
    tuple(plan_queues(now, order))


def _settled(now: Snapshot, memo: Memo) -> Snapshot:
    """Let what is planned be so, and a moment pass."""
    now = _seen(assume(now, plan(now, memo)))
    return replace(now, now=now.now + 5, steady_s=now.steady_s + 5)


def _ended(now: Snapshot, chance: random.Random) -> Snapshot:
    """Let one job that runs be gone, with what it had."""
    attempt = chance.choice([a for a in now.living if a.status.phase is AttemptPhase.RUNNING])
    return _seen(now.after((), (attempt, now.jobs[attempt.job])))


def _timed(work: Callable[[], object]) -> float:
    gc.collect()
    began_s = time.process_time()
    work()
    return 1000 * (time.process_time() - began_s)


def _middle(took: list[float]) -> float:
    return round(sorted(took)[len(took) // 2], 1)
