"""Real ranks that are killed, stopped and sent away: how soon that is found, and what is lost."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs_yard import Yard, processes, running
from rows import Row

STEP_S = 0.05
SAVE_EVERY = 10
STALL_S = 10
LEARNT_S = 60.0
PROGRAM = """
import os, pathlib, time
from madang import job

ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
begun_at = time.time() - age_s
run = job.start(total=100_000, save_every_steps=EVERY)
rank, attempt = os.environ["RANK"], os.environ["MADANG_ATTEMPT"]
with open("steps-" + attempt + "-" + rank, "w", buffering=1) as told:
    print(begun_at, 0, file=told)
    for step in run.steps():
        time.sleep(STEP)
        print(time.time(), step, file=told)
        run.step(step, loss=1 / step)
        stops = run.should_stop()
        if run.should_save(step) or (stops and rank == "0"):
            with run.checkpoint(step) as folder:
                pathlib.Path(folder, "state").write_text(str(step))
        if stops:
            run.leave()
"""
"""Says in its folder when it began and when each step was done. MARK"""


class Trainer:
    """One job of that program."""

    def __init__(self, yard: Yard, name: str, ranks: int, **spec: Any) -> None:
        self.yard, self.name = yard, name
        text = PROGRAM.replace("EVERY", str(SAVE_EVERY)).replace("STEP", str(STEP_S))
        self._text = text + f"# {yard.home} {name} .\n"
        yard.submit(name, "python3", "-c", self._text, ranks=ranks, **spec)
        yard.until(f"{name} has saved", lambda: yard.job(name)["checkpoints"])
        self._folder = yard.home / "jobs" / yard.client.get("job", name)["uid"] / "work"

    def pid(self, rank: int) -> int:
        """Return the process of a rank, as the machine numbers it."""
        for pid in processes(f"# {self.yard.home} {self.name} ."):
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            is_program = Path(f"/proc/{pid}/comm").read_text().startswith("python3")
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if is_program and argv[1] == b"-c" and f"RANK={rank}".encode() in words:
                return pid
        raise LookupError(f"no rank {rank} of {self.name}")

    def steps(self, attempt: int, rank: int = 0) -> list[tuple[float, int]]:
        """Return when it began, and when each of its steps was done."""
        try:
            lines = (self._folder / f"steps-{attempt}-{rank}").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(float(at), int(step)) for at, _, step in (line.partition(" ") for line in lines)]

    def first_new(self, before: int) -> tuple[float, float, int]:
        """Wait for a step of attempt 2 beyond that one: when it was, start-up in s, first step."""

        def found() -> tuple[float, float, int] | None:
            told = self.steps(2)
            new = [at for at, step in told if step > before]
            return (new[0], told[1][0] - told[0][0] - STEP_S, told[1][1]) if new else None

        found_step: tuple[float, float, int] = self.yard.until("a new step", found)
        return found_step

    def end(self) -> None:
        """Take it down."""
        self.yard.client.delete("job", self.name)


def killed(yard: Yard) -> list[Row]:
    """Kill the rank that saves, half an interval after a checkpoint."""
    trainer = Trainer(yard, "killed", 2)
    half = SAVE_EVERY // 2
    yard.until("half an interval", lambda: trainer.steps(1)[-1][1] % SAVE_EVERY == half)
    os.kill(trainer.pid(0), signal.SIGKILL)
    killed_at = time.time()
    last = max(step for at, step in trainer.steps(1) if at <= killed_at)
    new_at, startup_s, first = trainer.first_new(last)
    trainer.end()
    beyond_s = new_at - killed_at - startup_s
    return [
        Row("rank killed -9: first new step, beyond the program's start-up", round(beyond_s, 2),
            "s", 30.0, 10.0),
        Row("of that program: from its start to its first step", round(startup_s, 2), "s"),
        Row(f"steps lost with it, one saved in {SAVE_EVERY}", last - first + 1, "steps",
            SAVE_EVERY + 1.0, float(SAVE_EVERY)),
    ]  # fmt: skip


def preempted(yard: Yard) -> list[Row]:
    """Suspend a job in mid-interval, and let it go on."""
    trainer = Trainer(yard, "preempted", 1)
    spec = yard.client.get("job", "preempted")["spec"]
    document = {"kind": "job", "name": "preempted", **spec}
    yard.apply({**document, "suspend": True})
    yard.until("it has left", lambda: yard.attempt("preempted", 1)["status"]["phase"] == "ended")
    last = trainer.steps(1)[-1][1]
    yard.apply({**document, "suspend": False})
    _, _, first = trainer.first_new(last)
    trainer.end()
    return [Row("preempted with notice: steps lost", last - first + 1, "steps", 1.0, 0.0)]


def stopped(yard: Yard, trainer: Trainer, last_at: float, limit_s: float) -> Row:
    """Wait until a rank is found that was stopped after a step at `last_at`, in Unix seconds.

    A step is told up to a quarter of a second late or with the next one, so it may seem too early.
    """
    cause_at = yard.told("attempt.stopping", f"{trainer.name}-1")
    outcome = yard.attempt(trainer.name, 1)["status"]["cause"]["code"]
    assert outcome == "attempt.halted", outcome
    how = "learnt from its steps" if limit_s == LEARNT_S else "told with the job"
    return Row(
        f"rank SIGSTOPped: found after the limit of {limit_s:.0f} s, {how}",
        round(cause_at - last_at - limit_s, 2), "s", 1.0,
    )  # fmt: skip


def rows() -> list[Row]:
    """Return all of them."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as yard:
        trainers = [
            (Trainer(yard, "learnt", 2), LEARNT_S),
            (Trainer(yard, "fixed", 2, resume={"stall": STALL_S}), float(STALL_S)),
        ]
        last = []
        for trainer, limit_s in trainers:
            os.kill(trainer.pid(1), signal.SIGSTOP)
            last.append((trainer, trainer.steps(1, 1)[-1][0], limit_s))
        found = killed(yard) + preempted(yard)
        return found + [stopped(yard, *each) for each in reversed(last)]


if __name__ == "__main__":
    print(json.dumps([f"{row.metric}: {row.value} {row.unit}" for row in rows()], indent=1))
