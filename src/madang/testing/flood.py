"""Four times what a gateway's replicas can do: a real gateway, fake engines, a load from outside.

The engines' capacity is made small (slots by the time of a token), so that neither their processor
nor the load's is what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median, quantiles
from urllib.error import URLError
from urllib.request import Request, urlopen

import msgspec

from madang.engines.fake import Fake
from madang.ports import Assignment
from madang.settings import Home
from madang.testing.load import NO_ANSWER, Answer, Order, Phase, answers_in, start
from madang.traffic.limits import Limits
from madang.traffic.table import Endpoint, Key, RouteTable, Target

KEY = "sk-flood"
REPLICAS = 2
SLOTS = 4
TOKEN_MS = 20
TOKENS = 10
"""So a request takes 0.2 s, and all slots together answer 40 a second."""
TIMES = 4.0
AFTER_S = 15.0
LOOK_S = 0.1
WINDOW_S = 1.0
SLOWER = 1.5
"""Normal again: all of a window's requests answered, in at most so many times the usual time."""


class Rig:
    """A gateway process with a table on disk and fake engines; without control."""

    def __init__(self, folder: Path, token_ms: int = TOKEN_MS) -> None:
        self._folder = folder
        self._script = {"fake": 1, "token_ms": token_ms}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.targets: list[Target] = []
        self.url = ""

    def begin(self) -> None:
        """Start everything."""
        script = self._folder / "script.json"
        script.write_text(json.dumps(self._script))
        for number in range(REPLICAS):
            given = Assignment(f"rep-{number}", 1, "bot", script, 8192, SLOTS, 0, 1.0, (), (), "t")
            plan = Fake().launch(given)
            url = self._start(plan.argv, dict(plan.env))
            self.targets.append(Target(given.uid, 1, url, "t", SLOTS))
        home = Home(self._folder / "home")
        home.gateway.mkdir(parents=True)
        endpoint = Endpoint("p", "bot", "bot", tuple(self.targets), 2048)
        keys = {sha256(KEY.encode()).hexdigest(): Key("app", "p", "member", may_infer=True)}
        table = msgspec.json.encode(RouteTable(1, (endpoint,), keys))
        home.table.write_bytes(table)
        argv = (sys.executable, "-m", "madang.gateway", str(home.path), "--port", "0")
        self.url = self._start(argv, {})

    def _start(self, argv: Iterable[str], env: dict[str, str]) -> str:
        """Start a process and return where it listens."""
        reader, writer = os.pipe()
        env = {**os.environ, **env, "MADANG_READY_FD": str(writer)}
        with (self._folder / "processes.log").open("ab") as log:
            process = subprocess.Popen(tuple(argv), env=env, stderr=log, pass_fds=[writer])
        self._processes.append(process)
        os.close(writer)
        with os.fdopen(reader) as ready:
            return str(json.loads(ready.readline())["url"])

    def waiting(self) -> int:
        """Return how many requests wait in the gateway."""
        with urlopen(f"{self.url}/healthz", timeout=10) as answer:
            return int(json.loads(answer.read())["waiting"])

    def under_way(self, target: Target) -> float:
        """Return how many requests an engine has, at work or deferred."""
        asked = Request(f"{target.url}/metrics", headers={"Authorization": "Bearer t"})
        with urlopen(asked, timeout=10) as answer:
            seen = dict(line.split() for line in answer.read().decode().splitlines())
        names = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
        return sum(float(seen[name]) for name in names)

    def close(self) -> None:
        """End what was started."""
        for each in self._processes:
            each.kill()
            each.wait()


class Watch:
    """Looks again and again at what has a bound, and keeps the most it saw."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.in_line = 0
        self.at_engine = 0.0
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            with suppress(URLError, TimeoutError):
                self.in_line = max(self.in_line, self._rig.waiting())
                for target in self._rig.targets:
                    self.at_engine = max(self.at_engine, self._rig.under_way(target))

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Flooded:
    """What an overload has done."""

    peak_per_s: float
    """Answers per second, callers who ask again at once keeping all slots busy."""
    goodput_per_s: float
    """Answers per second at `TIMES` that."""
    sent_per_s: float
    refused: int
    refused_p50_s: float
    refused_p99_s: float
    """Of those that were refused because the line was full."""
    idle_refused_p99_s: float
    """Of requests that are refused while nothing else is going on."""
    answered_p99_s: float
    expired: int
    unanswered: int
    other: dict[str, int]
    """What else was answered, by code: nothing is expected."""
    normal_after_s: float
    in_line: int
    at_engine: float
    held_back: int
    """Requests of the load that left late: its own bound, not the gateway's."""

    @property
    def in_line_max(self) -> int:
        """Return the bound of the line."""
        return REPLICAS * SLOTS * Limits().held_per_slot

    @property
    def at_engine_max(self) -> int:
        """Return the bound of what one engine gets."""
        return SLOTS * Limits().slot_requests_max


