"""The process that watches a node's accelerators: `python -I -S watch.py`, below its supervisor.

It asks each maker's tool again and again, each in a child of its own with a time limit, reads the
kernel's log, and announces what both tell (`madang.symptoms`) whenever that has changed. A tool
that hangs is killed, and where even that does nothing it is left behind and asked no more until it
has ended: nobody ever waits for it. Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(__file__))))  # noqa: PTH120

from madang.accelerators.kernel_log import KernelLog
from madang.accelerators.tools import TOOLS, Told, Tool
from madang.supervisor.protocol import READY_FD
from madang.symptoms import HUNG, TEXT_CHARS_MAX, XIDS_MAX, Symptoms, Watch, written

ASK_S = 3.0
"""Between an answer of a tool and the next question."""
LIMIT_S = 10.0
"""A tool that has not answered by then hangs."""
LOOK_S = 0.5
HOT_S = 60.0
"""Slowed down by heat for so long is no peak."""
ANSWER_BYTES_MAX = 8 << 20
BUSY_S = 60.0
"""How busy they are is told as the mean of so long,"""
BUSY_STEP = 5
"""in steps of so many percent: each change wakes whoever looks."""
BOOT = "/proc/sys/kernel/random/boot_id"


@dataclass(slots=True)
class Asked:
    """One tool, and how it answers."""

    tool: Tool
    argv: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    answer: IO[bytes] | None = None
    began_s: float = 0.0
    next_s: float = 0.0
    cause: str | None = None
    """None: it was not asked yet; empty: it has answered."""
    told: list[Told] = field(default_factory=list)
    answers: int = 0
    heard: int = 0

    def is_fresh(self) -> bool:
        """Tell whether it has answered since this was last asked."""
        is_fresh, self.heard = self.answers > self.heard, self.answers
        return is_fresh

    def step(self, now_s: float) -> None:
        """Ask, take the answer, or give up."""
        if self.process is None:
            if now_s >= self.next_s:
                self._ask(now_s)
        elif self.process.poll() is not None:
            self._take(self.process.returncode)
            self.process, self.next_s = None, now_s + ASK_S
        elif now_s - self.began_s >= LIMIT_S:
            self.cause = HUNG
            with suppress(OSError):
                self.process.kill()  # it may not even hear that; then it is not asked again

    def _ask(self, now_s: float) -> None:
        try:
            self.answer = tempfile.TemporaryFile()  # noqa: SIM115 - closed where it is read
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=self.answer, stderr=subprocess.DEVNULL
            )
            self.began_s = now_s
        except OSError as error:
            self.close()
            self.cause, self.next_s = str(error.strerror)[:TEXT_CHARS_MAX], now_s + ASK_S

    def close(self) -> None:
        """Let go of what is under way."""
        if self.process:
            with suppress(OSError):
                self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
        if self.answer:
            self.answer.close()
        self.process = self.answer = None

    def _take(self, code: int) -> None:
        assert self.answer is not None
        with self.answer as file:
            file.seek(0)
            text = file.read(ANSWER_BYTES_MAX).decode(errors="replace")
        if self.cause == HUNG and code == -9:
            return  # it was killed: that is no answer
        try:
            self.told, self.cause = self.tool.read(text), ""
            self.answers += 1
        except ValueError as error:
            self.cause = (f"exit code {code}" if code else str(error))[:TEXT_CHARS_MAX]


class Sentry:
    """All that one node tells."""

    def __init__(self, asked: list[Asked], log: KernelLog, boot: str) -> None:
        self._asked, self._log, self._boot = asked, log, boot
        self._xids: dict[str, tuple[tuple[int, int], ...]] = {}
        self._hot_s: dict[str, float] = {}
        self._readings: dict[str, list[float]] = {}
        self._busy: dict[str, int] = {}
        self._began_s: float | None = None

    def look(self, now_s: float) -> Watch:
        """Look once, and return what is known; `now_s` only goes forward."""
        for each in self._log.fresh():
            known = self._xids.get(each.bus, ())
            self._xids[each.bus] = (*known, (each.number, each.mark))[-XIDS_MAX:]
        devices: dict[str, Symptoms] = {}
        for asked in self._asked:
            asked.step(now_s)
            for told in asked.told:
                devices[told.device] = self._symptoms(told, now_s)
        tools = {a.tool.maker: a.cause for a in self._asked if a.cause is not None}
        unread = (f"kernel-log: {self._log.unread}",) if self._log.unread else ()
        return Watch(self._boot, tools, devices, unread)

    def busy(self, now_s: float) -> Mapping[str, int]:
        """Return how busy each device was in the last minute that is over, in percent.

        Nothing of what the tools did not tell then.
        """
        for told in (told for asked in self._asked if asked.is_fresh() for told in asked.told):
            if told.busy is not None:
                self._readings.setdefault(told.device, []).append(told.busy)
        if self._began_s is None:
            self._began_s = now_s
        elif now_s - self._began_s >= BUSY_S:
            self._busy = {
                name: round(sum(all_) / len(all_) / BUSY_STEP) * BUSY_STEP
                for name, all_ in self._readings.items()
            }
            self._readings, self._began_s = {}, now_s
        return self._busy

    def close(self) -> None:
        """Let go of every tool that is under way."""
        for asked in self._asked:
            asked.close()

    def _symptoms(self, told: Told, now_s: float) -> Symptoms:
        """Add to what a tool says now what the log tells, and for how long it was hot."""
        if told.is_hot:
            since_s = self._hot_s.setdefault(told.device, now_s)
        else:
            self._hot_s.pop(told.device, None)
            since_s = now_s
        is_hot = now_s - since_s >= HOT_S
        return replace(told.symptoms, xids=self._xids.get(told.bus, ()), is_hot=is_hot)


def installed() -> list[Asked]:
    """Return the tools that this machine has."""
    found = []
    for tool in TOOLS:
        known = (argv for argv in tool.programs if shutil.which(argv[0]))
        argv = next(known, None)
        if argv:
            found.append(Asked(tool, argv))
    return found


def run() -> None:
    """Watch until told to end; tell each change on the descriptor that the supervisor reads."""
    with open(BOOT) as file:  # noqa: PTH123
        boot = file.read().strip()
    sentry, last = Sentry(installed(), KernelLog(), boot), b""
    fd = int(os.environ[READY_FD])
    while True:
        now_s = time.monotonic()
        watch = written(sentry.look(now_s))
        told = json.dumps({**watch, "busy": dict(sentry.busy(now_s))}).encode() + b"\n"
        if told != last:
            os.write(fd, told)
            last = told
        time.sleep(LOOK_S)


if __name__ == "__main__":
    run()
