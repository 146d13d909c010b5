"""A long, ordinary day: half the load that the replicas can take, and now and then something dies.

Control is killed a few times, engines more often, clients leave; the gateway lives throughout. In
the end every answer must be counted once, and memory and open files be what they were.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from madang.errors import NotFound
from madang.testing.load import LEFT, NO_ANSWER, Answer, Order, Phase, answers_in, start
from madang.testing.ordeal import Ordeal, usage_of

PARTS = ("control", "gateway")
SCALE = 3
TOKEN_MS = 20
TOKENS = 10
PER_S = 30.0
"""Three replicas of four slots answer 60 a second."""
STREAMED = 0.5
LEAVING = 0.05
LOOK_S = 1.0
CONTROL_KILLS = 2
ENGINE_KILL_S = 120.0
"""Once in so long an engine dies; in a short soak, once."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a process held at one moment."""

    at_s: float
    pid: int
    rss_kb: int
    files: int


@dataclass(slots=True)
class Soaked:
    """What came of it."""

    minutes: float
    answers: list[Answer]
    looks: dict[str, list[Look]]
    kills: dict[str, int]
    wrong: list[str]
    """What is wrong with the end state and with the account."""
    counted: set[str] = field(default_factory=set)
    """Ids of all records of usage."""

    @property
    def answered(self) -> int:
        """Return how many requests were answered in full."""
        return sum(each.status == 200 and not each.code for each in self.answers)

    @property
    def unanswered(self) -> int:
        """Return how many got nothing though somebody waited."""
        return sum(each.status == NO_ANSWER for each in self.answers)

    @property
    def refused(self) -> int:
        """Return how many were answered with an error: their engine had died."""
        return sum(each.status not in {NO_ANSWER, LEFT, 200} or bool(each.code)
                   for each in self.answers)  # fmt: skip

    def of_life(self, part: str, warm_s: float) -> list[list[Look]]:
        """Return the looks at a part, one list per process, without the first so many seconds."""
        lives: dict[int, list[Look]] = {}
        for look in self.looks[part]:
            lives.setdefault(look.pid, []).append(look)
        warm = ([e for e in life if e.at_s >= life[0].at_s + warm_s] for life in lives.values())
        return [life for life in warm if len(life) > 1]

    def slope_percent_per_h(self, part: str, warm_s: float) -> float:
        """Return how memory grows: least squares, one slope for all lives, each with its level."""
        above = below = 0.0
        lives = self.of_life(part, warm_s)
        for life in lives:
            t, m = fmean(e.at_s for e in life), fmean(e.rss_kb for e in life)
            above += sum((e.at_s - t) * (e.rss_kb / m - 1) for e in life)
            below += sum((e.at_s - t) ** 2 for e in life)
        return above / below * 3600 * 100 if below else 0.0

    def files_grown(self, part: str, warm_s: float) -> float:
        """Return how many more files were open, on average, in a life's last third than before."""
        grown = [
            fmean(e.files for e in life[-(len(life) // 3 or 1) :])
            - fmean(e.files for e in life[: len(life) // 3 or 1])
            for life in self.of_life(part, warm_s)
        ]
        return max(grown, default=0.0)

    def rss_mb(self, part: str) -> tuple[float, float]:
        """Return the memory at the first look at the last process, and the most it ever was."""
        last = self.looks[part][-1].pid
        first = next(each for each in self.looks[part] if each.pid == last)
        return first.rss_kb / 1024, max(each.rss_kb for each in self.looks[part]) / 1024


class Soak(Ordeal):
    """One home under an even load."""

    def begin(self) -> None:
        """Start Madang with one service of the fake engine."""
        self._up()
        script = self.home.parent / "even.json"
        script.write_text(f'{{"fake": 1, "token_ms": {TOKEN_MS}}}')
        with self._client() as client:
            with suppress(NotFound):
                client.delete("service", "hello")
            client.add_model("even", str(script))
            client.apply([{"kind": "service", "name": "even", "model": "even", "scale": SCALE}])
        self._settle()

    def soak(self, minutes: float) -> Soaked:
        """Let it go on for so long, look at it every second, and settle the account."""
        phase = Phase("even", minutes * 60, per_s=PER_S, model="even", streamed=STREAMED,
                      leaving=LEAVING)  # fmt: skip
        url, key = self._told["gateway"].removesuffix("/v1"), self._told["api_key"]
        out = self.home.parent / "answers.jsonl"
        load = start(Order(url, key, [phase], seed=1, max_tokens=TOKENS), out)
        looks: dict[str, list[Look]] = {part: [] for part in PARTS}
        kills = {"control": 0, "engine": 0}
        began_s = time.monotonic()
        try:
            while load.poll() is None:
                now_s = time.monotonic() - began_s
                self._kill_if_due(now_s, minutes * 60, kills)
                for part, pid in self._journal().items():
                    if part in looks and (look := look_at(pid, now_s)):
                        looks[part].append(look)
                time.sleep(LOOK_S)
        finally:
            load.kill()
        wrong = self._settle() + ([] if load.returncode == 0 else ["the load broke off"])
        answers = answers_in(out)
        self.completed = {e.id: 0.0 for e in answers if e.status == 200 and not e.code}
        wrong += self.close()
        counted, _ = usage_of(self.home / "state.db")
        return Soaked(minutes, answers, looks, kills, wrong, counted)

    def down(self) -> None:
        """End everything, however far it came."""
        self._run("down")

    def _kill_if_due(self, now_s: float, seconds: float, kills: dict[str, int]) -> None:
        """Kill control twice early, so that its last life is long, and an engine now and then."""
        if now_s >= seconds:
            return
        pids = self._journal()
        due_s = (kills["control"] + 1) * seconds / (3 * CONTROL_KILLS)
        if now_s > due_s and kills["control"] < CONTROL_KILLS and "control" in pids:
            kills["control"] += _end(pids["control"])
        engines = sorted(uid for uid in pids if uid.startswith("replica-"))
        due_s = min(ENGINE_KILL_S, seconds / 2) * (kills["engine"] + 0.8)
        if now_s > due_s and engines:
            kills["engine"] += _end(pids[engines[kills["engine"] % len(engines)]])


def soak(folder: Path, minutes: float) -> Soaked:
    """Run a home of its own for so long; nothing is left of it afterwards."""
    home = Soak(folder / "home", seed=1)
    try:
        home.begin()
        return home.soak(minutes)
    finally:
        home.down()


def _end(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def look_at(pid: int, at_s: float) -> Look | None:
    """Return what a process holds now; None when it is gone."""
    try:
        fields: Any = (Path("/proc") / str(pid) / "status").read_text()
        rss_kb = int(fields.partition("VmRSS:")[2].split()[0])
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - nothing else is asked of them
    except (OSError, IndexError, ValueError):
        return None
    return Look(at_s, pid, rss_kb, files)
