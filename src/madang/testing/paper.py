"""A world on paper, where things go wrong: whole lives fit in a test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from madang.planning.action import Plan
from madang.planning.snapshot import Snapshot, rank_key
from madang.resources.attempt import Attempt, member_uid
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource
from madang.twin.ideal import Ideal


class Paper(Ideal):
    """The twin's world, in which engines die, nodes vanish and orders get lost."""

    def __init__(self, snapshot: Snapshot, *, load_s: float = 1.0, passes: bool = True) -> None:
        super().__init__(snapshot, load_s=load_s)
        self.passes = passes
        self.done: list[Plan] = []
        self.deaf: set[str] = set()
        """Uids whose orders get lost."""

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

    def put(self, *resources: AnyResource) -> None:
        """Write resources, as people do."""
        self._store(resources)

    def replicas(self, service: str) -> list[Replica]:
        """Return a service's replicas by name."""
        own = (r for r in self.snapshot.replicas.values() if r.spec.service == service)
        return sorted(own, key=lambda r: r.name)

    def _reaches(self, node: str, uid: str) -> bool:  # noqa: ARG002 - out of sight, not out of reach
        return uid not in self.deaf
