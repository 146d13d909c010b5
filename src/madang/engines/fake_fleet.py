"""The simulated nodes of a fleet, and the fake engine that answers for every replica on them.

Started by the supervisor as `python -I -S fake_fleet.py HOME`, where HOME/fleet.json says which
nodes there are and how their accelerators behave; standard library only. It takes the orders of
the supervisor's protocol on HOME/run/fleet.sock, each with a `node`, and two more, of which the
second makes an accelerator ill, or well again with `"shows": {}`:

    {"v": 1, "id": 1, "verb": "vanish", "node": "edge-1", "lasts_s": 5, "keeps": false}
    {"v": 1, "id": 2, "verb": "ail", "node": "h100-1", "accelerator": "gpu0", "shows": {"xid": 79}}

A simulated replica is no process: an entry here, with the pid of this process. Its engine is known
by its key, behind one address for all. Only plans of the fake engine can be carried out, and gangs
of the drill (`fake_gang.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(__file__))))  # noqa: PTH120

from madang.engines import fake_gang
from madang.engines.fake_gang import Drill
from madang.engines.fake_replica import SimulatedConversation
from madang.engines.fake_server import Server, SimulatedScript
from madang.engines.fake_watch import Ward
from madang.supervisor.children import PROGRAM_CHARS_MAX, Refused
from madang.supervisor.orders import Orders, answered, read_order, seconds
from madang.supervisor.protocol import LINE_BYTES_MAX, READY_FD, LaunchPlan, Process, encode

FLEET = "fleet.json"
SOCKET = "run/fleet.sock"
TOKEN = "MADANG_ENGINE_TOKEN"  # noqa: S105 - the name of a variable
LINES_MAX = 200
"""What is kept of what one simulated process printed."""
ENDED_MAX = 4096
"""Stopped uids and keys of ended engines that are remembered."""
UNREAD_BYTES_MAX = 4 * LINE_BYTES_MAX
"""A client that leaves more answers than this unread is let go."""
SIGTERM, SIGKILL = 15, 9


@dataclass(slots=True, eq=False)
class Life:
    """One plan, and what stands for its process: it lives while `now.pid` is set."""

    plan: LaunchPlan
    now: Process
    node: Node
    script: SimulatedScript | Drill
    old: Life | None = None
    """The living one of a lower epoch that must be gone before this one starts."""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_MAX))
    alarm: asyncio.TimerHandle | None = None
    stopping: bool = False
    began: float = 0.0
    """On the loop's clock."""

    def report(self) -> Process:
        """Return how it is now."""
        if isinstance(self.script, Drill) and self.now.pid:
            ranks = self.script.ranks(self.age_s(), self.now.started_at, self.now.pid)
            return replace(self.now, ranks=ranks)
        return self.now

    def age_s(self) -> float:
        """Return for how long it has run."""
        return asyncio.get_running_loop().time() - self.began