def flood(folder: Path, seconds: float) -> Flooded:
    """Find the peak, then send four times that for so long, then half of it again."""
    rig = Rig(folder)
    try:
        rig.begin()
        calm_s = max(5.0, seconds / 4)
        half = REPLICAS * SLOTS * 1000 / (TOKEN_MS * TOKENS) / 2
        callers = REPLICAS * SLOTS * 3
        first = _send(rig, folder, [
            Phase("idle", calm_s, per_s=20.0, model="nobody"),
            Phase("usual", calm_s, per_s=half),
            Phase("peak", calm_s, callers=callers),
        ])  # fmt: skip
        peak = _rate(first, "peak", calm_s)
        with closing(Watch(rig)) as watch:
            then = _send(rig, folder, [
                Phase("flood", seconds, per_s=TIMES * peak),
                Phase("after", AFTER_S, per_s=half),
            ])  # fmt: skip
    finally:
        rig.close()
    return _judge(first, then, seconds, peak, watch)


def _send(rig: Rig, folder: Path, phases: list[Phase]) -> list[Answer]:
    """Carry out a load and return what came of it."""
    out = folder / "answers.jsonl"
    load = start(Order(rig.url, KEY, phases, seed=1, max_tokens=TOKENS), out)
    status = load.wait(sum(each.seconds for each in phases) + 300)
    assert status == 0, f"the load ended with {status}"
    return answers_in(out)


def _rate(answers: list[Answer], phase: str, seconds: float) -> float:
    """Return the answers per second that came within a phase, but for its first second."""
    begun = min(each.began_s for each in answers if each.phase == phase)
    ends = (each.began_s + each.took_s - begun for each in answers if each.status == 200)
    return sum(1.0 <= end < seconds for end in ends) / (seconds - 1.0)


def _judge(
    first: list[Answer], then: list[Answer], seconds: float, peak: float, watch: Watch
) -> Flooded:
    known = {"", "model_busy", "waited_too_long"}
    flooded = [each for each in then if each.phase == "flood"]
    busy = [each.took_s for each in flooded if each.code == "model_busy"]
    others = [each for each in first if each.phase != "idle"] + then
    odd = [each.code or str(each.status) for each in others
           if each.code not in known or each.status not in {200, 503}]  # fmt: skip
    return Flooded(
        peak_per_s=peak,
        goodput_per_s=_rate(then, "flood", seconds),
        sent_per_s=len(flooded) / seconds,
        refused=len(busy),
        refused_p50_s=median(busy or [0.0]),
        refused_p99_s=p99(busy),
        idle_refused_p99_s=p99([each.took_s for each in first if each.phase == "idle"]),
        answered_p99_s=p99([each.took_s for each in flooded if each.status == 200]),
        expired=sum(each.code == "waited_too_long" for each in then),
        unanswered=sum(each.status == NO_ANSWER for each in first + then),
        other={code: odd.count(code) for code in set(odd)},
        normal_after_s=_normal_after_s(first, then),
        in_line=watch.in_line,
        at_engine=watch.at_engine,
        held_back=sum(each.waited for each in then),
    )


def _normal_after_s(first: list[Answer], then: list[Answer]) -> float:
    """Return the end of the first window after the flood in which all was as usual; inf: none."""
    usual_s = median(each.took_s for each in first if each.phase == "usual")
    after = [each for each in then if each.phase == "after"]
    over_s = min(each.began_s for each in after)
    last_s = max(each.began_s for each in after)
    end_s = over_s + WINDOW_S
    while end_s <= last_s:
        seen = [each for each in after if end_s - WINDOW_S <= each.began_s < end_s]
        well = all(each.status == 200 for each in seen)
        if seen and well and median(each.took_s for each in seen) <= SLOWER * usual_s:
            return end_s - over_s
        end_s += WINDOW_S
    return float("inf")


def p99(values: list[float]) -> float:
    """Return what all but one in a hundred stay below; 0 for none."""
    return quantiles(values, n=100)[-1] if len(values) > 1 else sum(values)
