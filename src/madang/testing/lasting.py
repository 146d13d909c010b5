"""A node on paper that outlives control: what runs there is in a file before an order is answered.

Keeps to the supervisor's rules of (uid, epoch), and writes down whatever an order would have
doubled: an accelerator given to two processes, an epoch started twice.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from madang.supervisor.protocol import LaunchPlan, Moment, Observation, Process, process_from
from madang.testing.node import PaperNode

ANNOUNCE_S = 0.5
END_S = 0.5
"""How long a process takes to be ready, and to end once it is told to."""
_replace = os.replace  # ours, whatever a test makes of the module's


def is_loading(process: Process) -> bool:
    """Tell whether it is an engine that has yet to say where it answers; ranks never do."""
    return process.state == "running" and process.announced is None and not process.ranks


class LastingNode(PaperNode):
    """Starts, announces and stops after a while; the file is its memory."""

    def __init__(self, path: Path) -> None:
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        super().__init__(process_from(each) for each in kept.get("processes", ()))
        self._path, self._part = path, path.with_suffix(".new")
        self._part.unlink(missing_ok=True)  # control was killed while this was being written
        self._seq = int(kept.get("seq", 0)) + 1
        self.ending: set[str] = set(kept.get("ending", ()))
        self.started: list[str] = kept.get("started", [])
        """Every uid/epoch that was ever started."""
        self.wrong: list[str] = kept.get("wrong", [])
        """What must never happen and did."""
        self._resumed = False

    async def observe(self, after: int, wait_s: float) -> Observation:
        """Return every process, at once if something changed after `after`."""
        self._resume()
        return await super().observe(after, wait_s)

    async def start(self, plan: LaunchPlan) -> None:
        """Run it, unless that uid already runs at this epoch or a higher one."""
        before = self.processes.get(plan.uid)
        await super().start(plan)
        now = self.processes[plan.uid]
        if now is before:
            return
        self._check_start(plan)
        self.processes[plan.uid] = replace(now, announced=None)
        self.started.append(f"{plan.uid}/{plan.epoch}")
        self._keep()
        self._later(ANNOUNCE_S, plan.uid)

    def _check_start(self, plan: LaunchPlan) -> None:
        if f"{plan.uid}/{plan.epoch}" in self.started:
            self.wrong.append(f"{plan.uid}/{plan.epoch} started twice")
        for other in self.processes.values():
            both = set(other.accelerators) & set(plan.accelerators)
            if other.uid != plan.uid and other.state == "running" and both:
                self.wrong.append(f"{plan.uid} and {other.uid} both on {sorted(both)}")

    async def stop(self, uid: str, epoch: int, grace_s: float) -> Moment:
        """Ask it to end; it does after a while."""
        del grace_s
        self._check()
        process = self.processes.get(uid)
        if process is None or process.epoch > epoch:
            return self.moment
        if process.state == "exited":
            del self.processes[uid]
            self.move()
        else:
            self.ending.add(uid)
            self._later(END_S, uid)
        self._keep()
        return self.moment

    def crash(self, uid: str, exit_code: int = -9) -> None:
        """Let a process end by itself, and all its ranks."""
        at = self.processes[uid].started_at + 1.0
        ranks = self.processes[uid].ranks
        ended = tuple(replace(r, pid=0, exit_code=exit_code, ended_at=at) for r in ranks)
        self.processes[uid] = replace(self.processes[uid], ranks=ended)
        self.end(uid, exit_code)
        self._keep()

    def _resume(self) -> None:
        """Take up what was under way when control died."""
        if not self._resumed:
            self._resumed = True
            for uid, process in self.processes.items():
                if uid in self.ending or is_loading(process):
                    self._later(END_S, uid)

    def _later(self, seconds: float, uid: str) -> None:
        epoch = self.processes[uid].epoch
        asyncio.get_running_loop().call_later(seconds, self._happen, uid, epoch)

    def _happen(self, uid: str, epoch: int) -> None:
        process = self.processes.get(uid)
        if process is None or process.epoch != epoch:
            return
        if uid in self.ending:
            self.ending.discard(uid)
            del self.processes[uid]
        elif is_loading(process):
            announced = {"url": "http://127.0.0.1:9", "pid": process.pid}
            self.processes[uid] = replace(process, announced=announced)
        self._keep()
        self.move()

    def _keep(self) -> None:
        kept = {
            "seq": self._seq, "ending": sorted(self.ending), "started": self.started,
            "wrong": self.wrong, "processes": [asdict(p) for p in self.processes.values()],
        }  # fmt: skip
        self._part.write_text(json.dumps(kept))
        _replace(self._part, self._path)
