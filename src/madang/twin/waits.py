"""What a replay of a queue tells: how long jobs took and waited, and who went short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from madang.answers import Json
from madang.errors import Rejected
from madang.planning.share.line import Floats
from madang.planning.share.rule import HOUR_S, RULE, Rule
from madang.twin.disciplines import NAMES, discipline
from madang.twin.jobs import Asked
from madang.twin.queue import Queue, Yard, play

Tell = Callable[[str, int, int], None]
"""Of a policy, jobs that ended so far, and in all."""


def compare(
    jobs: Sequence[Asked], yard: Yard, policies: Sequence[str], tell: Tell,
    budget: float = RULE.budget,
) -> dict[str, Json]:  # fmt: skip
    """Play the same jobs by each policy, and return the figures of each by its name."""
    return {name: told(queue) for name, queue in played(jobs, yard, policies, tell, budget)}


def played(
    jobs: Sequence[Asked], yard: Yard, policies: Sequence[str], tell: Tell,
    budget: float = RULE.budget,
) -> Iterator[tuple[str, Queue]]:  # fmt: skip
    """Play the same jobs by each policy; none of ours is told how long anything runs."""
    for name in policies or ("",):
        if name not in NAMES:
            raise Rejected("twin.no-such-policy", subject=name, known=", ".join(NAMES))
    projects = len({job.project for job in jobs if 0 < job.size <= yard.capacity})
    rule: Rule = replace(RULE, budget=budget)

    def one(name: str) -> Queue:
        chosen = discipline(name, projects, rule)
        return play(jobs, yard, chosen, lambda done, total: tell(name, done, total))

    yield from ((name, one(name)) for name in policies)


def waits_h(queue: Queue) -> Floats:
    """Return how long each job waited, in hours, the least first."""
    found: Floats = np.sort((queue.ended_s - queue.came_s - queue.runs_s) / HOUR_S)
    return found


def told(queue: Queue) -> Json:
    """Return the figures of one replay; hours, and parts of one.

    A wait is all the time that a job took above what it would have taken alone: work that was done
    twice and coming back are in it. `unfair` is what projects had less than their shares (of what
    all could use at each instant, by water-filling), as a part of what these came to, and
    `worst_project` the same of the project that lost most. `utilisation` is up to the last arrival.
    """
    took_s = queue.ended_s - queue.came_s
    wait_s = took_s - queue.runs_s
    tally = queue.tally
    work = float((queue.runs_s * queue.size).sum())
    window = float(queue.came_s[-1]) * queue.yard.capacity
    short = tally.short / np.maximum(tally.entitled, 1e-9)
    return {
        "mean_jct_h": _hours(float(took_s.mean())),
        "p95_jct_h": _hours(float(np.percentile(took_s, 95))),
        "p95_wait_h": _hours(float(np.percentile(wait_s, 95))),
        "p99_wait_h": _hours(float(np.percentile(wait_s, 99))),
        "max_wait_h": _hours(float(wait_s.max())),
        "unfair": round(float(tally.short.sum() / max(tally.entitled.sum(), 1e-9)), 4),
        "worst_project": round(float(short.max()), 4),
        "preemptions": tally.stops,
        "redone_share": round(tally.redone / work, 5),
        "utilisation": round(tally.used / window, 4) if window else None,
        "load": round(work / window, 3) if window else None,
        "jobs": len(queue.sizes),
        "left_out": tally.left_out,
    }


def _hours(seconds: float) -> float:
    return round(seconds / HOUR_S, 3)
