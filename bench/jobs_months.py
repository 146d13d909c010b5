"""Simulated months of a gang of 512 accelerators that fail as such do, decided by planning itself.

The twin's world on a virtual clock: ranks step, save and die here; that one has died, what follows,
when the next attempt starts and from where are planning's own plans, and how often to save is what
control tells a rank. A rank that dies is found late, as one that hangs.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import sys
from collections.abc import Iterable

from madang.planning.cadence import gang_mtbf_s, interval_s
from madang.resources.attempt import Attempt, AttemptPhase
from madang.resources.job import Job
from madang.resources.resource import AnyResource, Ref
from madang.testing.builders import PROJECT, job, node, snapshot
from madang.testing.paper import Paper
from rows import Row

NODES, EACH = 8, 64
ACCELERATORS = NODES * EACH
"""On paper each node has one that stands for 64: it fails as often as these do, and what planning
decides of it is the same."""
MTBF_S = 50_000 * 3600.0
"""Of one accelerator."""
SAVE_S, RESTART_S, FOUND_S = 30.0, 120.0, 60.0
STEP_S = 10.0
MONTH_S = 30 * 86_400.0
SEEDS = 40
PEER_S, PEER_PART = 1800.0, 4
"""A checkpoint every half an hour, as many set it by hand; in one of so many months."""
FLOOR = 98.0


class Month(Paper):
    """One job in its world."""

    def __init__(self, seed: int, every_s: float) -> None:
        asked = {"accelerator": "nvidia", "count": 1}
        gang = job(nodes=NODES, ranks=1, needs=asked, resume={"attempts": 1000})
        super().__init__(snapshot(*(node(f"n{i}", cards=1) for i in range(NODES)), gang))
        self._fixed_s = every_s
        """Between two checkpoints; 0: as control says."""
        self._chance = random.Random(seed)
        self._fails_at = self.now + self._chance.expovariate(ACCELERATORS / MTBF_S)
        self.faults = 0

    def run(self) -> float:
        """Return the percentage of a month that was work which lasts."""
        began = self.now
        self._quiet()
        while self.now < began + MONTH_S:
            self._live(self.newest, began + MONTH_S)
        saved = self.state.status.checkpoints
        return 100 * (saved[-1].step if saved else 0) * STEP_S / (self.now - began)

    @property
    def state(self) -> Job:
        """The job."""
        return self.snapshot.jobs[Ref(PROJECT, "train")]

    @property
    def newest(self) -> Attempt:
        """Its newest attempt."""
        return self.attempts("train")[-1]

    def every_s(self) -> float:
        """Return how often to save: what a rank is told by control, or by hand."""
        newest = self.state.status.checkpoints
        write_s = newest[-1].write_s if newest else 0.0
        return self._fixed_s or interval_s(write_s, gang_mtbf_s(ACCELERATORS))

    def _live(self, attempt: Attempt, end_at: float) -> None:
        """Let an attempt work and save until a rank fails."""
        every_s, step = self.every_s(), attempt.spec.first_step
        works_at = max(self.now, attempt.status.started_at + RESTART_S)
        while self.now < end_at:
            saved_at = works_at + every_s + SAVE_S
            if self._fails_at < saved_at:
                self._fail(attempt, step + self._done(works_at, self._fails_at))
                return
            self.wait(saved_at - self.now)
            step += self._done(works_at, saved_at - SAVE_S)
            self.tell(attempt, 0, step=step, step_s=STEP_S, checkpoint=f"step-{step}")
            self._quiet()
            works_at = saved_at

    def _done(self, since: float, until: float) -> int:
        return max(0, int((until - since) // STEP_S))

    def _fail(self, attempt: Attempt, step: int) -> None:
        """Let a rank fail, be found, and the next attempt start."""
        self.faults += 1
        self.wait(max(0.0, self._fails_at + FOUND_S - self.now))
        self._fails_at += self._chance.expovariate(ACCELERATORS / MTBF_S)
        self._fails_at = max(self._fails_at, self.now)
        self.tell(attempt, 0, step=step, step_s=STEP_S)
        rank = self._chance.randrange(NODES)
        self.tell(attempt, rank, exit_code=-6, ended_at=self.now, pid=0)
        running = AttemptPhase.RUNNING
        while self.newest.uid == attempt.uid or self.newest.status.phase is not running:
            if not self.turn().actions:
                self.wait(1.0)

    def _quiet(self) -> None:
        while self.turn().actions:
            pass

    def _store(self, changed: Iterable[AnyResource], gone: Iterable[AnyResource] = ()) -> None:
        """Note of each checkpoint how long it took to write, as its manifest says."""
        super()._store([_timed(each) for each in changed], gone)


def _timed(resource: AnyResource) -> AnyResource:
    if not isinstance(resource, Job) or not resource.status.checkpoints:
        return resource
    timed = tuple(c.model_copy(update={"write_s": SAVE_S}) for c in resource.status.checkpoints)
    saved: Job = resource.with_status(checkpoints=timed)
    return saved


def month(asked: tuple[int, float]) -> tuple[float, int]:
    """Return goodput in percent, and how many faults there were."""
    lived = Month(*asked)
    return lived.run(), lived.faults


def expected(every_s: float) -> float:
    """Return goodput in percent by the formula: saving, and what a fault costs on average."""
    mtbf_s = MTBF_S / ACCELERATORS
    fault_s = (every_s + SAVE_S) / 2 + FOUND_S + RESTART_S
    return 100 * every_s / (every_s + SAVE_S) * (1 - fault_s / mtbf_s)


def rows(seeds: int = SEEDS) -> list[Row]:
    """Return goodput as planning has it, beside a fixed interval."""
    asked = [(seed, 0.0) for seed in range(seeds)]
    asked += [(seed, PEER_S) for seed in range(0, seeds, PEER_PART)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(month, asked, chunksize=1)
    ours, theirs = [f[0] for f in found[:seeds]], [f[0] for f in found[seeds:]]
    mean, peer = statistics.mean(ours), statistics.mean(theirs)
    every_s = interval_s(SAVE_S, gang_mtbf_s(ACCELERATORS))
    more = {"lower_is_better": False}
    what = f"goodput of {ACCELERATORS} accelerators, {seeds} months"
    return [
        Row(what, round(mean, 2), "%", FLOOR, peer=f"every {PEER_S / 60:.0f} min",
            peer_value=round(peer, 2), ratio=round(mean / peer, 4), **more),
        Row("the worst of these months", round(min(ours), 2), "%",
            peer=f"every {PEER_S / 60:.0f} min", peer_value=round(min(theirs), 2), **more),
        Row(f"by the formula, every {every_s / 60:.0f} min", round(expected(every_s), 2), "%",
            peer=f"every {PEER_S / 60:.0f} min", peer_value=round(expected(PEER_S), 2), **more),
        Row("faults a month", round(statistics.mean(f[1] for f in found), 1), ""),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in rows(int(sys.argv[1]) if sys.argv[1:] else SEEDS):
        print(row)
