"""What a rank says of its own progress, in a file that belongs to it; and whether it is stalled.

Each line is a JSON object; any language can append one:

    {"step": 12, "total": 400, "metrics": {"loss": 0.43}}     that many steps are done
    {"phase": "evaluation"}                                   something else than steps goes on
    {"checkpoint": "step-000100", "step": 100}                it says that it has written one

Reading and judging are apart: a `ProgressFile` knows no clock, a `Pace` no file.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from statistics import median
from typing import Any, TypeGuard

from madang.supervisor.protocol import Patience

LOOK_BYTES_MAX = 1 << 20
"""What is read of one file at one look; the rest waits for the next."""
LINE_BYTES_MAX = 64 << 10
TOLD_BYTES_MAX = 128 << 10
"""As much is told of a file at once, so that the answer fits into one line of the protocol."""
STEP_TIMES_KEPT = 32
NAMES_MAX = 16
"""Metrics, and phases whose length is remembered."""
NAME_CHARS_MAX = 64
NUMBER_MAX = 1 << 53


class ProgressFile:
    """One rank's file, read on and on. The rank may do with it what it likes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0
        self._in_long = False

    def read(self) -> tuple[list[bytes], int]:
        """Return the whole lines since the last look, and how many were too long to be kept."""
        data = b""
        with suppress(OSError):
            size = os.stat(self._path, follow_symlinks=False).st_size
            self._offset = self._offset if size >= self._offset else 0  # it was begun anew
            if size > self._offset:
                data = _read(self._path, self._offset, LOOK_BYTES_MAX)
        end = data.rfind(b"\n") + 1
        if not end and len(data) > LINE_BYTES_MAX:
            fresh, self._in_long = not self._in_long, True
            self._offset += len(data)
            return [], int(fresh)
        lines = data[:end].split(b"\n")[:-1]
        if lines and self._in_long:
            self._in_long = False
            lines.pop(0)
        self._offset += end
        kept = [line for line in lines if len(line) <= LINE_BYTES_MAX]
        return [line for line in kept if line.strip()], len(lines) - len(kept)


def lines_from(path: str, after: int) -> tuple[list[str], int]:
    """Return whole lines from that byte on, and from which byte to go on."""
    data = b""
    with suppress(OSError, OverflowError):
        data = _read(path, after, TOLD_BYTES_MAX)
    end = data.rfind(b"\n") + 1 or (len(data) if len(data) == TOLD_BYTES_MAX else 0)
    lines = [line for line in data[:end].split(b"\n") if 0 < len(line) <= LINE_BYTES_MAX]
    return [line.decode(errors="replace") for line in lines], after + end


