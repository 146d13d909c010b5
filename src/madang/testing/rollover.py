"""Roll-overs under load: a service goes from one model to another and back, and nobody notices.

The real `madang up` with fake engines. Callers ask again at once, half of them for streams, while
a revision follows the other; what they were told is looked at afterwards, all of it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from madang.errors import NotFound
from madang.testing.load import Answer, Order, Phase, answers_in, start
from madang.testing.ordeal import FAILURES_MAX, TROUBLES, Ordeal

SERVICE = "rolling"
MODELS = ("one", "other")
SCALE = 2
TOKEN_MS, TOKENS = 4, 6
CALLERS = 12
"""More than the eight slots that there are between roll-overs."""
STREAMED = 0.5
STRETCH_S = 20.0
"""The load is sent in stretches of so long, until there are enough answers."""
TRIES_MAX = 8
"""What is refused the roll-over waits out for no longer than so many stretches in all."""
ROLL_S = 90.0
KILL_S_MAX = 1.5
"""Within so long of a roll-over's begin control is killed, where it is to be."""


@dataclass(slots=True)
class Rolled:
    """What came of it."""

    answers: list[Answer]
    took_s: list[float] = field(default_factory=list)
    """Of each roll-over: from the change to the last replica of the old revision being gone."""
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    """What is wrong with the end state and the account."""

    @property
    def failed(self) -> list[Answer]:
        """Return the requests that did not get a whole answer."""
        return [each for each in self.answers if each.status != 200 or each.code]

    @property
    def slowest_s(self) -> float:
        """Return the longest that an answer took."""
        return max((each.took_s for each in self.answers), default=0.0)


class Rolling(Ordeal):
    """One home whose service changes all the time."""

    def __init__(self, home: Path, seed: int, kills: int = 0) -> None:
        """Kill control in the middle of so many roll-overs, of the first ones."""
        super().__init__(home, seed)
        self._kills = min(kills, FAILURES_MAX)
        self._moments = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._number = 0

    def begin(self) -> None:
        """Start Madang with one service of the first model."""
        self._up()
        with self._client() as client:
            with suppress(NotFound):
                client.delete("service", "hello")
            for name in MODELS:
                script = self.home.parent / f"{name}.json"
                script.write_text(json.dumps({"fake": 1, "token_ms": TOKEN_MS, "words": name}))
                client.add_model(name, str(script))
        self._change()
        self._settle()

    def roll(self, requests: int) -> Rolled:
        """Change the model again and again until so many requests were answered."""
        url, key = self._told["gateway"].removesuffix("/v1"), self._told["api_key"]
        out, rolled = self.home.parent / "answers.jsonl", Rolled([])
        phase = Phase("rolling", STRETCH_S, model=SERVICE, streamed=STREAMED, callers=CALLERS)
        for stretch in range(TRIES_MAX):
            load = start(Order(url, key, [phase], seed=stretch, max_tokens=TOKENS), out)
            try:
                while load.poll() is None:
                    self._roll_over(rolled)
            finally:
                load.kill()
            if load.returncode:
                rolled.wrong.append("the load broke off")
            rolled.answers += answers_in(out)
            if len(rolled.answers) >= requests:
                break
        rolled.wrong += self._settle()
        self.completed = {e.id: 0.0 for e in rolled.answers if e.status == 200 and not e.code}
        rolled.wrong += self.close()
        return rolled

    def down(self) -> None:
        """End everything, however far it came."""
        self._run("down")

    def _change(self) -> None:
        """Have the service be of the other model."""
        model = MODELS[self._number % len(MODELS)]
        self._number += 1
        document = {"kind": "service", "name": SERVICE, "model": model, "scale": SCALE}
        with self._client() as client:
            client.apply([document])

    def _roll_over(self, rolled: Rolled) -> None:
        """Change it, and wait until only the new revision is there."""
        old = self._engines()
        self._change()
        began_s = time.monotonic()
        if rolled.kills < self._kills:
            time.sleep(self._moments.uniform(0.0, KILL_S_MAX))  # the moment, not a wait
            with suppress(ProcessLookupError, KeyError):
                os.kill(self._journal()["control"], signal.SIGKILL)
                rolled.kills += 1
        while not self._is_over(old):
            if time.monotonic() > began_s + ROLL_S:
                rolled.wrong.append(f"stuck: roll-over {self._number} takes over {ROLL_S:g} s")
                return
            time.sleep(0.05)
        rolled.took_s.append(time.monotonic() - began_s)

    def _engines(self) -> set[str]:
        return {uid for uid in self._journal() if uid.startswith("replica-")}

    def _is_over(self, old: set[str]) -> bool:
        """Tell whether all replicas are new ones, and ready."""
        if old & self._engines():
            return False
        with suppress(*TROUBLES, ValueError), self._client() as client:
            return not self._unsettled(client)
        return False


def roll(folder: Path, requests: int, seed: int, kills: int = 0) -> Rolled:
    """Run a home of its own until so many were answered; nothing is left of it afterwards."""
    home = Rolling(folder / "home", seed, kills)
    try:
        home.begin()
        return home.roll(requests)
    finally:
        home.down()
