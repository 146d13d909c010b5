"""A Madang of its own for a bench of jobs, what its processes use, and what it has told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from madang.client import Client

MADANG = Path(sys.executable).with_name("madang")
TICKS = os.sysconf("SC_CLK_TCK")
PAUSE_S = 0.02
PATIENCE_S = 180.0


class Yard:
    """One running home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client = Client(home=str(home), project="local/main")

    def pid(self, uid: str) -> int:
        """Return the process of control, a gateway or the fleet."""
        return next(int(p["pid"]) for p in self.client.status()["processes"] if p["uid"] == uid)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Make it so."""
        self.client.apply(documents)

    def submit(self, name: str, *command: str, **spec: Any) -> None:
        """Make one job."""
        self.apply({"kind": "job", "name": name, "command": list(command), **spec})

    def job(self, name: str) -> dict[str, Any]:
        """Return the status of a job."""
        return dict(self.client.get("job", name)["status"])

    def attempt(self, name: str, number: int) -> dict[str, Any]:
        """Return one attempt of it."""
        return dict(self.client.get("attempt", f"{name}-{number}"))

    def until(self, what: str, holds: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """Wait until it holds; return what it gave."""
        deadline = time.monotonic() + patience_s
        while not (found := holds()):
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(PAUSE_S)
        return found

    def told(self, code: str, name: str) -> float:
        """Wait until an event of that code tells of that object; return its Unix time."""

        def last() -> float | None:
            newest = 0
            found = None
            while events := self.client.events(newest):
                newest = events[-1]["seq"]
                at = [e["at"] for e in events if e["code"] == code and e["name"] == name]
                found = at[-1] if at else found
            return found

        return float(self.until(f"{code} of {name}", last))


def madang(home: Path, *arguments: str) -> Any:
    """Run a command and return the JSON it prints."""
    done = subprocess.run(
        [MADANG, *arguments, "--json"], check=True, capture_output=True, text=True,
        env={**os.environ, "MADANG_HOME": str(home)},
    )  # fmt: skip
    return json.loads(done.stdout)


@contextmanager
def running(folder: Path, fleet: Mapping[str, Any] | None = None) -> Iterator[Yard]:
    """Start one, with simulated nodes if a fleet is given; take it down in the end."""
    home, more = folder / "home", list[str]()
    if fleet:
        (folder / "fleet.yaml").write_text(json.dumps(fleet))
        more = ["--fleet", str(folder / "fleet.yaml")]
    madang(home, "up", "--port", "0", *more)
    try:
        yield Yard(home)
    finally:
        madang(home, "down")


def cpu_s(pid: int) -> float:
    """Return the processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6


def processes(mark: str) -> list[int]:
    """Return every process one of whose arguments has that in it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)