class Lives:
    """What runs on one node from its start to its end: what `Children` is to a supervisor."""

    def __init__(self, node: Node) -> None:
        self.seq = int(time.time() * 1000)
        self.closing = False
        self._node = node
        self._known: dict[str, Life] = {}
        self._stopped: dict[str, int] = {}

    def every(self) -> Iterator[Life]:
        """Give each; one that is being replaced stands before its successor."""
        return (life for each in self._known.values() for life in (each.old, each) if life)

    def reports(self) -> list[Process]:
        """Return every process."""
        return [*self._node.ward.watch(self._busy()), *(each.report() for each in self.every())]

    def _busy(self) -> dict[str, int]:
        """Return how busy those accelerators are that drills have, by device, in percent."""
        return {
            name.removeprefix(f"{self._node.name}-"): life.script.percent(life.age_s())
            for life in self.every() if isinstance(life.script, Drill) and life.now.pid
            for name in life.plan.accelerators
        }  # fmt: skip

    def tail(self, uid: str, lines: int, _rank: int | None, _first: bool) -> dict[str, Any]:
        """Return the last lines it printed, which are in no file."""
        life = self._known.get(uid)
        return {"lines": list(life.lines)[-lines:] if life and lines else []}

    def progress(self, uid: str, epoch: int, _rank: int, after: int) -> dict[str, Any]:
        """Return nothing for a gang: a drill writes no file."""
        life = self._known.get(uid)
        if life is None or life.plan.epoch != epoch or not life.plan.ranks:
            raise Refused("supervisor.unknown-process", uid)
        return {"lines": [], "next": after}

    def start(self, plan: LaunchPlan) -> Process:
        """Start it, unless it is there; end the one of a lower epoch first."""
        life = self._known.get(plan.uid)
        newest = max(life.plan.epoch if life else 0, self._stopped.get(plan.uid, -1) + 1)
        if newest > plan.epoch:
            raise Refused("supervisor.stale-epoch", plan.uid, newest=newest)
        if life and life.plan.epoch == plan.epoch:
            return life.now
        old = (life if life.now.pid else life.old) if life else None
        waiting = Process(plan.uid, plan.epoch, "waiting", accelerators=plan.accelerators)
        fresh = Life(plan, waiting, self._node, self._script(plan), old)
        self._known.pop(plan.uid, None)
        self._known[plan.uid] = fresh
        if old:
            self._end(old, old.plan.grace_s)
        else:
            self._begin(fresh)
        self.changed()
        return fresh.now

    def stop(self, uid: str, epoch: int, grace_s: float) -> Process | None:
        """End it and forget it; what has replaced it is left alone."""
        self._stopped[uid] = max(epoch, self._stopped.pop(uid, epoch))
        for forgotten in list(self._stopped)[:-ENDED_MAX]:
            del self._stopped[forgotten]
        life = self._known.get(uid)
        if life is None or life.plan.epoch > epoch:
            return None
        if not life.now.pid:
            del self._known[uid]
            self.changed()
            if life.old is None:
                return None
            self._known[uid] = life = life.old
        self._end(life, grace_s)
        return life.now

    def send(self, uid: str, epoch: int, number: int) -> Process:
        """Send a signal: whichever it is, the process ends of it; a gang after its next step."""
        life = self._known.get(uid)
        if life is None or life.plan.epoch != epoch or not life.now.pid:
            raise Refused("supervisor.unknown-process", uid)
        if isinstance(life.script, Drill) and number == SIGTERM:
            self._warn(life, life.script)
        else:
            self._settle(life, -number)
        return life.now

    def crash(self, life: Life, exit_code: int) -> None:
        """End it by itself, if it still lives."""
        if life.now.pid:
            self._settle(life, exit_code)

    def fall(self) -> None:
        """End everything without a trace, as when a machine loses its power."""
        for life in self.every():
            self._silence(life)
        self._known.clear()

    def _script(self, plan: LaunchPlan) -> SimulatedScript | Drill:
        """Read how its engine behaves; raises Refused for what can't be simulated."""
        cause, program = "only the fake engine can be simulated", plan.argv[0][:PROGRAM_CHARS_MAX]
        if plan.ranks:
            cause = f"only {fake_gang.PROGRAM} can be simulated, and what it is told must be right"
        elif not shutil.which(plan.argv[0]):
            cause = "No such file or directory"
        with suppress(ValueError, LookupError, TypeError, AttributeError, OSError):
            if plan.ranks:
                return fake_gang.read(plan)
            settings = json.loads(plan.argv[-1])
            with open(settings["script"], "rb") as file:  # noqa: PTH123
                start = file.read(1)
                script = json.loads(start + file.read()) if start == b"{" else {}
            fleet = self._node.fleet
            end = lambda code: fleet.post(lambda: self._crash_of(plan, code))  # noqa: E731
            made = SimulatedScript(settings, script, end)
            self._adapt(made, plan)
            return made
        raise Refused("supervisor.spawn-failed", plan.uid, program=program, cause=cause)

    def _adapt(self, script: SimulatedScript, plan: LaunchPlan) -> None:
        """Let it behave as the fleet file says of the accelerators it has got."""
        kind = self._node.kind_of(plan.accelerators)
        if kind is None:
            return
        script.load_s, script.token_s = kind["start_s"], kind["token_s"]
        script.first_token_s = kind["first_token_s"]
        which = f"{self._node.fleet.seed}/{plan.uid}/{plan.epoch}"
        drawn = int.from_bytes(hashlib.sha256(which.encode()).digest()[:4]) / 2**32
        if drawn < kind["fails"]:
            script.fail = {**script.fail, "load": "this start fails, as the fleet file says"}

    def _crash_of(self, plan: LaunchPlan, exit_code: int) -> None:
        for life in list(self.every()):
            if life.plan is plan:
                self.crash(life, exit_code)

    def _begin(self, life: Life) -> None:
        loop = asyncio.get_running_loop()
        life.now = replace(life.now, state="running", pid=os.getpid(), started_at=time.time())
        life.began = loop.time()
        if isinstance(life.script, Drill):
            self._drill(life, life.script)
            return
        life.lines.extend(life.script.prints)
        life.alarm = loop.call_later(life.script.load_s, self._loaded, life, life.script)

    def _drill(self, life: Life, drill: Drill, saved: int = 0) -> None:
        """Do what has come due, and come again when something does."""
        age_s, loop = life.age_s(), asyncio.get_running_loop()
        newest = drill.saved(age_s)
        if newest != saved:
            fake_gang.save(life.plan, newest)
        if age_s >= drill.end_s:
            if found := drill.breaks():
                self._node.ail(found[0].removeprefix(f"{self._node.name}-"), {"xid": found[1]})
            self._settle(life, drill.exit_code())
            return
        again = drill.next_s(age_s)
        if again < math.inf:
            life.alarm = loop.call_at(life.began + again, self._drill, life, drill, newest)
        self.changed()

    def _warn(self, life: Life, drill: Drill) -> None:
        """Let its ranks end after their next step, unless they were asked before."""
        if not drill.is_warned:
            saved, age_s = drill.saved(life.age_s()), life.age_s()
            life.script = replace(drill, warned_at_s=age_s)
            if life.alarm:
                life.alarm.cancel()
            self._drill(life, life.script, saved)

    def _loaded(self, life: Life, script: SimulatedScript) -> None:
        if cause := script.fail.get("load"):
            life.lines.append(f"cannot load the model: {cause}")
            self._settle(life, int(script.fail.get("exit_code", 1)))
            return
        fleet = self._node.fleet
        fleet.answering[life.plan.env.get(TOKEN, "")] = life
        life.now = replace(life.now, announced={"url": fleet.url, "pid": os.getpid()})
        self.changed()

    def _end(self, life: Life, grace_s: float) -> None:
        """Ask it to end, and make it end after its grace."""
        life.stopping = True
        if isinstance(life.script, Drill) and grace_s > 0:
            self._warn(life, life.script)
            asyncio.get_running_loop().call_later(grace_s, self.crash, life, -SIGKILL)
            return
        if life.alarm:
            life.alarm.cancel()
        if life.script.fail.get("ignores_stop_signal") and grace_s > 0:
            loop = asyncio.get_running_loop()
            life.alarm = loop.call_later(grace_s, self._settle, life, -SIGKILL)
        else:
            self._settle(life, -SIGTERM if grace_s > 0 else -SIGKILL)

    def _silence(self, life: Life) -> None:
        """Nobody answers for it any more."""
        if life.alarm:
            life.alarm.cancel()
        if isinstance(life.script, SimulatedScript):
            life.script.is_over = True
            self._node.fleet.forget(life)

    def _settle(self, life: Life, exit_code: int) -> None:
        """Nothing of it lives: start its successor, forget it, or keep its end."""
        self._silence(life)
        now = time.time()
        ranks = fake_gang.killed(life.report().ranks, now)
        life.now = replace(life.now, pid=0, exit_code=exit_code, ended_at=now, ranks=ranks)
        newest = self._known[life.plan.uid]
        if newest is not life:
            newest.old = None
            self._begin(newest)
        elif life.stopping:
            del self._known[life.plan.uid]
        else:
            life.now = replace(life.now, state="exited", announced=None)
        self.changed()

    def changed(self) -> None:
        """Let whoever waits see it anew."""
        self.seq += 1
        self._node.tell()


