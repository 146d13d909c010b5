"""A member of a gang, seen from its supervisor: what its leader is told, and what that reports."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from madang.supervisor import leader, processes, sandbox
from madang.supervisor.logring import RankLog, tail
from madang.supervisor.progress import Pace, ProgressFile
from madang.supervisor.protocol import LaunchPlan, Rank, Sandbox

PIPE_BYTES = 256 << 10
"""So much a rank may print while nobody listens; the kernel may grant less."""
RINGS_OF_A_GANG = 4
"""Its ranks share the disk that so many plain processes have, however many they are."""
LOOK_S = 0.5
"""So often progress is looked at: what is stalled is found within twice this time."""
LOOK_SECONDS_MAX = 5.0
"""A look that comes later finds that the whole machine stood still, and blames nobody for it."""
REPORT_BYTES_MAX = 4096
STOP_FILE = "stop"
"""In the folder of progress."""
Take = Callable[[bytes], object]


class Gang:
    """The ranks of one plan: how each is, and what each prints."""

    def __init__(self, plan: LaunchPlan, ring_bytes: int) -> None:
        self._plan = plan
        self._ranks = {each.rank: Rank(each.rank) for each in plan.ranks}
        self._log_bytes = RINGS_OF_A_GANG * ring_bytes // len(plan.ranks)
        self._logs: dict[int, RankLog] = {}
        self._heard = b""
        self._paces = {rank: Pace() for rank in self._ranks}
        self._files = {rank: ProgressFile(self.progress_path(rank)) for rank in self._ranks}
        self._outer = self._leader = 0
        self._age_s = 0.0  # on a clock that stands still while nobody looks
        self._looked_at = 0.0

    def progress_path(self, rank: int) -> str:
        """Return where a rank tells of its progress; nowhere, if the plan has no folder for it."""
        return self._plan.progress and f"{self._plan.progress}/progress-{rank}.jsonl"

    def ranks(self) -> tuple[Rank, ...]:
        """Return how each of them is, as of the last look."""
        return tuple(
            replace(
                rank, step=pace.step, total=pace.total, step_s=float(f"{pace.step_s:.4g}"),
                phase=pace.phase, quiet_s=round(pace.quiet_s, 1), stalled=pace.stalled,
                metrics=dict(pace.metrics), checkpoint=pace.checkpoint, bad_lines=pace.bad_lines,
            )
            for rank, pace in zip(self._ranks.values(), self._paces.values(), strict=True)
        )  # fmt: skip

    def look(self, monotonic_s: float) -> bool:
        """See how each gets on; true for what control should know at once."""
        self._age_s += min(monotonic_s - self._looked_at, LOOK_SECONDS_MAX)
        self._looked_at = monotonic_s
        news = [self._look_at(number) for number, rank in self._ranks.items() if rank.pid]
        return any(news)

    def _look_at(self, number: int) -> bool:
        pace, rank = self._paces[number], self._ranks[number]
        news = pace.take(*self._files[number].read(), self._age_s)
        news = pace.judge(self._age_s, self._plan.patience) or news
        halted = pace.quiet_s > LOOK_S and processes.is_halted(rank.pid)
        self._ranks[number] = replace(rank, halted=halted)
        return news

    def spawn(self, enlist: Callable[[int], None]) -> tuple[int, int, int, list[tuple[int, Take]]]:
        """Start the leader; return its pid, its output, its report pipe, and the ranks' outputs.

        These are reading ends, each of the last with what takes it. As `processes.spawn` else.
        """
        if self._plan.progress:
            self._make_folder(self._plan.progress)
        self._logs = {rank: RankLog(self._plan.uid, rank, self._log_bytes) for rank in self._ranks}
        outputs: list[int] = []
        given = [_memory_file(self._orders())]
        try:
            for _ in self._ranks:
                pipe = os.pipe()
                outputs.append(pipe[0])
                given.append(pipe[1])
                with suppress(OSError):  # an ordinary user may have so much of all pipes together
                    fcntl.fcntl(pipe[0], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            cwd = "/" if self._plan.sandbox else self._plan.cwd  # there its own is not yet seen
            box = self._box()
            argv = self._argv(box, given)
            plan = replace(self._plan, argv=argv, env={}, cwd=cwd, sandbox=box)
            self._looked_at = time.monotonic()
            pid, output, told = processes.spawn(plan, enlist, tuple(given))
            self._outer = pid
        except OSError:
            for end in outputs:
                os.close(end)
            raise
        finally:
            for end in given:
                os.close(end)
        takes = [log.write for log in self._logs.values()]
        return pid, output, told, list(zip(outputs, takes, strict=True))

    def ask_to_end(self) -> None:
        """Let the file appear by which ranks see that they should save and end.

        Its folder is theirs: what they have put there in its place is neither followed nor opened.
        """
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            os.close(os.open(f"{self._plan.progress}/{STOP_FILE}", flags, 0o644))

    def kill(self) -> None:
        """End every rank at once; what they leave behind the leader ends."""
        for rank in self._ranks.values():
            if rank.pid:
                with suppress(ProcessLookupError):
                    os.kill(rank.pid, signal.SIGKILL)

    def leader(self) -> int:
        """Return which process is the leader: in a sandbox the first that its builder has started.

        While that is not there, the builder: it ends at once, and nobody is there to be asked.
        """
        if not self._leader and self._plan.sandbox:
            with suppress(OSError):
                self._leader = next(iter(processes.children(self._outer)), 0)
        return self._leader or self._outer

    def _make_folder(self, path: str) -> None:
        os.makedirs(path, 0o700, exist_ok=True)
        if self._plan.sandbox and self._plan.sandbox.uid:
            os.chown(path, self._plan.sandbox.uid, self._plan.sandbox.uid)

    def _box(self) -> Sandbox | None:
        """Return the sandbox with the folder for progress in it."""
        box = self._plan.sandbox
        folder = (self._plan.progress,) if self._plan.progress else ()
        return box and replace(box, writes=(*box.writes, *folder))

    def _argv(self, box: Sandbox | None, given: list[int]) -> tuple[str, ...]:
        """Return how the leader is started; what a sandbox needs for it is added to `given`."""
        if box is None:
            return (sys.executable, "-I", "-S", leader.__file__)
        machine = os.uname().machine
        if machine not in sandbox.MACHINES:
            raise OSError(f"no sandbox on {machine}: its calls are not known")
        places = [f"{folder}/{sandbox.PROGRAM}" for folder in os.defpath.split(":")]
        if not any(os.access(place, os.X_OK) for place in places):
            raise OSError("no sandbox: bubblewrap is not installed")
        with open(leader.__file__, "rb") as file:
            given.append(_memory_file(file.read()))
        given.append(_memory_file(sandbox.call_filter(machine)))
        number = processes.READY_NUMBER + len(given)
        return sandbox.argv(box, self._plan.cwd or "", number - 1, number)

    def hear(self, chunk: bytes) -> bool:
        """Take what the leader reports; true when a rank has ended, or the last has begun.

        Whoever may look into the leader may also write here: nothing but that is believed.
        """
        *lines, rest = (self._heard + chunk).split(b"\n")
        self._heard = rest[:REPORT_BYTES_MAX]
        news = [self._note(line) for line in lines]
        return any(news)

    def lose(self, exit_code: int) -> None:
        """The leader has ended, and with it whoever it did not report.

        A sandbox that can't be built says why, and nobody in it has begun.
        """
        began = any(rank.pid or rank.ended_at for rank in self._ranks.values())
        unbuilt = self._plan.sandbox and exit_code > 0 and not began
        cause = "".join(tail(self._plan.uid, 1))[:200] if unbuilt else ""
        for number, rank in self._ranks.items():
            if rank.exit_code is None:
                self._end(number, leader.CANNOT_START if unbuilt else -9, time.time(), cause)
        for log in self._logs.values():
            log.write(b"")

    def _note(self, line: bytes) -> bool:
        said: Any = None
        with suppress(ValueError, RecursionError):
            said = json.loads(line)
        match said:
            case {"rank": int(number), "pid": int(pid)} if self._awaits(number):
                if self._plan.sandbox:
                    pid = processes.child_known_as(self.leader(), pid)
                self._ranks[number] = replace(self._ranks[number], pid=pid)
                return all(rank.pid or rank.ended_at for rank in self._ranks.values())
            case {"rank": int(number), "exit_code": int(code), "ended_at": float(at)} if (
                self._awaits(number) and 0 < at < 1e11
            ):
                self._end(number, code, at, str(said.get("error", ""))[:200])
                return True
        return False

    def _end(self, number: int, code: int, at: float, error: str = "") -> None:
        """Note how it ended, and the last that it says of its progress."""
        self._paces[number].take(*self._files[number].read(), self._age_s)
        self._paces[number].stalled = False
        ended = replace(self._ranks[number], pid=0, exit_code=code, ended_at=at, halted=False)
        self._ranks[number] = replace(ended, error=error)
        if error and number in self._logs:
            self._logs[number].write(f"[cannot start: {error}]\n".encode())

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
