"""Kills at random moments under load: the real `madang up`, real processes, `kill -9`.

People write, applications call; then one process of the home dies. All must come back without
anybody's help (but for `madang up` where the supervisor died), and what was acknowledged be there.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from madang.client import Client
from madang.errors import Conflict, MadangError, NotFound
from madang.gateway.journal import waiting_in
from madang.testing.ledger import Ledger, Value

MADANG = Path(sys.executable).with_name("madang")
SERVICES = ("a", "b", "c")
SCALES = (0, 1, 2)
CALLERS = 2
ENGINE_DEATHS_MAX = 3
"""With more ends in a row a replica would be called failed, as promised, and wait ten minutes."""
TROUBLES = (MadangError, OSError, HTTPException)
COMMAND_S = 120.0
CONVERGE_S = 120.0
"""Patience with a machine that is busy; what it takes is measured."""
UNWRITTEN_S = 1.0
"""A gateway that is killed may lose the records of requests that ended this shortly before:
those of `gateway.spool.GROUP_S`, and of the time that a busy machine takes."""
FAILURES_MAX = 3
"""Killed so often in a row a part would wait long; then the supervisor dies, which forgets it."""


@dataclass
class Round:
    """One kill."""

    victim: str
    converged_s: float
    wrong: list[str] = field(default_factory=list)


class Ordeal:
    """One home that is tormented; close it to end everything."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.ledger = Ledger()
        self.completed: dict[str, float] = {}
        """Ids of requests that were answered in full, and when."""
        self.gateway_deaths: list[float] = []
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._stopping = threading.Event()
        self._writing = threading.Event()
        self._idle = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: Counter[str] = Counter()
        self._engine_deaths: Counter[str] = Counter()
        self._told: dict[str, Any] = {}

    def begin(self) -> None:
        """Start Madang with a few services of the fake engine, and the load."""
        self._up()
        with self._client() as client, suppress(NotFound):
            client.delete("service", "hello")
        script = self.home.parent / "words.json"
        script.write_text(json.dumps({"fake": 1, "token_ms": 2}))
        with self._client() as client:
            client.add_model("words", str(script))
            for name in SERVICES:
                self._apply(client, name, 1)
        self._settle()
        for work in (self._write, *[self._call] * CALLERS):
            self._threads.append(threading.Thread(target=self._until_told, args=(work,)))
            self._threads[-1].start()

    def kill(self) -> Round:
        """Let people work for a moment, kill one process, and wait until all is well again."""
        self._writing.set()
        time.sleep(self._chance.uniform(0.0, 0.4))  # the moment of death, not a wait for anything
        victim, pid = self._choose()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        died_s = time.monotonic()
        if victim in {"gateway", "supervisor"}:
            self.gateway_deaths.append(died_s)
        if victim == "supervisor":
            self._up()
        self._writing.clear()
        assert self._idle.wait(COMMAND_S), "nobody writes any more"
        wrong = self._settle(pid)
        return Round(victim, time.monotonic() - died_s, wrong)

    def close(self) -> list[str]:
        """End the load and everything else; return what is wrong with the account."""
        self._stopping.set()
        self._writing.set()
        for thread in self._threads:
            thread.join()
        self._run("down")
        return self._account() + [f"leaked: process {pid} after the end" for pid in self._living()]

    def _up(self) -> None:
        done = self._run("up", "--json", *([] if self._told else ["--port", "0"]))
        assert done.returncode == 0, done.stderr + done.stdout
        self._told = json.loads(done.stdout)
        self._failures.clear()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "MADANG_HOME": str(self.home), "MADANG_LANG": "en"}
        return subprocess.run(
            [MADANG, *arguments], env=env, capture_output=True, text=True, timeout=COMMAND_S,
            check=False,
        )  # fmt: skip

    def _client(self) -> Client:
        return Client(self._told["api"], self._told["api_key"])

    def _journal(self) -> dict[str, int]:
        """Return the processes of the supervisor, by uid."""
        kept = json.loads((self.home / "supervisor" / "journal.json").read_text())
        return {each["uid"]: each["pid"] for each in kept["processes"]}

    def _supervisor(self) -> int:
        return int((self.home / "supervisor.lock").read_text())

    def _choose(self) -> tuple[str, int]:
        """Return a victim; a part that has died too often in a row is spared."""
        pids = self._journal()
        engines = [uid for uid in sorted(pids) if uid.startswith("replica-")]
        engines = [uid for uid in engines if self._engine_deaths[uid] < ENGINE_DEATHS_MAX]
        part = self._chance.choices(
            ("control", "gateway", "engine", "supervisor"), (40, 20, 30, 10)
        )[0]  # fmt: skip
        if part == "engine" and engines:
            uid = self._chance.choice(engines)
            self._engine_deaths[uid] += 1
            return part, pids[uid]
        uid = "control" if part == "engine" else part
        self._failures[uid] += 1
        if uid not in pids or self._failures[uid] > FAILURES_MAX:
            return "supervisor", self._supervisor()
        return uid, pids[uid]

    def _until_told(self, work: Callable[[random.Random], None]) -> None:
        chance = random.Random(self._chance.random())  # noqa: S311 - as above
        while not self._stopping.is_set():
            with suppress(*TROUBLES):
                work(chance)

    def _write(self, chance: random.Random) -> None:
        """Change something, as people do all the time."""
        if not self._writing.is_set():
            self._idle.set()
            self._writing.wait()
            self._idle.clear()
            return
        keys = self.ledger.known("key/")
        with self._client() as client:
            if chance.random() < 0.3:
                self._apply(client, chance.choice(SERVICES), chance.choice(SCALES))
            elif keys and chance.random() < 0.4:
                with self.ledger.asks(name := chance.choice(keys), None), suppress(NotFound):
                    client.delete("key", name.partition("/")[2])
            else:
                name = f"k{chance.getrandbits(48):012x}"
                with self.ledger.asks(f"key/{name}", "member"), suppress(Conflict):
                    client.create_key(name)

    def _apply(self, client: Client, name: str, scale: int) -> None:
        document = {"kind": "service", "name": name, "model": "words", "scale": scale}
        with self.ledger.asks(f"service/{name}", scale):
            client.apply([document])

    def _call(self, chance: random.Random) -> None:
        """Be an application."""
        body = {
            "model": chance.choice(SERVICES), "max_tokens": 4,
            "messages": [{"role": "user", "content": "hi"}],
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self._told['gateway']}/chat/completions", json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._told['api_key']}"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                json.loads(answer.read())
                self.completed[answer.headers["x-request-id"]] = time.monotonic()
        except (OSError, ValueError, HTTPException):
            time.sleep(0.05)  # as an application would

    def _settle(self, dead: int = 0) -> list[str]:
        """Wait until everything is as it was asked for; return what is wrong all the same.

        The process `dead` must have been missed by then.
        """
        deadline = time.monotonic() + CONVERGE_S
        trouble = "nobody answers"
        while time.monotonic() < deadline:
            with suppress(*TROUBLES, ValueError), self._client() as client:
                trouble = self._unsettled(client)
                if dead in self._journal().values():
                    trouble = "nobody has missed the dead one"
                if not trouble:
                    return self._look(client)
            time.sleep(0.05)
        return [f"stuck: {trouble}"]

    def _unsettled(self, client: Client) -> str:
        """Say what is not as it was asked for; nothing when all is."""
        services = client.list("service")["items"]
        replicas = client.list("replica")["items"]
        for service in services:
            own = [r for r in replicas if r["spec"]["service"] == service["name"]]
            phases = [r["status"]["phase"] for r in own]
            if phases != ["ready"] * service["spec"]["scale"]:
                return f"service {service['name']}: {phases}"
        uids = {r["uid"] for r in replicas}
        pids = self._journal()
        if set(pids) != uids | {"control", "gateway"}:
            return f"processes: {sorted(pids)} for {sorted(uids)}"
        routed = urllib.request.Request(
            f"{self._told['gateway']}/models",
            headers={"Authorization": f"Bearer {self._told['api_key']}"},
        )
        with urllib.request.urlopen(routed, timeout=5) as answer:
            listed = {each["id"] for each in json.loads(answer.read())["data"]}
        wanted = {service["name"] for service in services if service["spec"]["scale"]}
        return "" if wanted <= listed else f"the gateway lists {sorted(listed)}"

    def _look(self, client: Client) -> list[str]:
        """Compare what is there with what was acknowledged, and with what the machine runs."""
        found: dict[str, Value] = {
            f"service/{each['name']}": each["spec"]["scale"]
            for each in client.list("service")["items"]
        }
        found |= {f"key/{k['name']}": k["spec"]["role"] for k in client.list("key")["items"]}
        wrong = self.ledger.lost(found)
        deadline = time.monotonic() + CONVERGE_S
        while strangers := self._strangers():
            if time.monotonic() > deadline:
                return wrong + strangers
            time.sleep(0.05)
        return wrong

    def _strangers(self) -> list[str]:
        """Return what runs here without being known, or twice."""
        pids = self._journal()
        known = {*pids.values(), self._supervisor()}
        living = self._living()
        found = [f"leaked: process {pid}" for pid, (session, _) in living.items()
                 if session not in known]  # fmt: skip
        engines = Counter(
            uid for uid in pids for _, line in living.values() if f'"name": "{uid}"' in line
        )
        return found + [f"doubled: {uid}" for uid, count in engines.items() if count > 1]

    def _living(self) -> dict[int, tuple[int, str]]:
        """Return every process that works in this home: its session and its command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.home:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if fields[0] not in "ZX":
                        line = (entry / "cmdline").read_bytes().decode(errors="replace")
                        found[int(entry.name)] = int(fields[3]), line
        return found

    def _account(self) -> list[str]:
        """Compare what was answered with what was counted."""
        cut = {number for number, ended_s in self.completed.items() if self._was_cut(ended_s)}
        wrong = [f"lost: {number} was not counted" for number in sorted(self.uncounted() - cut)]
        records, total = usage_of(self.home / "state.db")
        if total != len(records):
            wrong.append(f"doubled: {total} requests in all, {len(records)} records")
        return wrong

    def uncounted(self) -> set[str]:
        """Return the requests that were answered and neither counted nor waiting to be.

        To be asked after `close`.
        """
        waiting = waiting_in(self.home / "gateway")
        return self.completed.keys() - usage_of(self.home / "state.db")[0] - waiting

    def _was_cut(self, ended_s: float) -> bool:
        """Tell whether a gateway died before it can have written that down."""
        return any(abs(died_s - ended_s) <= UNWRITTEN_S for died_s in self.gateway_deaths)


def usage_of(state: Path) -> tuple[set[str], int]:
    """Return the ids of all usage records, and the sum of the totals kept beside them."""
    import sqlite3  # noqa: PLC0415 - a process of its own reads it, once nothing runs

    connection = sqlite3.connect(f"file:{state}?mode=ro", uri=True)
    try:
        ids = {row[0] for row in connection.execute("SELECT id FROM usage")}
        sums = connection.execute("SELECT coalesce(sum(requests), 0) FROM usage_totals")
        (total,) = sums.fetchone()
    finally:
        connection.close()
    return ids, total
