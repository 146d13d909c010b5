"""What eight ranks print that are never silent: kept whole, in bounds, and cheaply."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import madang.supervisor
from jobs_yard import cpu_s
from madang.launchers.local import Local
from madang.supervisor import logring
from madang.supervisor.gang import RINGS_OF_A_GANG
from madang.supervisor.protocol import LaunchPlan, RankPlan, Sandbox
from rows import Row

SUPERVISOR = Path(madang.supervisor.__file__).with_name("__main__.py")
RANKS = 8
MB_PER_MIN = 100.0
LINE_BYTES = 120
SECONDS = 30.0
CPU_MS_PER_MB = 10.0
PRINTER = """
import os, sys, time
rank, seconds, rate = os.environ["RANK"], float(sys.argv[1]), float(sys.argv[2])
size, number, begun = int(sys.argv[3]), 0, time.monotonic()
while (age := time.monotonic() - begun) < seconds:
    due = int(age * rate / size) - number
    if due > 0:
        lines = (f"{number + n:010d} " .ljust(size - 2, "x") + ".\\n" for n in range(due))
        os.write(1, "".join(lines).encode()) if due < 500 else sys.stdout.write("".join(lines))
        sys.stdout.flush()
        number += due
    time.sleep(0.02)
"""
"""Numbered lines of one length, at that rate in bytes a second."""
STARTS = 60
PATIENCE_S = 120.0


class Node:
    """A supervisor of its own, without control."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        reader, writer = os.pipe()
        argv = [sys.executable, "-I", "-S", str(SUPERVISOR), str(home), "--ready-fd", str(writer)]
        self.process = subprocess.Popen(argv, pass_fds=(writer,))
        os.close(writer)
        with os.fdopen(reader) as ready:
            json.loads(ready.readline())
        self.launcher = Local(home / "run" / "supervisor.sock", 1)

    async def close(self) -> None:
        """End it."""
        await self.launcher.close()
        self.process.terminate()
        self.process.wait()

    async def until_over(self, count: int) -> None:
        """Wait until so many processes have ended."""
        deadline, seq = time.monotonic() + PATIENCE_S, 0
        while time.monotonic() < deadline:
            seen = await self.launcher.observe(seq, 1.0)
            seq = seen.seq
            if sum(process.state == "exited" for process in seen.processes) >= count:
                return
        raise TimeoutError(f"{count} processes")


async def printed(seconds: float = SECONDS) -> list[Row]:
    """Have ranks print, and read all that is kept."""
    rate = MB_PER_MIN * 1e6 / 60
    argv = (sys.executable, "-c", PRINTER, str(seconds), str(rate), str(LINE_BYTES))
    ranks = tuple(RankPlan(number, {"RANK": str(number)}) for number in range(RANKS))
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder) / "home")
        before_s = cpu_s(node.process.pid)
        await node.launcher.start(
            LaunchPlan("attempt-a-0", 1, argv, {"PATH": os.environ["PATH"]}, ranks=ranks)
        )
        await node.until_over(1)
        used_s = cpu_s(node.process.pid) - before_s
        logs = node.home / "logs"
        faults, kept, last = 0, 0, 0
        for number in range(RANKS):
            lines = _lines(logs, number)
            numbers = [int(line[:10]) for line in lines if _is_whole(line)]
            faults += len(lines) - len(numbers)
            faults += sum(b - a != 1 for a, b in pairwise(numbers))
            kept += len(lines)
            last += numbers[-1] + 1
        disk = sum(path.stat().st_size for path in logs.iterdir())
        await node.close()
    mb = last * LINE_BYTES / 1e6
    bound = 2 * (RINGS_OF_A_GANG * logring.RING_BYTES + RANKS * logring.HEAD_BYTES) / 1e6
    what = f"{RANKS} ranks, {MB_PER_MIN:.0f} MB/min each"
    return [
        Row(f"{what}: printed", round(mb, 1), "MB"),
        Row("of what is kept of it: gaps and torn lines", faults, "", 0.0, 0.0),
        Row("kept of it", kept, "lines"),
        Row("its disk", round(disk / 1e6, 1), "MB", round(bound, 1)),
        Row("to keep it, CPU of the supervisor", round(used_s * 1000 / mb, 2), "ms/MB",
            CPU_MS_PER_MB),
    ]  # fmt: skip


def _lines(logs: Path, rank: int) -> list[str]:
    """Return every line that is kept of a rank, but for its first ones."""
    text = ""
    for name in (f"attempt-a-0.{rank}.log.1", f"attempt-a-0.{rank}.log"):
        if (logs / name).exists():
            text += (logs / name).read_text()
    return [line[logring.STAMP_CHARS :] for line in text.splitlines()]


def _is_whole(line: str) -> bool:
    return len(line) == LINE_BYTES - 1 and line[:10].isdigit() and line.endswith(".")


async def started(count: int = STARTS) -> list[Row]:
    """Start members of one rank, one order after the other, bare and in sandboxes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder) / "home")
        over = 0
        for box, how in ((None, "bare"), (Sandbox(), "in a sandbox each")):
            begun_s = time.monotonic()
            for number in range(count):
                uid = f"attempt-{how[:2]}{number}-0"
                ranks, env = (RankPlan(0, {"RANK": "0"}),), {"PATH": "/usr/bin:/bin"}
                plan = LaunchPlan(uid, 1, ("true",), env, ranks=ranks, sandbox=box)
                await node.launcher.start(plan)
            over += count
            await node.until_over(over)
            rate = count / (time.monotonic() - begun_s)
            rows.append(
                Row(f"ranks of `true` started and ended, {how}", round(rate, 1), "1/s",
                    lower_is_better=False)
            )  # fmt: skip
        await node.close()
    return rows
