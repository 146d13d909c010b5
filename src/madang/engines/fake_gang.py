"""A program that trains nothing, as simulated ranks run it: steps, saves and ends by the clock.

    madang-drill '{"steps": 100, "step_s": 0.5, "starts_s": 1, "save_every": 20,
                   "fail": {"rank": 1, "step": 50, "exit_code": -9}}'

A rank that fails has done that step and ends, and so do the others soon after. With `"xid": 79` its
accelerator breaks as well, and is the cause; with `"halts": true` it stands still instead, and they
with it; with `"attempt": 1` only that attempt fails. Nothing runs: thousands of them cost no more
than being asked. Only checkpoints are real, because whoever records them looks at them.
Its accelerators are `"busy": 0.9` while it steps, and not at all from step `"idle_from": 200` on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from madang.supervisor.protocol import LaunchPlan, Rank

PROGRAM = "madang-drill"
LEFT = 75
"""How a program ends that was asked to, after a checkpoint."""
CUT_OFF = 1
"""How a rank ends that has lost another."""
STEPS_MAX = 10_000_000


@dataclass(frozen=True, slots=True)
class Drill:
    """How the ranks of one member get on. Ages are seconds since their start."""

    plan: LaunchPlan
    steps: int
    step_s: float
    starts_s: float = 0.0
    save_every: int = 0
    fail: dict[str, Any] = field(default_factory=dict)
    busy: float = 0.9
    """How busy its accelerators are while it steps, 0 to 1,"""
    idle_from: int = 0
    """and from which step on they are no more; 0: none."""
    first: int = 0
    """The step that was resumed from."""
    warned_at_s: float = math.inf
    """The age at which it was asked to save and to end."""

    @property
    def last(self) -> int:
        """The last step that is done."""
        last = int(self.fail["step"]) if self.fails else self.steps
        return min(last, self._passed(self.warned_at_s) + 1)

    @property
    def fails(self) -> bool:
        """Whether one of these ranks fails, and after a step that is still to come."""
        mine = any(each.rank == self.fail.get("rank") for each in self.plan.ranks)
        if self.fail.get("attempt", self.plan.epoch) != self.plan.epoch:
            return False
        return mine and self.first < self.fail.get("step", 0) <= self.steps

    @property
    def is_warned(self) -> bool:
        """Whether it ends because it was asked to."""
        return self.warned_at_s < math.inf

    @property
    def halts(self) -> bool:
        """Whether it stands still at last, and does not even hear that it should end."""
        return self.fails and bool(self.fail.get("halts"))

    @property
    def end_s(self) -> float:
        """The age at which it ends by itself."""
        return math.inf if self.halts else self.done_s(self.last)

    @property
    def stall_s(self) -> float:
        """The age at which it counts as stalled."""
        patience = self.plan.patience
        limit_s = patience.fixed_s or max(patience.least_s, patience.steps * self.step_s)
        return self.done_s(self.last) + limit_s if self.halts else math.inf

    def done_s(self, step: int) -> float:
        """Return the age at which that step is done."""
        return self.starts_s + max(0, step - self.first) * self.step_s

    def step(self, age_s: float) -> int:
        """Return the newest step that is done then; -1: none yet."""
        step = min(self._passed(age_s), self.last)
        return step if step > self.first else -1

    def percent(self, age_s: float) -> int:
        """Return how busy its accelerators are then, in percent: not at all before it steps."""
        is_idle = 0 < self.idle_from <= self._passed(age_s)
        is_still = age_s < self.starts_s or age_s >= self.done_s(self.last)
        return 0 if is_idle or is_still else round(100 * self.busy)

    def saved(self, age_s: float) -> int:
        """Return the step of the newest checkpoint then; 0: none yet."""
        step = max(0, self.step(age_s))
        if self.is_warned and step == self.last:
            return step
        step -= step % self.save_every if self.save_every else step
        return step if step > self.first else 0

    def next_s(self, age_s: float) -> float:
        """Return the age at which something happens next that control is to know at once."""
        times = [self.done_s(self.first + 1), self.end_s, self.stall_s]
        if self.save_every:
            saved = self._passed(age_s) // self.save_every * self.save_every + self.save_every
            times += [self.done_s(saved)] if saved <= self.last else []
        return min((time for time in times if time > age_s), default=math.inf)

    def ranks(self, age_s: float, began_at: float, pid: int) -> tuple[Rank, ...]:
        """Return how each is then; `began_at` in Unix seconds."""
        step, saved = self.step(age_s), self.saved(age_s)
        alike = Rank(
            0, pid, step=step, total=self.steps, step_s=self.step_s if step >= 0 else 0.0,
            quiet_s=round(age_s - (self.done_s(step) if step >= 0 else 0.0), 1),
            stalled=age_s >= self.stall_s,
            metrics={"loss": round(4 / (1 + step / 10), 6)} if step >= 0 else {},
        )  # fmt: skip
        told = []
        for number in (each.rank for each in self.plan.ranks):
            rank = replace(alike, rank=number, halted=self.halts and self._is_at_fault(number))
            if saved and number == 0:
                rank = replace(rank, checkpoint=f"step-{saved:06d}")
            if age_s >= self.end_s:
                ended_at = began_at + self.end_s + (not self._is_at_fault(number)) * 0.001
                rank = replace(rank, pid=0, quiet_s=0.0, exit_code=self._code(number),
                               ended_at=ended_at)  # fmt: skip
            told.append(rank)
        return tuple(told)

    def exit_code(self) -> int:
        """Return what the first rank that ends badly returns, as its leader does."""
        code = LEFT if self.is_warned else int(self.fail.get("exit_code", 1)) if self.fails else 0
        return code if code >= 0 else 128 - code

    def breaks(self) -> tuple[str, int] | None:
        """Return which accelerator is the cause of how it fails, and by which XID; mostly none."""
        held, ranks = self.plan.accelerators, [each.rank for each in self.plan.ranks]
        if not self.fails or not held or "xid" not in self.fail or self.is_warned:
            return None
        place = ranks.index(self.fail["rank"]) * len(held) // len(ranks)
        return held[place], int(self.fail["xid"])

    def _code(self, rank: int) -> int:
        if self.is_warned or not self.fails:
            return LEFT if self.is_warned else 0
        return int(self.fail.get("exit_code", 1)) if self._is_at_fault(rank) else CUT_OFF

    def _is_at_fault(self, rank: int) -> bool:
        return self.fails and rank == self.fail["rank"]

    def _passed(self, age_s: float) -> int:
        """Return the step that would be done then, if nothing came between."""
        if age_s == math.inf:
            return self.steps
        return self.first + math.floor(max(0.0, age_s - self.starts_s) / self.step_s + 1e-9)


def read(plan: LaunchPlan) -> Drill:
    """Read what is to be simulated; raises ValueError, LookupError, TypeError, AttributeError."""
    said = json.loads(plan.argv[1]) if plan.argv[0] == PROGRAM else {}
    resumed = os.path.basename(plan.env.get("MADANG_RESUME_FROM", "")).rpartition("-")[2]  # noqa: PTH119
    drill = Drill(
        plan, int(said["steps"]), float(said["step_s"]), float(said.get("starts_s", 0)),
        int(said.get("save_every", 0)), dict(said.get("fail", {})),
        float(said.get("busy", 0.9)), int(said.get("idle_from", 0)), int(resumed or 0),
    )  # fmt: skip
    if not (0 < drill.steps <= STEPS_MAX and drill.step_s > 0 <= drill.starts_s):
        raise ValueError(said)
    numbers = [drill.fail.get(name, 0) for name in ("rank", "step", "exit_code")]
    is_odd = drill.save_every < 0 or not 0 <= drill.busy <= 1
    if is_odd or not all(isinstance(number, int) for number in numbers):
        raise ValueError(said)
    return drill


def killed(ranks: tuple[Rank, ...], at: float) -> tuple[Rank, ...]:
    """Return those ranks with all ended that still live; `at` in Unix seconds."""
    return tuple(
        replace(each, pid=0, exit_code=-9, ended_at=at, stalled=False, halted=False)
        if each.exit_code is None else each
        for each in ranks
    )  # fmt: skip


def save(plan: LaunchPlan, step: int) -> None:
    """Write a checkpoint where the plan says, if rank 0 is here; nowhere where it can't be.

    Not synced: nothing was learnt.
    """
    if any(each.rank == 0 for each in plan.ranks):
        with suppress(OSError, LookupError):
            _save(plan, _outside(plan, plan.env["MADANG_CHECKPOINTS"]), step)


def _outside(plan: LaunchPlan, folder: str) -> str:
    """Return where on the machine a folder lies that ranks would see in their sandbox."""
    mounts = plan.sandbox.mounts if plan.sandbox else ()
    around = [mount for mount in mounts if f"{folder}/".startswith(f"{mount.place}/")]
    if not around:
        return folder
    mount = max(around, key=lambda mount: len(mount.place))
    return mount.source + folder[len(mount.place) :]


def _save(plan: LaunchPlan, place: str, step: int) -> None:
    content, folder = b"%d\n" % step, os.path.join(place, f"step-{step:06d}")  # noqa: PTH118
    about = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest = {"form": 1, "job": plan.env["MADANG_JOB_UID"], "epoch": plan.epoch, "step": step,
                "files": {"step.txt": about}}  # fmt: skip
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    for path, text in (("step.txt", content), ("manifest.json", json.dumps(manifest).encode())):
        with open(os.path.join(folder, path), "wb") as file:  # noqa: PTH118, PTH123
            file.write(text)
