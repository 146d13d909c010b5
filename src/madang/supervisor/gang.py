"""A member of a gang, seen from its supervisor: what its leader is told, and what that reports."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from madang.supervisor import leader, processes
from madang.supervisor.logring import RankLog
from madang.supervisor.protocol import LaunchPlan, Rank

PIPE_BYTES = 256 << 10
"""So much a rank may print while nobody listens; the kernel may grant less."""
RINGS_OF_A_GANG = 4
"""Its ranks share the disk that so many plain processes have, however many they are."""
REPORT_BYTES_MAX = 4096
Take = Callable[[bytes], object]


class Gang:
    """The ranks of one plan: how each is, and what each prints."""

    def __init__(self, plan: LaunchPlan, ring_bytes: int) -> None:
        self._plan = plan
        self._ranks = {each.rank: Rank(each.rank) for each in plan.ranks}
        self._log_bytes = RINGS_OF_A_GANG * ring_bytes // len(plan.ranks)
        self._logs: dict[int, RankLog] = {}
        self._heard = b""

    def ranks(self) -> tuple[Rank, ...]:
        """Return how each of them is now."""
        return tuple(self._ranks.values())

    def spawn(self, enlist: Callable[[int], None]) -> tuple[int, int, int, list[tuple[int, Take]]]:
        """Start the leader; return its pid, its output, its report pipe, and the ranks' outputs.

        These are reading ends, each of the last with what takes it. As `processes.spawn` else.
        """
        argv = (sys.executable, "-I", "-S", leader.__file__)
        outputs: list[int] = []
        given = [_memory_file(self._orders())]
        try:
            for _ in self._ranks:
                pipe = os.pipe()
                outputs.append(pipe[0])
                given.append(pipe[1])
                with suppress(OSError):  # an ordinary user may have so much of all pipes together
                    fcntl.fcntl(pipe[0], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            plan = replace(self._plan, argv=argv, env={})
            pid, output, told = processes.spawn(plan, enlist, tuple(given))
        except OSError:
            for end in outputs:
                os.close(end)
            raise
        finally:
            for end in given:
                os.close(end)
        self._logs = {rank: RankLog(self._plan.uid, rank, self._log_bytes) for rank in self._ranks}
        takes = [log.write for log in self._logs.values()]
        return pid, output, told, list(zip(outputs, takes, strict=True))

    def hear(self, chunk: bytes) -> bool:
        """Take what the leader reports; true when a rank has ended.

        Whoever may look into the leader may also write here: nothing but that is believed.
        """
        *lines, rest = (self._heard + chunk).split(b"\n")
        self._heard = rest[:REPORT_BYTES_MAX]
        ends = [self._note(line) for line in lines]
        return any(ends)

    def lose(self) -> None:
        """The leader has ended, and with it whoever it did not report."""
        for number, rank in self._ranks.items():
            if rank.exit_code is None:
                self._ranks[number] = replace(rank, pid=0, exit_code=-9, ended_at=time.time())
        for log in self._logs.values():
            log.write(b"")

    def _note(self, line: bytes) -> bool:
        said: Any = None
        with suppress(ValueError, RecursionError):
            said = json.loads(line)
        match said:
            case {"rank": int(number), "pid": int(pid)} if self._awaits(number):
                self._ranks[number] = replace(self._ranks[number], pid=pid)
            case {"rank": int(number), "exit_code": int(code), "ended_at": float(at)} if (
                self._awaits(number) and 0 < at < 1e11
            ):
                error = str(said.get("error", ""))[:200]
                ended = replace(self._ranks[number], pid=0, exit_code=code, error=error)
                self._ranks[number] = replace(ended, ended_at=at)
                if error and number in self._logs:
                    self._logs[number].write(f"[cannot start: {error}]\n".encode())
                return True
        return False

    def _awaits(self, number: int) -> bool:
        """Tell whether something may still be reported of that rank."""
        return number in self._ranks and self._ranks[number].exit_code is None

    def _orders(self) -> bytes:
        """Write what the leader is told: here, because others may read arguments."""
        mark = {processes.MARK: processes.mark(self._plan.uid, self._plan.epoch)}
        ranks = [
            {"rank": each.rank, "env": {**self._plan.env, **each.env, **mark}}
            for each in self._plan.ranks
        ]
        orders = {"argv": self._plan.argv, "ranks": ranks, "parent": os.getpid()}
        return json.dumps(orders).encode()


def _memory_file(content: bytes) -> int:
    """Return a file that has no name, to be read from its start."""
    file = os.memfd_create("orders")
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(content)
        os.lseek(file, 0, os.SEEK_SET)
    except OSError:
        os.close(file)
        raise
    return file
