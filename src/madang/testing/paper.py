"""A world on paper, where things go wrong: whole lives fit in a test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from madang.planning.action import Plan
from madang.planning.health.fitness import maker_of
from madang.planning.snapshot import Snapshot, rank_key
from madang.resources.attempt import Attempt, member_uid
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource, Ref
from madang.symptoms import Symptoms, Watch
from madang.twin.ideal import Ideal


class Paper(Ideal):
    """The twin's world, in which engines die, nodes vanish and orders get lost."""

    def __init__(self, snapshot: Snapshot, *, load_s: float = 1.0, passes: bool = True) -> None:
        super().__init__(snapshot, load_s=load_s)
        self.passes = passes
        self.done: list[Plan] = []
        self.deaf: set[str] = set()
        """Uids whose orders get lost."""
        self._marks = 0
        """Of lines in the kernels' logs."""

    def intend(self) -> Plan:
        """Plan once and write down what is intended; nothing is done yet."""
        self.done.append(super().intend())
        return self.done[-1]

    def tell(self, attempt: Attempt, rank: int, **said: Any) -> None:
        """Let a rank say something of itself, or end: by the fields of `Rank`."""
        for member in range(len(attempt.status.places)):
            uid = member_uid(attempt, member)
            process = self.snapshot.seen.processes.get(uid)
            if process is None:
                continue
            ranks = tuple(replace(r, **said) if r.rank == rank else r for r in process.ranks)
            is_over = all(r.exit_code is not None for r in ranks)
            state = "exited" if is_over else process.state
            changed = replace(process, ranks=ranks, state=state)
            self._see(processes={**self.snapshot.seen.processes, uid: changed})

    def print(self, attempt: Attempt, rank: int, *lines: str) -> None:
        """Let a rank have printed its last lines."""
        for member in range(len(attempt.status.places)):
            key = rank_key(member_uid(attempt, member), rank)
            self._see(lines={**self.snapshot.seen.lines, key: lines})

    def forget(self, attempt: Attempt) -> None:
        """Let all processes of an attempt be gone, and known to be."""
        own = {member_uid(attempt, member) for member in range(len(attempt.status.places))}
        seen, number = self.snapshot.seen, attempt.spec.number
        left = {uid: p for uid, p in seen.processes.items() if uid not in own}
        self._see(processes=left, fenced=seen.fenced | {(uid, number) for uid in own})

    def attempts(self, job: str) -> list[Attempt]:
        """Return a job's attempts, oldest first."""
        own = (a for a in self.snapshot.attempts.values() if a.spec.job == job)
        return sorted(own, key=lambda attempt: attempt.spec.number)

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

    def show(self, accelerator: str, **symptoms: Any) -> None:
        """Let an accelerator show something, from now on; its node is watched from then."""
        found = self.snapshot.accelerators[Ref("", accelerator)].spec
        watch = self._watch(found.node)
        shown = replace(watch.devices.get(found.device, Symptoms()), **symptoms)
        self._hear(found.node, replace(watch, devices={**watch.devices, found.device: shown}))

    def log(self, accelerator: str, xid: int) -> None:
        """Let the kernel of its node log an XID of an accelerator."""
        found = self.snapshot.accelerators[Ref("", accelerator)].spec
        shown = self._watch(found.node).devices.get(found.device, Symptoms())
        self._marks += 1
        self.show(accelerator, xids=(*shown.xids, (xid, self._marks)))

    def drop(self, accelerator: str) -> None:
        """Let the tool of its node list an accelerator no more."""
        found = self.snapshot.accelerators[Ref("", accelerator)].spec
        watch = self._watch(found.node)
        left = {name: s for name, s in watch.devices.items() if name != found.device}
        self._hear(found.node, replace(watch, devices=left))

    def answer(self, node: str, cause: str = "") -> None:
        """Let the tools of a node answer, or fail, or hang."""
        watch = self._watch(node)
        self._hear(node, replace(watch, tools=dict.fromkeys(watch.tools, cause)))

    def _watch(self, node: str) -> Watch:
        """Return what a node tells; at first that everything there is well."""
        known = self.snapshot.seen.watches.get(node)
        if known is not None:
            return known
        own = [a for a in self.snapshot.accelerators.values() if a.spec.node == node]
        tools = {maker_of(each): "" for each in own}
        devices = {a.spec.device: Symptoms(serial=f"sn-{a.name}") for a in own}
        return Watch("boot-1", tools, devices)

    def _hear(self, node: str, watch: Watch) -> None:
        self._see(watches={**self.snapshot.seen.watches, node: watch})

    def put(self, *resources: AnyResource) -> None:
        """Write resources, as people do."""
        self._store(resources)

    def replicas(self, service: str) -> list[Replica]:
        """Return a service's replicas by name."""
        own = (r for r in self.snapshot.replicas.values() if r.spec.service == service)
        return sorted(own, key=lambda r: r.name)

    def _reaches(self, node: str, uid: str) -> bool:  # noqa: ARG002 - out of sight, not out of reach
        return uid not in self.deaf
