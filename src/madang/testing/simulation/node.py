"""A node: one machine, the supervisor that lives on it, and the engines that it starts."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from madang.supervisor.children import Children
from madang.supervisor.door import Door
from madang.supervisor.journal import Journal
from madang.supervisor.loop import Loop
from madang.supervisor.orders import Orders
from madang.supervisor.protocol import LaunchPlan
from madang.testing.simulation.loop import LIFE
from madang.testing.simulation.machine import (
    SIGNALED,
    Crash,
    Edges,
    Living,
    Machine,
    standing_on,
)
from madang.testing.simulation.network import Far, Fate, Wire
from madang.testing.simulation.stage import Stage

HELD_MAX = 200


class Alarms(Loop):
    """The supervisor's loop, turned by the virtual one."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._watched: dict[int, Callable[[], object]] = {}
        self._due: dict[object, asyncio.TimerHandle] = {}

    def watch(self, fd: int, callback: Callable[[], object], writable: bool = False) -> None:
        """See `Loop.watch`; writing never waits."""
        del writable
        self._watched[fd] = callback

    def rest(self, fd: int, pause_s: float) -> None:
        """See `Loop.rest`; nothing is read a second time that was not printed since."""

    def unwatch(self, fd: int) -> None:
        """See `Loop.unwatch`."""
        self._watched.pop(fd, None)

    def alarm(self, owner: object, delay_s: float, callback: Callable[[], object]) -> None:
        """See `Loop.alarm`."""
        self.cancel(owner)

        def ring() -> None:
            if self._due.get(owner) is handle:
                del self._due[owner]
                self._node.enter(self, callback)

        handle = self._due[owner] = self._node.loop.call_later(delay_s, ring)

    def cancel(self, owner: object) -> None:
        """See `Loop.cancel`."""
        if handle := self._due.pop(owner, None):
            handle.cancel()

    def turn(self, fd: int) -> None:
        """Call whoever watches that descriptor."""
        if callback := self._watched.get(fd):
            self._node.enter(self, callback)

    def is_watched(self, fd: int) -> bool:
        """Tell whether anybody still looks at it."""
        return fd in self._watched

    def end(self) -> None:
        """Let nothing happen any more."""
        for handle in self._due.values():
            handle.cancel()
        self._due.clear()
        self._watched.clear()


