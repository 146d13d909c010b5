"""Trials: a life of control in which something goes wrong, the life after it, and the judgement.

What an undisturbed life leaves is the measure: who was acknowledged finds the deed done, who was
not finds all of it or nothing, and in the end everything is as if nothing had happened.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madang.settings import Home
from madang.testing.deeds import DEEDS
from madang.testing.lives import lay_out
from madang.testing.postgres import PostgresServer

LIVES_MAX = 3
"""A life whose database has gone is followed by at most so many more."""


@dataclass
class Outcome:
    """What came of one trial; `wrong` is empty, or says `lost: …`, `doubled: …` or `leaked: …`."""

    step: str = ""
    """Where it went wrong; empty: the life had no such step."""
    acked: bool = False
    """Whether the deed was acknowledged before that."""
    wrong: list[str] = field(default_factory=list)
    recovery_s: float = 0.0
    """Real seconds of the life that mended everything."""


class Trials:
    """A nursery, and homes as they are before each deed."""

    def __init__(self, folder: Path, server: PostgresServer | None = None) -> None:
        """Keep state in files; or in databases of that server, a copy for each trial."""
        self._server = server
        self._databases: dict[Path, str] = {}
        command = [sys.executable, "-m", "madang.testing.lives"]
        self._nursery = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._folder = folder
        self._ahead_s = [0.0]
        self.states: list[dict[str, Any]] = []
        """What is seen after each deed, when nothing goes wrong."""
        self._numbers = iter(range(10**9))

    def close(self) -> None:
        """End the nursery."""
        assert self._nursery.stdin and self._nursery.stdout  # noqa: PT018 - both are pipes
        self._nursery.stdin.close()
        self._nursery.wait()
        self._nursery.stdout.close()

    def live(self, home: Path, deed: int, **more: Any) -> dict[str, Any]:
        """Have one life lived, and return how it went."""
        assert self._nursery.stdin and self._nursery.stdout  # noqa: PT018 - both are pipes
        self._nursery.stdin.write(json.dumps({"home": str(home), "deed": deed, **more}) + "\n")
        self._nursery.stdin.flush()
        answer: dict[str, Any] = json.loads(self._nursery.stdout.readline())
        return answer

    def before(self, deed: int) -> Path:
        """Return the home in which all earlier deeds are done; made once, then copied."""
        while len(self.states) <= deed:
            number = len(self.states)
            home = lay_out(self._stage(number + 1))
            if number:
                shutil.copytree(self._stage(number) / "home", home, dirs_exist_ok=True)
            self._give_database(home, self._stage(number) / "home")
            _prelude(home, number)
            life = self.live(home, number, ahead_s=self._ahead_s[-1])
            assert life["status"] == 0, life
            assert not _wrong(life), life
            self._ahead_s.append(life["ahead_s"])
            self.states.append(_last(life, "state"))
        return self._stage(deed) / "home"

    def _stage(self, number: int) -> Path:
        return self._folder / f"before-{number}"

    def _copy(self, deed: int) -> Path:
        source = self.before(deed)
        home = lay_out(self._folder / f"trial-{next(self._numbers)}")
        if deed:
            shutil.copytree(source, home, dirs_exist_ok=True)
        self._give_database(home, source)
        _prelude(home, deed)
        return home

    def _give_database(self, home: Path, source: Path) -> None:
        """Let a copied home have a copy of its database too."""
        if self._server is not None:
            name = self._server.make_database(like=self._databases.get(source, "template1"))
            self._databases[home] = name
            Home(home).database.write_text(self._server.url(name))

    def _remove(self, home: Path) -> None:
        shutil.rmtree(home.parent)
        if self._server is not None:
            self._server.drop_database(self._databases.pop(home))

    def killed(self, deed: int, **how: Any) -> Outcome:
        """Kill control in the middle of a deed, start it again, and judge.

        `at`: number of the step; or `kill_after_s`: real seconds after its start.
        """
        home = self._copy(deed)
        trouble = {"trouble": "kill"} if "at" in how else {}
        first = self.live(home, deed, ahead_s=self._ahead_s[deed], **trouble, **how)
        outcome = Outcome(str(_last(first, "name") or ""), bool(_last(first, "acked")))
        if first["status"] >= 0:  # it has lived to its end
            outcome.wrong += self._judge(first, deed)
        else:
            outcome.step = outcome.step or "any moment"
            self._recover(home, deed, first, outcome)
        self._remove(home)
        return outcome

    def failed(self, deed: int, at: int) -> Outcome:
        """Let one effect fail, and judge what the same life has made of it.

        A start that fails ends the life; its supervisor starts the next.
        """
        home = self._copy(deed)
        life = self.live(home, deed, ahead_s=self._ahead_s[deed], trouble="fail", at=at)
        outcome = Outcome(str(_last(life, "name") or ""), bool(_last(life, "acked")))
        if life["status"] == 0 or outcome.acked or _last(life, "refused"):
            outcome.wrong += self._judge(life, deed)
        else:
            self._recover(home, deed, life, outcome)
        self._remove(home)
        return outcome

    def _recover(self, home: Path, deed: int, first: dict[str, Any], outcome: Outcome) -> None:
        """Live once more: first see what is there, then do what was not acknowledged.

        A life that finds its database gone ends, and its supervisor starts the next.
        """
        began_s = time.monotonic()
        more = {"done": outcome.acked, "recovers": True, "ahead_s": first["ahead_s"]}
        life = self.live(home, deed, **more)
        for _ in range(LIVES_MAX):
            if not str(_last(life, "died") or "").startswith("Unavailable: store."):
                break
            life = self.live(home, deed, **more | {"ahead_s": life["ahead_s"]})
        outcome.recovery_s = time.monotonic() - began_s
        found = _last(life, "found")
        if outcome.acked and found is not None and found != self.states[deed]:
            outcome.wrong.append(f"lost: {_difference(found, self.states[deed])}")
        nothing = self.states[deed - 1] if deed else None
        if found is not None and found not in (nothing, self.states[deed]) and deed:
            outcome.wrong.append(f"torn: {_difference(found, self.states[deed])}")
        outcome.wrong += self._judge(life, deed)

    def _judge(self, life: dict[str, Any], deed: int) -> list[str]:
        """Say what is wrong with a life that has come to its end."""
        found = _wrong(life)
        if life["status"] != 0:
            return [*found, f"stuck: {_last(life, 'died') or life['status']}"]
        state = _last(life, "state")
        if state != self.states[deed]:
            found.append(f"different: {_difference(state, self.states[deed])}")
        return found


def _prelude(home: Path, deed: int) -> None:
    """Do to a home what happens to it before a start."""
    if DEEDS[deed].app == "home":
        (home / "admin.key").unlink()


def _last(life: dict[str, Any], word: str) -> Any:
    return next((line[word] for line in reversed(life["lines"]) if word in line), None)


def _wrong(life: dict[str, Any]) -> list[str]:
    """Return whatever was found wrong in a life, at any time."""
    words = ("wrong", "blobs")
    return [each for line in life["lines"] for word in words for each in line.get(word, ())]


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """Say in what two states differ."""
    return "; ".join(
        f"{key}: {found.get(key)} instead of {value}"
        for key, value in wanted.items()
        if found.get(key) != value
    )