def _read(path: str, offset: int, most: int) -> bytes:
    """Read a piece of a regular file: no link is followed, no pipe waited for. Raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.pread(file, most, offset) if stat.S_ISREG(os.fstat(file).st_mode) else b""
    finally:
        os.close(file)


class Pace:
    """How one rank gets on, from what it says and when that was seen.

    Times are seconds on any clock that only goes forward, from 0 at the start of the rank.
    """

    def __init__(self) -> None:
        self.step, self.total = -1, 0
        self.phase = self.checkpoint = ""
        self.metrics: dict[str, float] = {}
        self.bad_lines = 0
        self.stalled = False
        self.quiet_s = 0.0
        self._moved_at = self._step_at = self._phase_at = 0.0
        self._aside_s = 0.0  # spent in phases since the last step
        self._first_step_s = 0.0
        self._step_times_s: deque[float] = deque(maxlen=STEP_TIMES_KEPT)
        self._longest_s: dict[str, float] = {}  # by phase

    @property
    def step_s(self) -> float:
        """Return the median of the last step times; 0 where none is known."""
        return median(self._step_times_s) if self._step_times_s else 0.0

    def take(self, lines: Iterable[bytes], bad: int, now_s: float) -> bool:
        """Take what it says; true at its first step, and for a checkpoint that is new."""
        step, checkpoint = self.step, self.checkpoint
        self.bad_lines += bad
        for line in lines:
            self.bad_lines += not self._note(line, now_s)
        if self.step > step:
            self._time_steps(step, now_s)
        return (step < 0 <= self.step) or self.checkpoint != checkpoint

    def judge(self, now_s: float, patience: Patience) -> bool:
        """Decide whether it is stalled; true when that is new."""
        self.quiet_s = now_s - self._moved_at
        was, self.stalled = self.stalled, self.quiet_s > self.limit_s(patience)
        return was != self.stalled

    def limit_s(self, patience: Patience) -> float:
        """Return how long it may be quiet now."""
        first_s = patience.first_s or math.inf
        if self.step < 0:
            return first_s
        if patience.fixed_s:
            return patience.fixed_s
        if self.phase:
            learnt_s = self._longest_s.get(self.phase, math.inf)
        elif self.step >= self.total > 0:
            return first_s  # what comes after the last step is not known
        else:
            learnt_s = self.step_s or self._first_step_s
        return max(patience.least_s, min(first_s, patience.steps * learnt_s))

    def _note(self, line: bytes, now_s: float) -> bool:
        """Take one line; false where anything in it is not as it should be."""
        said: Any = None
        with suppress(ValueError, RecursionError):
            said = json.loads(line)
        if not isinstance(said, dict):
            return False
        fine = True
        if "step" in said:
            fine = self._stepped(said["step"], "checkpoint" in said, now_s)
        if "total" in said:
            fine = _is_count(said["total"]) and fine
            self.total = said["total"] if _is_count(said["total"]) else self.total
        if "metrics" in said:
            fine = self._measured(said["metrics"]) and fine
        if "phase" in said:
            fine = self._entered(said["phase"], now_s) and fine
        if "checkpoint" in said:
            fine = self._claimed(said["checkpoint"], now_s) and fine
        return fine

    def _stepped(self, step: object, is_claim: bool, now_s: float) -> bool:
        """Steps only go forward; a checkpoint may be of an earlier one."""
        if not _is_count(step) or (step < self.step and not is_claim):
            return False
        if step > self.step:
            if self.phase:
                self._entered("", now_s)
            self.step, self._moved_at = step, now_s
        return True

    def _measured(self, metrics: object) -> bool:
        if not isinstance(metrics, Mapping):
            return False
        fine = True
        for name, value in metrics.items():
            number = math.nan
            if isinstance(value, int | float) and not isinstance(value, bool):
                with suppress(OverflowError):
                    number = float(value)
            if len(name) > NAME_CHARS_MAX or not math.isfinite(number):
                fine = False
                self.metrics.pop(name, None)
            elif name in self.metrics or len(self.metrics) < NAMES_MAX:
                self.metrics[name] = float(f"{number:.6g}")
        return fine

    def _entered(self, phase: object, now_s: float) -> bool:
        """Begin a phase, which is progress, and remember how long the one before it took."""
        if not isinstance(phase, str) or len(phase) > NAME_CHARS_MAX or not phase.isprintable():
            return False
        if self.phase:
            took_s = now_s - self._phase_at
            self._aside_s += took_s
            if self.phase in self._longest_s or len(self._longest_s) < NAMES_MAX:
                self._longest_s[self.phase] = max(took_s, self._longest_s.get(self.phase, 0.0))
        self.phase, self._phase_at, self._moved_at = phase, now_s, now_s
        return True

    def _claimed(self, name: object, now_s: float) -> bool:
        """Names become names of folders: nothing else is taken for one."""
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name):
            return False
        self.checkpoint, self._moved_at = name, now_s
        return True

    def _time_steps(self, before: int, now_s: float) -> None:
        """Share the time since the step before among the steps that it took, without phases."""
        took_s = max(0.0, now_s - self._step_at - self._aside_s)
        if before < 0:
            self._first_step_s = took_s
        else:
            count = self.step - before
            self._step_times_s.extend([took_s / count] * min(count, STEP_TIMES_KEPT))
        self._step_at, self._aside_s = now_s, 0.0


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NUMBER_MAX
