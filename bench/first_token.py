"""From nothing to the model's answer: a fresh clone, a new home, and what stays in memory.

Whole-process wall times on the machine as it is; CPU seconds where the metric says so. The clone
row fetches every package from the machine's package index, with an empty cache.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import Row, write

ROOT = Path(__file__).parent.parent
MADANG = Path(sys.executable).with_name("madang")
RUNS = 3


def main() -> None:
    """Measure everything once, the cheap rows a few times."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if "--no-clone" not in sys.argv:
            rows.append(fresh_clone(Path(folder)))
        took_s = sorted(new_home(Path(folder) / f"home{run}")[0] for run in range(RUNS))
        rows.append(Row("madang up, new home, to the answer", took_s[RUNS // 2], "s", 5.0, 2.5))
        rows += running(Path(folder) / "running")
    write("first_token", rows)


def fresh_clone(folder: Path) -> Row:
    """Clone, `make up` with an empty package cache, and stop at the model's answer."""
    clone, home = folder / "clone", folder / "clone-home"
    cache = {"PIP_CACHE_DIR": str(folder / "cache"), "XDG_CACHE_HOME": str(folder / "cache")}
    env = {**os.environ, **cache, "MADANG_HOME": str(home)}
    start_s = time.monotonic()
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    done = subprocess.run(
        ["make", "up"], cwd=clone, env=env, check=True, capture_output=True, text=True
    )
    took_s = time.monotonic() - start_s
    subprocess.run(["make", "down"], cwd=clone, env=env, check=True, capture_output=True)
    assert "first token" in done.stdout, done.stdout
    shutil.rmtree(clone)
    return Row("fresh clone, empty cache, to the answer", round(took_s, 1), "s", 60.0, 25.0)


def madang(home: Path, *arguments: str) -> Any:
    """Run a command and return the JSON it prints."""
    done = subprocess.run(
        [MADANG, *arguments, "--json"], check=True, capture_output=True, text=True,
        env={**os.environ, "MADANG_HOME": str(home)},
    )  # fmt: skip
    return json.loads(done.stdout)


def new_home(home: Path) -> tuple[float, dict[str, Any]]:
    """Start on a new home and stop again; return wall seconds until the answer was there."""
    start_s = time.monotonic()
    told = madang(home, "up", "--port", "0")
    took_s = time.monotonic() - start_s
    madang(home, "down")
    return round(took_s, 2), told


def running(home: Path) -> list[Row]:
    """Measure what a running Madang keeps, costs and recovers from."""
    told = madang(home, "up", "--port", "0")
    try:
        status_s = sorted(timed_status(home) for _ in range(RUNS))[RUNS // 2]
        return [
            Row("first token of a warm service", round(told["first_token_s"], 3), "s"),
            Row("control + gateway + supervisor resident", resident_mb(home), "MB", 180.0, 140.0),
            Row("madang status, CPU", status_s, "s", 0.3),
            Row("control killed -9, to ready again", killed(home, told["api"]), "s", 5.0, 2.0),
        ]
    finally:
        madang(home, "down")


def timed_status(home: Path) -> float:
    """Return the CPU seconds of one `madang status`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    madang(home, "status")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 3)


def pids(home: Path) -> dict[str, int]:
    """Return the processes of Madang itself."""
    own = {p["uid"]: p["pid"] for p in madang(home, "status")["processes"]}
    return {**own, "supervisor": int((home / "supervisor.lock").read_text().split()[0])}


def resident_mb(home: Path) -> float:
    """Return the resident memory of the three, in MB."""
    total = 0
    for pid in pids(home).values():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return round(total * 1024 / 10**6, 1)


def killed(home: Path, api: str) -> float:
    """Kill control and return the seconds until it is ready again."""
    os.kill(pids(home)["control"], signal.SIGKILL)
    start_s = time.monotonic()
    host = api.removeprefix("http://")
    while True:
        connection = http.client.HTTPConnection(host, timeout=1)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return round(time.monotonic() - start_s, 2)
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
