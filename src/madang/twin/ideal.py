"""An ideal world on a virtual clock: plans are done, engines start and pass their gates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from madang.planning.action import (
    Discard,
    Effect,
    Halt,
    Launch,
    Plan,
    Record,
    Reprice,
    RunGate,
    Start,
    Stop,
    Warn,
)
from madang.planning.ages import watched
from madang.planning.attempts.blame import LATER
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.reprice import reprice
from madang.planning.snapshot import Probed, Snapshot
from madang.resources.attempt import member_uid
from madang.resources.holding import Holding
from madang.resources.job import CHECKPOINTS_KEPT, Checkpoint
from madang.resources.resource import AnyResource, Ref
from madang.resources.revision import Build, Check, Verdict
from madang.supervisor.protocol import Process, Rank

QUIET_TURNS_MAX = 200
"""Turns without an end mean that two rules chase each other."""
LOOK_S = 5.0
"""Time passes in such steps while nothing is due."""


class Ideal:
    """A snapshot that plans are done to. Orders reach every node that is in sight, at once."""

    passes = True
    """Whether gates let builds pass."""

    def __init__(self, snapshot: Snapshot, *, load_s: float = 0.0) -> None:
        self.snapshot = snapshot
        self.load_s = load_s
        """How long an engine takes to start."""
        self.memo = Memo()
        self._begun_s: dict[tuple[str, int], float] = {}
        """When each start of this world was carried out, on its steady clock."""

    @property
    def now(self) -> float:
        """Virtual Unix seconds."""
        return self.snapshot.now

    def turn(self) -> Plan:
        """Plan once and carry it out."""
        planned = self.intend()
        self.carry_out(planned)
        return planned

    def intend(self) -> Plan:
        """Plan once and write down what is intended; nothing is done yet."""
        planned = plan(self.snapshot, self.memo)
        self._store(*planned.intent())
        return planned

    def carry_out(self, planned: Plan) -> None:
        """Do what is intended."""
        for action in planned.effects():
            match action.effect:
                case Start(ref):
                    self._start(ref)
                case Stop() as stop:
                    self._stop(stop)
                case RunGate(build, _):
                    self._judge(build)
                case Reprice(question):
                    self._see(outlook=reprice(question), thought_at=self.snapshot.steady_s)
                case effect:
                    self._of_job(effect)

    def _of_job(self, effect: Effect | None) -> None:
        """Do what is intended with a job."""
        match effect:
            case Launch(ref):
                self._launch(ref)
            case Warn(orders):
                for stop in orders:
                    self._leave(stop)
            case Halt(orders, _):
                for stop in orders:
                    self._stop(stop)
            case Record() as record:
                self._keep(record)
            case Discard(job):
                own = (a for a in self.snapshot.attempts.values() if a.job == job)
                self._store((), [*own, self.snapshot.jobs[job]])
            case _:
                pass

    def settle(self, seconds: float = 60.0) -> int:
        """Turn until nothing is planned for that long; return how many actions it took.

        What is said to be due soon, again and again, and never comes, is waited for longer each
        time.
        """
        actions, idle_s, until = 0, 1.0, self.now + seconds
        for _ in range(QUIET_TURNS_MAX):
            planned = self.turn()
            actions += len(planned.actions)
            if planned.actions:
                idle_s = 1.0
            elif self.now >= until:
                return actions
            else:
                due_s = LOOK_S if planned.wake_s is None else planned.wake_s
                self.wait(min(max(due_s, idle_s), until - self.now + 1.0))
                idle_s *= 2
        raise AssertionError(f"not quiet after {QUIET_TURNS_MAX} turns: {self.turn()}")

    def wait(self, seconds: float) -> None:
        """Let time pass: engines that have loaded announce themselves and answer."""
        now, steady_s = self.now + seconds, self.snapshot.steady_s + seconds
        processes = dict(self.snapshot.seen.processes)
        probed = dict(self.snapshot.seen.probed)
        for uid, process in processes.items():
            age_s = steady_s - self._begun_s.get((uid, process.epoch), steady_s - self.load_s)
            is_loaded = process.state == "running" and age_s >= self.load_s
            if is_loaded and process.announced is None:
                processes[uid] = replace(process, announced={"url": f"http://{uid}"})
                probed[uid, process.epoch] = Probed(healthy=True)
        self._see(processes=processes, probed=probed)
        self.snapshot = replace(self.snapshot, now=now, steady_s=steady_s)

    def _see(self, **seen: Any) -> None:
        """Change what is seen."""
        self.snapshot = replace(self.snapshot, seen=replace(self.snapshot.seen, **seen))

    def _store(self, changed: Iterable[AnyResource], gone: Iterable[AnyResource] = ()) -> None:
        """Do what a store does: refuse what was planned from an older version."""
        changed, gone = tuple(changed), tuple(gone)
        for resource in (*changed, *gone):
            known = self.snapshot.kept.get(resource.kind, {}).get(resource.ref)
            assert known is None or known.resource_version == resource.resource_version, resource
        ages = watched(self.snapshot.ages, changed, gone, self.snapshot.steady_s)
        stored = (
            r.model_copy(update={"resource_version": r.resource_version + 1}) for r in changed
        )
        self.snapshot = replace(self.snapshot.after(stored, gone), ages=ages)

    def _reaches(self, node: str, uid: str) -> bool:  # noqa: ARG002 - for worlds that are not ideal
        """Tell whether an order about that uid reaches its node."""
        return node in self.snapshot.seen.nodes

    def _start(self, ref: Ref) -> None:
        replica = self.snapshot.replicas[ref]
        self._run(replica.uid, replica.status.epoch, replica.status)

    def _launch(self, ref: Ref) -> None:
        """Start every rank of a gang."""
        attempt = self.snapshot.attempts[ref]
        count = self.snapshot.jobs[Ref(ref.project, attempt.spec.job)].spec.ranks_per_node
        for member, place in enumerate(attempt.status.places):
            ranks = tuple(Rank(member * count + local, pid=1) for local in range(count))
            self._run(member_uid(attempt, member), attempt.spec.number, place, ranks)

    def _run(self, uid: str, epoch: int, held: Holding, ranks: tuple[Rank, ...] = ()) -> None:
        seen = self.snapshot.seen
        running = seen.processes.get(uid)
        is_known = running is not None and running.epoch >= epoch
        if is_known or not self._reaches(held.node, uid):
            return
        self._begun_s[uid, epoch] = self.snapshot.steady_s
        process = Process(
            uid=uid, epoch=epoch, state="running", pid=1, started_at=self.now,
            accelerators=held.accelerators, ranks=ranks,
        )  # fmt: skip
        self._see(
            processes={**seen.processes, uid: process}, places={**seen.places, uid: held.node}
        )

    def _keep(self, record: Record) -> None:
        """Find the checkpoint that an attempt claims good; its name ends in its step."""
        job, attempt = self.snapshot.jobs[record.job], self.snapshot.attempts[record.attempt]
        name = attempt.status.claim
        step = int(name.rpartition("-")[2])
        found = Checkpoint(
            name=name, step=step, attempt=attempt.spec.number, digest="", size_bytes=1, at=self.now
        )
        kept = (*job.status.checkpoints, found)[-CHECKPOINTS_KEPT:]
        self._store([job.with_status(checkpoints=kept, step=max(job.status.step, step))])

    def _stop(self, stop: Stop) -> None:
        if not self._reaches(stop.node, stop.uid):
            return
        seen = self.snapshot.seen
        left = {u: p for u, p in seen.processes.items() if u != stop.uid or p.epoch > stop.epoch}
        self._see(processes=left, fenced=seen.fenced | {(stop.uid, stop.epoch)})

    def _leave(self, stop: Stop) -> None:
        """Let every rank save after its last step, and end as one that was asked to."""
        seen = self.snapshot.seen
        process = seen.processes.get(stop.uid)
        if process is None or process.epoch != stop.epoch or not self._reaches(stop.node, stop.uid):
            return
        ranks = tuple(
            replace(
                rank, pid=0, exit_code=LATER, ended_at=self.now,
                checkpoint=f"step-{rank.step}" if rank.step > 0 else rank.checkpoint,
            )
            for rank in process.ranks
        )  # fmt: skip
        ended = replace(process, state="exited", pid=0, exit_code=LATER, ranks=ranks)
        self._see(processes={**seen.processes, stop.uid: ended})

    def _judge(self, ref: Ref) -> None:
        build = self.snapshot.get(Build, ref)
        if build is None:
            return
        verdict = Verdict.PASSED if self.passes else Verdict.FAILED
        check = Check(name="smoke.answers", passed=self.passes, seconds=0.1, detail="")
        self._store([build.with_status(verdict=verdict, judged_at=self.now, checks=(check,))])