class Node:
    """One simulated node: its lives one after another, and whoever waits for a change of it."""

    def __init__(self, fleet: Fleet, body: dict[str, Any]) -> None:
        self.fleet = fleet
        self.name: str = body["name"]
        self.is_away = False
        self.waiting: dict[Talk, Wait] = {}
        self._return: asyncio.TimerHandle | None = None
        self._kinds = {f"{self.name}-{d['name']}": d["kind"] for d in body["accelerators"]}
        self.ward = Ward(self.name, {d["name"]: d["kind"] for d in body["accelerators"]})
        self.begin()

    def begin(self) -> None:
        """Start it: nothing runs, and no control is known."""
        self.ward.start()
        self.lives = Lives(self)
        self.orders = Orders(self.lives)  # type: ignore[arg-type]

    def kind_of(self, accelerators: tuple[str, ...]) -> dict[str, Any] | None:
        """Return how the kind of these accelerators behaves; None where the file doesn't say."""
        return self.fleet.kinds.get(next((self._kinds.get(a, "") for a in accelerators), ""))

    def take(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """Carry an order out; None: wait for a change. Raises Refused."""
        if order.get("verb") == "ail":
            self.ail(str(order.get("accelerator")), dict(order.get("shows") or {}))
            return {}
        if order.get("verb") == "vanish":
            self.vanish(seconds(order.get("lasts_s")), order.get("keeps") is True)
            return {}
        if self.is_away:
            raise Refused("launcher.unreachable", self.name, cause="it has vanished")
        return self.orders.carry_out(order)

    def tell(self) -> None:
        """Answer everybody who waits for a change of it."""
        for talk in list(self.waiting):
            talk.answer_waiting(self)

    def ail(self, device: str, shows: dict[str, Any]) -> None:
        """Let an accelerator fall ill, or be well again."""
        self.ward.ail(device, shows)
        self.lives.changed()

    def vanish(self, lasts_s: float, keeps: bool) -> None:
        """Be out of sight for so long; what runs on it is kept only if just the way to it is."""
        self.is_away = True
        if not keeps:
            self.lives.fall()
            self.begin()
        self.tell()
        if self._return:  # the newest absence says when it ends
            self._return.cancel()
        self._return = asyncio.get_running_loop().call_later(lasts_s, self._come_back)

    def _come_back(self) -> None:
        self.is_away = False


@dataclass(slots=True)
class Wait:
    """An observe that waits for a change."""

    order: dict[str, Any]
    alarm: asyncio.TimerHandle


class Talk:
    """One connection: orders in, answers out, at most one observer a node waiting."""

    def __init__(self, fleet: Fleet, writer: asyncio.StreamWriter) -> None:
        self._fleet = fleet
        self._writer = writer

    async def listen(self, reader: asyncio.StreamReader) -> None:
        """Take orders until the connection ends."""
        try:
            with suppress(OSError, EOFError, asyncio.LimitOverrunError):
                while True:
                    self._take(await reader.readuntil())
        finally:
            for node in self._fleet.nodes.values():
                if wait := node.waiting.pop(self, None):
                    wait.alarm.cancel()
            self._writer.close()

    def answer_waiting(self, node: Node) -> None:
        """Answer the observe of that node that waits, if one does."""
        if wait := node.waiting.pop(self, None):
            wait.alarm.cancel()
            self._answer(wait.order, lambda: node.take({**wait.order, "wait_s": 0}))

    def _take(self, line: bytes) -> None:
        order: dict[str, Any] = {}

        def work() -> dict[str, Any] | None:
            order.update(read_order(line))
            node = self._fleet.nodes.get(str(order.get("node")))
            if node is None:
                raise Refused("launcher.unreachable", cause="no such node in the fleet file")
            return node.take(order)

        if not self._answer(order, work):
            node = self._fleet.nodes[order["node"]]
            self.answer_waiting(node)
            loop = asyncio.get_running_loop()
            alarm = loop.call_later(seconds(order["wait_s"]), self.answer_waiting, node)
            node.waiting[self] = Wait(order, alarm)

    def _answer(self, order: dict[str, Any], work: Callable[[], dict[str, Any] | None]) -> bool:
        """Send what comes of an order; False when nothing did: it waits for a change."""
        answer = answered(order, work)
        if answer is not None:
            self._send(answer)
        return answer is not None

    def _send(self, answer: dict[str, Any]) -> None:
        if self._writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._writer.transport.abort()
        elif not self._writer.is_closing():
            self._writer.write(encode(answer))


class Fleet:
    """Every simulated node, and every engine on them by its key."""

    def __init__(self, body: dict[str, Any], url: str) -> None:
        self.url = url
        self.seed: int = body["seed"]
        self.kinds: dict[str, dict[str, Any]] = body["kinds"]
        self.answering: dict[str, Life] = {}
        self.ended: dict[str, None] = {}
        self.nodes = {each["name"]: Node(self, each) for each in body["nodes"]}
        self._loop = asyncio.get_running_loop()
        for each in body["nodes"]:
            for away in each["vanishes"]:
                node, how = self.nodes[each["name"]], (away["lasts_s"], away["keeps"])
                self._loop.call_later(away["after_s"], node.vanish, *how)
            for ill in each.get("ails", ()):
                ail, device = self.nodes[each["name"]].ail, ill["accelerator"]
                self._loop.call_later(ill["after_s"], ail, device, ill["shows"])
                if ill["lasts_s"] is not None:
                    self._loop.call_later(ill["after_s"] + ill["lasts_s"], ail, device, {})

    def post(self, work: Callable[[], object]) -> None:
        """Have it done by the thread that holds all of this."""
        self._loop.call_soon_threadsafe(work)

    def forget(self, life: Life) -> None:
        """Let nobody answer for it any more."""
        token = life.plan.env.get(TOKEN, "")
        if self.answering.get(token) is life:
            del self.answering[token]
            self.ended[token] = None
            for old in list(self.ended)[:-ENDED_MAX]:
                del self.ended[old]

    async def serve(self) -> None:
        """Take orders until the process is told to end."""

        async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Talk(self, writer).listen(reader)

        with suppress(FileNotFoundError):
            os.unlink(SOCKET)  # noqa: PTH108 - an earlier one's: the supervisor starts one of us
        server = await asyncio.start_unix_server(welcome, SOCKET, limit=LINE_BYTES_MAX)
        os.chmod(SOCKET, 0o600)  # noqa: PTH101
        with suppress(OSError), os.fdopen(int(os.environ[READY_FD]), "w") as file:
            file.write(json.dumps({"url": self.url, "pid": os.getpid()}) + "\n")
        await server.serve_forever()


async def run(home: str) -> None:
    """Simulate what HOME/fleet.json says, until cancelled."""
    os.chdir(home)  # so that the path of the socket is short
    os.makedirs("run", mode=0o700, exist_ok=True)  # noqa: PTH103
    with open(FLEET, "rb") as file:  # noqa: ASYNC230, PTH123 - once, at the start
        body = json.load(file)
    server = Server(("127.0.0.1", 0), SimulatedConversation)
    fleet = SimulatedConversation.fleet = Fleet(body, f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    await fleet.serve()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
