"""Lives of control: each a forked process with the whole of it, which may die at any step.

`python -m madang.testing.lives` is the nursery: for each order on its input, one JSON line, it
forks a life, and answers with how that ended and what it had said. Whatever runs on the node of a
life is in a file and outlives it.

    {"home": "…", "deed": 4, "done": false, "at": 17, "trouble": "kill", "ahead_s": 0.0}
    {"status": -9, "ahead_s": 31.5, "lines": [{"acked": true}, {"step": 17, "name": "before …"}, …]}
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from madang import settings
from madang.api import internal
from madang.api.app import build
from madang.api.desk import Desk
from madang.control.notary import last_words
from madang.errors import MadangError
from madang.planning.plan import lives_wake_s, plan
from madang.planning.use.metering import wake_s as meter_wake_s
from madang.ports import Found
from madang.registry.blobs import FileBlobs
from madang.resources.month import DAY_S
from madang.resources.revision import Check
from madang.resources.rights import CONTROL
from madang.settings import Home
from madang.stores.postgres import PostgresStore
from madang.stores.sqlite import SqliteStore
from madang.testing import steps
from madang.testing.control import Edges, opened
from madang.testing.deeds import DEEDS, SCRIPTS, Answer, Deed, call, filled, state, unknown_blobs
from madang.testing.deeds import wrong as wrongs
from madang.testing.haste import HastyClock, HastyLoop
from madang.testing.lasting import LastingNode, is_loading
from madang.traffic.table import Pull
from madang.verify.subject import Subject

CARDS = 3
LIFE_S_MAX = 25.0
"""A life that takes longer has hung: its stacks are printed, and it ends."""
QUIET_S_MAX = 1800.0
"""Virtual seconds until nothing moves any more."""
TRIES_MAX = 15
EXIT_HUNG = 1


def _store(home: Home) -> SqliteStore | PostgresStore:
    """Return the store that the home says it has."""
    url = settings.database_url(home)
    return PostgresStore(home, url) if url else SqliteStore(home)


class Life:
    """One start of control, one deed, and what comes of it."""

    def __init__(self, order: dict[str, Any], loop: HastyLoop, out: int) -> None:
        self.home = Home(Path(order["home"]))
        self.deed = DEEDS[order["deed"]]
        self.done: bool = order.get("done", False)
        self.recovers: bool = order.get("recovers", False)
        self.loop = loop
        self.node = LastingNode(self.home.path / "node.json")
        self._out = out
        trouble = order.get("trouble", "none")
        self.steps = steps.Steps(order.get("at", 0), trouble, self._stumbled)

    def say(self, **words: Any) -> None:
        """Tell the nursery; what is said is said even if the next step is the last."""
        os.write(self._out, json.dumps({**words, "ahead_s": self.loop.ahead_s}).encode() + b"\n")

    def _stumbled(self, number: int, name: str) -> None:
        self.say(step=number, name=name)

    async def run(self) -> None:
        """Start control, do the deed unless it is done, wait until nothing moves, and look."""
        steps.files(self.steps)
        cards = [
            Found(f"gpu{n}", "nvidia/h100", 80 * 10**9, shared=False, attributes={"cores": 4})
            for n in range(CARDS)
        ]
        edges = Edges(
            node=steps.node(self.node, self.steps),
            store=steps.store(_store(self.home), self.steps, self.loop.working),
            blobs=FileBlobs(self.home.blobs),
            clock=HastyClock(self.loop),
            judge=self._judge,
            found=cards,
        )
        async with opened(self.home, edges) as desk:
            apps = {"api": APP, "internal": internal.build(desk.world, desk.gateways)}
            APP.state.desk = desk
            pulling = asyncio.create_task(self._pull(desk))
            await self._work(desk, apps)
            pulling.cancel()
        self.say(steps=self.steps.count)

    async def _work(self, desk: Desk, apps: dict[str, Any]) -> None:
        if self.recovers:
            await self._settle(desk)
            await self._look(desk, "found")
            self.say(blobs=unknown_blobs(desk))
        if not self.done:
            await self._do(desk, apps)
            self.say(acked=True)
        await self._settle(desk)
        await self._look(desk, "state")

    async def _do(self, desk: Desk, apps: dict[str, Any]) -> None:
        """Ask until it is acknowledged, as a client would."""
        deed, key = self.deed, self.home.admin_key.read_text().strip()
        if deed.app == "node" and self.node.processes:
            self.node.crash(min(self.node.processes), deed.exit_code)
        if not deed.method:
            return
        body = filled(deed.body, str(self.home.path.parent))
        answer, once = Answer(), f"deed-{DEEDS.index(deed)}"
        for number in range(TRIES_MAX):
            answer = await call(apps[deed.app], deed.method, deed.path, body, key, once)
            if _is_done(deed, answer, again=self.recovers or number > 0):
                break
            self.say(refused=answer.status, why=answer.body.decode()[:300])
            await desk.world.clock.sleep(1.0)
        else:
            raise AssertionError(f"{deed.name} is never acknowledged: {answer.body.decode()}")
        if deed.path.endswith("/key"):  # also when it was told only the second time
            opened = await call(APP, "GET", "/api/v1/whoami", key=answer.json()["key"])
            assert opened.status == 200, "the secret that was told opens nothing"

    async def _settle(self, desk: Desk) -> None:
        """Wait until there is nothing to do and nothing waits for time."""
        until = self.loop.time() + QUIET_S_MAX
        while True:
            tick = desk.world.tick
            snapshot = desk.world.snapshot(CONTROL, desk.observer.seen())
            planned = await asyncio.to_thread(plan, snapshot)
            # Meters are read as long as something is held, and rounds have their days: that waits
            # for no deed. But it must not hide what waits a little longer.
            due_s = planned.wake_s
            waits = due_s is not None and due_s < DAY_S and due_s != meter_wake_s(snapshot)
            is_quiet = not planned.actions and not waits and lives_wake_s(snapshot) is None
            going = [job for job in snapshot.jobs.values() if job.deleted_at is not None]
            if is_quiet and not going and desk.world.tick == tick and self._is_still(desk):
                return
            if self.loop.time() > until:
                left = [a.verb for a in planned.actions] or state(desk, self.node)
                raise AssertionError(f"it does not come to rest: {left}")
            await desk.world.moved(tick, 0.5)

    def _is_still(self, desk: Desk) -> bool:
        """Tell whether the node is at rest, and seen as it is."""
        running = self.node.processes
        waiting = [p for p in running.values() if is_loading(p)]
        is_seen = dict(desk.observer.seen().processes) == running
        return is_seen and not waiting and not self.node.ending

    async def _look(self, desk: Desk, name: str) -> None:
        with suppress(MadangError):  # one that fails on purpose
            await desk.notary.vouch()
        await desk.notary.vouch()
        await last_words(desk.notary)
        events = await desk.world.store.events(CONTROL, limit=10**6)
        found = wrongs(desk, self.node, events)
        key = self.home.admin_key.read_text().strip()
        if (await call(APP, "GET", "/api/v1/whoami", key=key)).status != 200:
            found.append("lost: the operator's key opens nothing")
        self.say(**{name: state(desk, self.node)}, wrong=found)

    def _judge(self, subject: Subject, gate: Sequence[str]) -> Sequence[Check]:
        """Let every build pass but that of the service `bad`."""
        replicas = APP.state.desk.world.list(CONTROL, "replica").values()
        is_bad = any(r.uid == subject.uid and r.spec.service == "bad" for r in replicas)
        return [Check(name=f"{gate[0]}.answers", passed=not is_bad, seconds=0, detail="as told")]

    async def _pull(self, desk: Desk) -> None:
        """Be the gateway: take every table."""
        serving = 0
        while True:
            table = await desk.gateways.pull(Pull("gateway", serving))
            serving = table.version if table else serving


def _is_done(deed: Deed, answer: Answer, again: bool) -> bool:
    """Tell whether a deed is acknowledged; what was to be deleted may be gone already.

    An import is acknowledged by its last line.
    """
    if deed.method == "DELETE" and answer.status == 404:
        return again
    is_good = 200 <= answer.status < 300
    return is_good and (not deed.path.endswith("/model") or "resource" in answer.json())


APP: Any = None


def live(order: dict[str, Any], out: int) -> int:
    """Be one life; return its exit code."""
    logging.disable()
    faulthandler.dump_traceback_later(LIFE_S_MAX, exit=True)
    loop = HastyLoop(order.get("ahead_s", 0.0))
    asyncio.set_event_loop(loop)
    life = Life(order, loop, out)
    try:
        loop.run_until_complete(life.run())
    except (MadangError, OSError, AssertionError) as error:
        life.say(died=f"{type(error).__name__}: {error}")
        return EXIT_HUNG
    return 0


def bear(order: dict[str, Any]) -> dict[str, Any]:
    """Fork a life, wait for its end, and return how it went."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code = EXIT_HUNG
        try:
            code = live(order, writer)
        finally:
            os._exit(code)
    os.close(writer)
    said = _heard(reader, pid, order.get("kill_after_s"))
    _, status = os.waitpid(pid, 0)
    lines = [json.loads(line) for line in said.splitlines()]
    ahead_s = lines[-1]["ahead_s"] if lines else order.get("ahead_s", 0.0)
    return {"status": os.waitstatus_to_exitcode(status), "ahead_s": ahead_s, "lines": lines}


def _heard(reader: int, pid: int, kill_after_s: float | None) -> bytes:
    """Return all that a life says; kill it at that moment."""
    said, due = b"", None if kill_after_s is None else time.monotonic() + kill_after_s
    with os.fdopen(reader, "rb", buffering=0) as heard:
        while True:
            left_s = None if due is None else max(0.0, due - time.monotonic())
            if select.select([heard], [], [], left_s)[0]:
                chunk = heard.read(1 << 16)
                if not chunk:
                    return said
                said += chunk
            else:
                os.kill(pid, signal.SIGKILL)
                due = None


def main() -> None:
    """Be the nursery, until there are no more orders."""
    global APP  # noqa: PLW0603 - built once, for all lives
    APP = build(cast("Desk", None))
    import_module("anyio._backends._asyncio")  # or every life would do it anew
    asyncio.run(call(APP, "GET", "/healthz"))
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(bear(json.loads(line))) + "\n")
        sys.stdout.flush()


def lay_out(folder: Path) -> Path:
    """Make a folder with the model files, and return the home that lies beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in SCRIPTS.items():
        (folder / f"{name}.json").write_text(json.dumps(script))
    home = folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    return home


if __name__ == "__main__":
    main()
