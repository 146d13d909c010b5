"""A gang without Madang: ranks with the environment that Madang would give them, and their end.

What starts them, kills them and starts them again here is the test itself.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEADLINE_S = 900.0


@dataclass
class Gang:
    """All ranks of one job on this machine, one attempt after the other."""

    root: Path
    source: Path
    argv: Sequence[str]
    ranks: int = 2
    attempt: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def start(self, resume_from: Path | None = None) -> None:
        """Start the next attempt."""
        self.attempt += 1
        self.root.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        env = {
            "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(self.source), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "WORLD_SIZE": str(self.ranks), "LOCAL_WORLD_SIZE": str(self.ranks), "NODE_RANK": "0",
            "GLOO_SOCKET_IFNAME": "lo", "MADANG_JOB": "tiny-llm", "MADANG_JOB_UID": "job-1",
            "MADANG_ATTEMPT": str(self.attempt), "MADANG_CHECKPOINTS": str(self.checkpoints),
            "MADANG_STOP_FILE": str(self.root / "stop"),
        }  # fmt: skip
        if resume_from:
            env["MADANG_RESUME_FROM"] = str(resume_from)
        for rank in range(self.ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            own["MADANG_PROGRESS"] = str(self.progress(rank))
            with (self.root / f"{self.attempt}-{rank}.log").open("wb") as log:
                self.processes.append(
                    subprocess.Popen(self.argv, env={**env, **own}, stdout=log, stderr=log)
                )

    def progress(self, rank: int = 0) -> Path:
        return self.root / f"progress-{self.attempt}-{rank}.jsonl"

    def told(self, rank: int = 0) -> list[dict[str, Any]]:
        """Return what a rank has told in this attempt, whole lines only."""
        path = self.progress(rank)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.rpartition("\n")[0].splitlines() if line]

    def until(self, step: int, rank: int = 0) -> None:
        """Wait until a rank has done that step in this attempt."""
        deadline = time.monotonic() + DEADLINE_S
        while max([line.get("step", 0) for line in self.told(rank)], default=0) < step:
            assert time.monotonic() < deadline, self.log()
            assert all(each.poll() is None for each in self.processes), self.log()
            time.sleep(0.02)

    def ended(self) -> list[int]:
        """Wait for all ranks of this attempt; return how each has ended."""
        codes = [each.wait(DEADLINE_S) for each in self.processes]
        self.processes.clear()
        return codes

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        self.processes[rank].send_signal(number)

    def newest(self) -> Path:
        return max(self.checkpoints.glob("step-*"))

    def log(self, rank: int = 0) -> str:
        return (self.root / f"{self.attempt}-{rank}.log").read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """Leave nothing behind."""
        for each in self.processes:
            each.kill()
            each.wait()