class Strict(Orders):
    """The product's orders, with a note of the terms that were obeyed."""

    def __init__(self, children: Children, node: Node) -> None:
        super().__init__(children)
        self._node = node
        self._newest_term = 0

    def carry_out(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """Carry it out; whoever obeys an older control than before is caught."""
        done = super().carry_out(order)
        term = order["term"]
        if term < self._newest_term and order["verb"] in {"start", "stop"}:
            self._node.history.referee.blame(f"{self._node.name} obeyed term {term} after "
                                             f"{self._newest_term}")  # fmt: skip
        self._newest_term = max(term, self._newest_term)
        return done


class Listener:
    """What the door takes for the socket on which it listens."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: list[Far] = []

    def fileno(self) -> int:
        """Return its number."""
        return self._number

    def accept(self) -> tuple[Far, None]:
        """Return the next client."""
        return self._waiting.pop(0), None

    def let_in(self, far: Far) -> None:
        """Let a client wait."""
        self._waiting.append(far)


class Supervisor:
    """One life of the node's supervisor."""

    def __init__(self, node: Node) -> None:
        journal = Journal()
        journal.end_leftovers()
        self.loop = Alarms(node)
        self.children = Children(self.loop, journal, 1 << 20)
        self.orders = Strict(self.children, node)
        self.listener = Listener(node.machine.next_number())
        door = Door(self.loop, self.orders, self.listener)  # type: ignore[arg-type]
        self.children.on_change = door.tell


class Node:
    """The machine, and whatever runs on it."""

    def __init__(self, name: str, history: Stage) -> None:
        self.name = name
        self.history = history
        self.loop = history.loop
        self.machine = Machine(name, self._edges())
        self.supervisor: Supervisor | None = None
        self.is_cut_off = False
        """Nothing gets through; what is on its way is lost, or comes when sight is back."""
        self.crash_in = 0
        """The supervisor dies at that many points from now; 0: it doesn't."""
        self._wires: list[Wire] = []
        self._fars: dict[int, Far] = {}
        self._held: list[Callable[[], None]] = []

    # Its life.

    def start(self) -> None:
        """Start the supervisor, as `madang up` does."""
        if self.supervisor is not None:
            return
        with standing_on(self.machine), suppress(Crash, TimeoutError):
            self.supervisor = Supervisor(self)
        self.crash_in = 0
        self.tell("supervisor-start" if self.supervisor else "supervisor-failed")
        if self.supervisor is None:
            self.after(1.0, self.start)

    def crash(self, *, machine: bool = False) -> None:
        """Kill the supervisor, or take the whole machine down; both come back after a while."""
        self.tell("machine-down" if machine else "supervisor-killed")
        supervisor, self.supervisor = self.supervisor, None
        self.crash_in = 0
        if supervisor:
            supervisor.loop.end()
        for wire in self._wires:
            wire.cut()
        self._wires.clear()
        self._fars.clear()
        if machine:
            self.machine.restart()
        else:
            self.machine.lose_supervisor()
        self.history.node_lost(self)
        away_s = (
            self.history.faults.uniform(5, 90) if machine else self.history.faults.uniform(0.2, 10)
        )
        self.after(away_s, self.start)

    def cut_off(self, flag: bool) -> None:
        """Take the node out of sight, or bring it back."""
        self.is_cut_off = flag
        self.tell("cut-off" if flag else "in-sight")
        if not flag:
            held, self._held = self._held, []
            for work in held:
                self.after(self.short_s(), work)

    def enter(self, loop: Alarms, work: Callable[[], object]) -> None:
        """Run supervisor's code, if that supervisor still lives."""
        if self.supervisor is None or self.supervisor.loop is not loop:
            return
        try:
            with standing_on(self.machine):
                work()
        except Crash:
            self.crash()

    # Its wires.

    async def dial(self, protocol: asyncio.BaseProtocol) -> asyncio.BaseTransport:
        """Connect to the supervisor."""
        await asyncio.sleep(self.short_s())
        if self.is_cut_off:
            await asyncio.sleep(60.0)
            raise TimeoutError
        if self.supervisor is None:
            raise ConnectionRefusedError
        wire = Wire(self, protocol)
        self._wires = [w for w in self._wires if not w.is_over]
        self._wires.append(wire)
        if life := LIFE.get():
            life.at_end.append(wire.hang_up)
        protocol.connection_made(wire.near)
        return wire.near

    def let_in(self, far: Far) -> None:
        """Hand a client to the door."""
        if self.supervisor:
            self._fars = {n: f for n, f in self._fars.items() if not f.is_closed}
            self._fars[far.number] = far
            self.supervisor.listener.let_in(far)
            self.supervisor.loop.turn(self.supervisor.listener.fileno())

    def carries(self, supervisor: Supervisor | None, again: Callable[[], None]) -> bool:
        """Tell whether something gets through now; if not, it may later."""
        if self.is_cut_off:
            if self.history.faults.random() < 0.5 and len(self._held) < HELD_MAX:
                self._held.append(again)
            return False
        return supervisor is not None and self.supervisor is supervisor

    def network_fate(self) -> Fate:
        """Draw what becomes of a line."""
        return self.history.line_fate()

    def short_s(self) -> float:
        """Draw how long a line usually takes."""
        return self.history.faults.uniform(0.0002, 0.02)

    def long_s(self) -> float:
        """Draw how long a late line takes."""
        return self.history.faults.uniform(0.1, 30.0)

    def poke(self, number: int) -> None:
        """Let the supervisor read what has come."""
        self.after(0.0, lambda: self._turn(number))

    def _turn(self, number: int) -> None:
        supervisor = self.supervisor
        if supervisor is None:
            return
        far, pipe = self._fars.get(number), self.machine.pipes.get(number)
        while supervisor.loop.is_watched(number) and (
            (far is not None and far.is_ready and not far.is_closed)
            or (pipe is not None and (pipe.data or pipe.ended))
        ):
            supervisor.loop.turn(number)

    # What happens on the machine.

    def after(self, delay_s: float, work: Callable[[], None]) -> object:
        """Do it later."""
        return self.loop.call_later(delay_s, work)

    def tell(self, what: str, detail: str = "") -> None:
        """Note a step of the history."""
        self.history.step(what, self.name, detail)

    def _edges(self) -> Edges:
        return Edges(
            now=self.history.clock.now,
            monotonic=self.loop.time,
            after=self.after,
            die_s=self.history.die_s,
            fails=self._fails,
            begun=self._begun,
            terminated=self._terminated,
            ended=self._ended,
            poke=self.poke,
            child_ended=self._reap,
        )

    def _reap(self) -> None:
        """SIGCHLD: let the supervisor collect who has ended."""
        if supervisor := self.supervisor:
            self.after(0.0, lambda: self.enter(supervisor.loop, supervisor.children.reap))

    def _fails(self, what: str) -> bool:
        if what != "crash":
            return self.history.happens(0.02)
        if self.crash_in:
            self.crash_in -= 1
            return self.crash_in == 0
        return False

    def _begun(self, living: Living) -> None:
        living.behaviour = behaviour = self.history.behaviour()
        self.history.referee.began(self, living)
        self.tell("spawn", _named(living.plan))
        if behaviour.load_s is not None:
            self.after(behaviour.load_s, lambda: self._announce(living))
        if behaviour.crash_s is not None:
            self.after(behaviour.crash_s, lambda: self.machine.end(living, behaviour.status))
        if behaviour.has_helper:
            pid = self.machine.next_number()
            session = pid if self.history.faults.random() < 0.5 else living.session
            helper = Living(pid, session, living.pid, living.plan, is_child=False, has_begun=True)
            helper.behaviour = behaviour
            self.machine.processes[pid] = helper

    def _announce(self, living: Living) -> None:
        if living.pid not in self.machine.processes or living.is_dying:
            return
        self.tell("announce", _named(living.plan))
        url = f"sim://{self.name}/{living.pid}"
        said = json.dumps({"url": url, "pid": living.pid}).encode() + b"\n"
        self.machine.say(living, said)

    def _terminated(self, living: Living) -> None:
        if living.behaviour.end_s is not None:
            self.after(
                living.behaviour.end_s, lambda: self.machine.end(living, int(signal.SIGTERM))
            )

    def _ended(self, living: Living, status: int) -> None:
        self.history.referee.ended(self, living)
        if living.is_child:
            self.tell("exit", f"{_named(living.plan)} status={status}")

    def break_engine(self, *, hang: bool) -> None:
        """Let one of the engines end, or do nothing any more."""
        leaders = [p for p in self.machine.processes.values() if p.is_child]
        if leaders:
            chosen = self.history.faults.choice(leaders)
            if hang:
                chosen.behaviour.hang(self.loop.time())
                self.tell("engine-hangs", _named(chosen.plan))
            else:
                self.machine.end(chosen, SIGNALED)


def _named(plan: LaunchPlan) -> str:
    return f"{plan.uid}/{plan.epoch}"
