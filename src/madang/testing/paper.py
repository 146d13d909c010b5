"""A world on paper: carries out plans on a virtual clock, so that whole lives fit in a test."""

from __future__ import annotations

from dataclasses import replace

from madang.planning.action import Plan, RunGate, Start, Stop
from madang.planning.ages import watched
from madang.planning.ground import Memo
from madang.planning.plan import plan
from madang.planning.snapshot import Probed, Snapshot
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource, Ref
from madang.resources.revision import Build, Check, Verdict
from madang.supervisor.protocol import Process

QUIET_TURNS_MAX = 200


class Paper:
    """A snapshot that plans are done to. Engines start in `load_s` and pass their gate."""

    def __init__(self, snapshot: Snapshot, *, load_s: float = 1.0, passes: bool = True) -> None:
        self.snapshot = snapshot
        self.load_s = load_s
        self.passes = passes
        self.memo = Memo()
        self.done: list[Plan] = []
        self.deaf: set[str] = set()
        """Uids whose orders get lost."""
        self._revision = 1

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
        self.done.append(planned)
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
                case _:
                    pass

    def settle(self, seconds: float = 60.0) -> int:
        """Turn until nothing is planned for that long; return how many actions it took."""
        actions = 0
        until = self.now + seconds
        for _ in range(QUIET_TURNS_MAX):
            planned = self.turn()
            actions += len(planned.actions)
            if not planned.actions:
                if self.now >= until:
                    return actions
                due_s = 5.0 if planned.wake_s is None else planned.wake_s
                self.wait(min(max(due_s, 1.0), until - self.now + 1.0))
        raise AssertionError(f"not quiet after {QUIET_TURNS_MAX} turns: {self.done[-1]}")

    def wait(self, seconds: float) -> None:
        """Let time pass: engines that have loaded announce themselves and answer."""
        now, steady_s = self.now + seconds, self.snapshot.steady_s + seconds
        processes = dict(self.snapshot.seen.processes)
        probed = dict(self.snapshot.seen.probed)
        for uid, process in processes.items():
            loaded = process.state == "running" and steady_s - process.started_at >= self.load_s
            if loaded and process.announced is None:
                processes[uid] = replace(process, announced={"url": f"http://{uid}"})
                probed[uid, process.epoch] = Probed(healthy=True)
        self._see(processes=processes, probed=probed)
        self.snapshot = replace(self.snapshot, now=now, steady_s=steady_s)

    def leap(self, seconds: float) -> None:
        """Set the wall clock; no time passes."""
        self.snapshot = replace(self.snapshot, now=self.now + seconds)

    def kill(self, uid: str, exit_code: int = -9) -> None:
        """End a process."""
        ended = replace(
            self.snapshot.seen.processes[uid], state="exited", exit_code=exit_code, announced=None
        )
        self._see(processes={**self.snapshot.seen.processes, uid: ended})

    def lose(self, node: str) -> None:
        """Take a node out of sight, with what runs there."""
        self._see(nodes=self.snapshot.seen.nodes - {node})

    def find(self, node: str) -> None:
        """Bring a node back into sight."""
        self._see(nodes=self.snapshot.seen.nodes | {node})

    def put(self, *resources: AnyResource) -> None:
        """Write resources, as people do."""
        self._store(resources, ())

    def replicas(self, service: str) -> list[Replica]:
        """Return a service's replicas by name."""
        own = (r for r in self.snapshot.replicas.values() if r.spec.service == service)
        return sorted(own, key=lambda r: r.name)

    def _see(self, **seen: object) -> None:
        changed = replace(self.snapshot.seen, **seen)  # type: ignore[arg-type]
        self.snapshot = replace(self.snapshot, seen=changed)

    def _store(self, changed: tuple[AnyResource, ...], gone: tuple[AnyResource, ...]) -> None:
        """Do what a store does: refuse what was planned from an older version."""
        self._revision += 1
        for resource in (*changed, *gone):
            known = self.snapshot.kept.get(resource.kind, {}).get(resource.ref)
            assert known is None or known.resource_version == resource.resource_version, resource
        stamp = {"resource_version": self._revision}
        ages = watched(self.snapshot.ages, changed, gone, self.snapshot.steady_s)
        stored = self.snapshot.after([r.model_copy(update=stamp) for r in changed], gone)
        self.snapshot = replace(stored, ages=ages)

    def _start(self, ref: Ref) -> None:
        replica = self.snapshot.replicas[ref]
        if replica.uid in self.deaf:
            return
        running = self.snapshot.seen.processes.get(replica.uid)
        if running and running.epoch >= replica.status.epoch:
            return
        process = Process(
            uid=replica.uid, epoch=replica.status.epoch, state="running", pid=1,
            started_at=self.snapshot.steady_s, accelerators=replica.status.accelerators,
        )  # fmt: skip
        places = {**self.snapshot.seen.places, replica.uid: replica.status.node}
        processes = {**self.snapshot.seen.processes, replica.uid: process}
        self._see(processes=processes, places=places)

    def _stop(self, stop: Stop) -> None:
        uid, epoch = stop.uid, stop.epoch
        processes = dict(self.snapshot.seen.processes)
        if uid in self.deaf:
            return
        if uid in processes and processes[uid].epoch <= epoch:
            del processes[uid]
        self._see(processes=processes, fenced=self.snapshot.seen.fenced | {(uid, epoch)})

    def _judge(self, ref: Ref) -> None:
        build = self.snapshot.get(Build, ref)
        if build is None:
            return
        verdict = Verdict.PASSED if self.passes else Verdict.FAILED
        check = Check(name="smoke.answers", passed=self.passes, seconds=0.1, detail="")
        judged = build.with_status(verdict=verdict, judged_at=self.now, checks=(check,))
        self._store((judged,), ())
