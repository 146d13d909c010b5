"""The real thing: `madang up` on a home of its own, real processes, a real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

MADANG = Path(sys.executable).with_name("madang")
DEADLINE_S = 60.0
LONG_S = 600.0
"""A story that may take so long is begun first, so that nobody waits for it alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with long stories first, then those with many: they are shared out in order."""
    stories = [item for item in items if item.get_closest_marker("story")]
    count = Counter(item.path for item in stories)
    marks = [(item.path, item.get_closest_marker("timeout")) for item in stories]
    long = {path for path, mark in marks if mark and mark.args[0] >= LONG_S}
    items.sort(key=lambda item: (item.path not in long, -count[item.path]))


@dataclass
class Yard:
    """One home, and the commands a user types on it."""

    home: Path
    told: dict[str, Any] = field(default_factory=dict)
    program: Path = MADANG
    user: dict[str, Any] = field(default_factory=dict)
    """As whom to type, in the words of `subprocess`; empty: as who runs the tests."""
    env: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Type a command, and return what came of it."""
        env = {**os.environ, "MADANG_HOME": str(self.home), "MADANG_LANG": "en", **self.env}
        return subprocess.run(
            [self.program, *arguments], env=env, input=stdin, capture_output=True, text=True,
            timeout=DEADLINE_S, check=False, **self.user,
        )  # fmt: skip

    def json(self, *arguments: str, stdin: str | None = None) -> Any:
        """Type a command with --json; anything but success fails the test."""
        done = self.run(*arguments, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def up(self) -> dict[str, Any]:
        """Start, on any free port the first time."""
        self.told = self.json("up", *([] if self.told else ["--port", "0"]))
        return self.told

    def apply(self, **spec: Any) -> Any:
        return self.json("apply", "-f", "-", stdin=json.dumps(spec))

    def get(self, kind: str, name: str) -> Any:
        return self.json("get", kind, name)

    def replicas(self, service: str) -> list[Any]:
        found = self.json("get", "replica")
        return [r for r in found if r["spec"]["service"] == service]

    def pid(self, uid: str) -> int:
        """Return the process of control or gateway."""
        own = {p["uid"]: p["pid"] for p in self.json("status")["processes"]}
        return int(own[uid])

    @property
    def supervisor(self) -> int:
        return int((self.home / "supervisor.lock").read_text().split()[0])

    def fake(self, name: str, **script: Any) -> None:
        """Import a model of the fake engine."""
        path = self.home.parent / f"{name}.json"
        path.write_text(json.dumps({"fake": 1, **script}))
        self.json("model", "add", name, str(path))

    def until(self, what: str, holds: Callable[[], bool], seconds: float = DEADLINE_S) -> None:
        """Wait until it holds; if it never does, tell how Madang is."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() >= deadline:
                logs = [file.read_text()[-2000:] for file in (self.home / "logs").glob("*.log")]
                said = "\n".join((self.run("doctor").stdout, *logs))
                pytest.fail(f"not within {seconds} s: {what}\n{said}")
            time.sleep(0.05)

    def phase(self, kind: str, name: str) -> str:
        done = self.run("get", kind, name, "--json")
        return str(json.loads(done.stdout)["status"]["phase"]) if done.returncode == 0 else ""

    def until_phase(self, kind: str, name: str, phase: str) -> None:
        self.until(f"{kind}/{name} is {phase}", lambda: self.phase(kind, name) == phase)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def new_yard(tmp_path: Path) -> Iterator[Callable[[str], Yard]]:
    """Return a maker of homes; every one is taken down again."""
    made: list[Yard] = []

    def make(name: str = "home") -> Yard:
        made.append(Yard(tmp_path / name))
        return made[-1]

    yield make
    for yard in made:
        yard.run("down")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """One Madang for the stories that leave it as they found it."""
    yard = Yard(tmp_path_factory.mktemp("yard") / "home")
    yard.up()
    yield yard
    yard.run("down")
