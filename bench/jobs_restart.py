"""Control killed -9 over a hundred jobs and twenty services: nobody notices, nothing is doubled."""

from __future__ import annotations

import http.client
import json
import os
import signal
import tempfile
import time
from pathlib import Path

from jobs_yard import PATIENCE_S, Yard, cpu_s, processes, running
from rows import Row

JOBS, SERVICES = 100, 20
NAP_S = 86_399
KILLS = 2
STEADY_S = 61.0
"""A control that has lived so long is started again at once; one that dies often has to wait."""
TURNS_S = 6.0
"""A turn or two."""


def fill(yard: Yard, jobs: int, services: int) -> None:
    """Have jobs run that sleep, and services of the fake engine."""
    script = yard.home.parent / "fake.json"
    script.write_text(json.dumps({"fake": 1}))
    yard.client.add_model("fake", str(script))
    needs = {"memory": "40MB"}
    yard.apply(*(
        {"kind": "service", "name": f"s{n}", "model": "fake", "needs": needs}
        for n in range(services)
    ))  # fmt: skip
    yard.apply(*(
        {"kind": "job", "name": f"j{n}", "command": ["sleep", f"{NAP_S}.{n}"], "needs": needs}
        for n in range(jobs)
    ))  # fmt: skip
    yard.until("services are ready", lambda: ready(yard) >= services, 300)
    yard.until("jobs run", lambda: len(napping()) >= jobs, 300)
    yard.until("and are seen to", lambda: len(seen(yard)) >= jobs, 300)


def napping() -> list[int]:
    """Return the ranks that sleep."""
    return [
        pid for pid in processes(f"{NAP_S}.")
        if Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"
    ]  # fmt: skip


def ready(yard: Yard) -> int:
    """Return how many replicas of ours are ready."""
    ours = [r for r in yard.client.list("replica")["items"] if r["spec"]["service"][0] == "s"]
    return sum(each["status"]["phase"] == "ready" for each in ours)


def seen(yard: Yard) -> list[str]:
    """Return the jobs of which control sees a rank that runs."""
    jobs = [each["name"] for each in yard.client.list("job")["items"]]
    return [name for name in jobs if yard.client.course(name)["ranks"]]


def is_up(api: str) -> bool:
    """Tell whether control says that it is ready."""
    connection = http.client.HTTPConnection(api.removeprefix("http://"), timeout=1)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def killed(yard: Yard, jobs: int, services: int) -> tuple[float, float]:
    """Kill control; return seconds until it sees all of it again, and its processor seconds."""
    time.sleep(STEADY_S)
    os.kill(yard.pid("control"), signal.SIGKILL)
    begun_s = time.monotonic()
    yard.until("control is back", lambda: is_up(yard.client.api))
    looked_s, found = begun_s, 0
    while found < jobs:
        looked_s = time.monotonic()  # asking takes time too
        found = len(seen(yard))
        if looked_s > begun_s + PATIENCE_S:
            raise TimeoutError("every job is seen again")
    yard.until("services are ready", lambda: ready(yard) == services)
    return looked_s - begun_s, cpu_s(yard.pid("control"))


def rows(jobs: int = JOBS, services: int = SERVICES, kills: int = KILLS) -> list[Row]:
    """Return how soon all is seen again, and what runs twice or anew."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as yard:
        fill(yard, jobs, services)
        ranks, engines = napping(), _engines(yard)
        took = [killed(yard, jobs, services) for _ in range(kills)]
        time.sleep(TURNS_S)
        now = set(napping()) | set(_engines(yard))
        others = len(now ^ {*ranks, *engines})
        numbers = [each["status"]["attempt"] for each in yard.client.list("job")["items"]]
    what = f"control killed -9 over {jobs} jobs and {services} services"
    return [
        Row(f"{what}: all seen again, slowest of {kills}",
            round(max(s for s, _ in took), 2), "s", 5.0, 2.0),
        Row("processor time of control by then, and to be asked about each job once",
            round(max(s for _, s in took), 2), "s"),
        Row(f"{what}: processes lost, doubled or anew", others + sum(n != 1 for n in numbers), "",
            0.0, 0.0),
    ]  # fmt: skip


def _engines(yard: Yard) -> list[int]:
    """Return the processes of the fake engines."""
    found = yard.client.list("replica")["items"]
    return [r["status"]["pid"] for r in found if r["spec"]["service"].startswith("s")]


if __name__ == "__main__":
    for row in rows(20, 4, 1):
        print(row)
