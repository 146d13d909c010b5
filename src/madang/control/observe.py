"""What can be seen of the nodes: processes through their launchers, and who answers behind them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from madang import symptoms
from madang.control.gateways import Gateways
from madang.control.guard import guarded
from madang.control.meters import Meters
from madang.control.pulse import Pulses
from madang.control.world import World
from madang.errors import MadangError, Unavailable
from madang.planning.placement.outlook import Outlook
from madang.planning.snapshot import THOUGHT_NEVER_S, Probed, Seen, rank_key
from madang.ports import Launcher
from madang.resources.attempt import member_uid
from madang.resources.resource import Reason
from madang.resources.rights import CONTROL
from madang.supervisor.protocol import Moment, Observation, Process
from madang.threads import started

log = logging.getLogger("madang.control")

LOOK_S = 5.0
"""How long a launcher may take to say that nothing has changed."""
LOOK_AGAIN_S = 0.2
"""Pause after a node could not be seen."""
FIRST_LOOK_S = 10.0
"""How long the first turn waits for the nodes to be seen once."""
LAST_LINES = 20
PULSE_S = 5.0
"""How often an engine that has said who it is is asked again."""
ASKED_PER_S_MAX = 100.0
"""So many engines are asked a second; where there are more of them, each is asked less often."""
PROBES_MAX = 16
"""Probes under way at once."""

Ask = Callable[[str, str, int], Probed | None]
"""(url, uid, epoch) -> who answers there; None: nobody. Blocks, in a thread.

Raises `Unavailable` when nothing could be asked, which says nothing about the engine.
"""


class Observer:
    """Keeps one view per node, and wakes the loop when it changes."""

    def __init__(
        self, world: World, launchers: Mapping[str, Launcher], gateways: Gateways, ask: Ask
    ) -> None:
        self.world = world
        self.launchers = launchers
        self.gateways = gateways
        self.ask = ask
        self._views: dict[str, Observation] = {}
        self._in_sight: frozenset[str] = frozenset()
        """The same object while the same nodes are: by that planning knows its fleet again."""
        self._found: dict[str, dict[str, Process]] = {}
        self._is_tidy = True
        self._processes: dict[str, Process] = {}
        self._places: dict[str, str] = {}
        self._lines: dict[str, tuple[str, ...]] = {}
        self._probed: dict[tuple[str, int], Probed] = {}
        self._pulses = Pulses(world.clock, gateways)
        self._meters = Meters(world, gateways)
        self._busy: dict[str, dict[str, float]] = {}
        """How busy accelerators are, by node and device; nothing of a node out of sight."""
        self._asking: set[tuple[str, int]] = set()
        self._refused: dict[tuple[str, int], Reason] = {}
        self._stopped: dict[tuple[str, int], tuple[str, Moment]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(PROBES_MAX)
        self._askers = started(PROBES_MAX, "probe")
        self._watches: dict[str, symptoms.Watch] = {}
        """What nodes tell of their accelerators; of one out of sight what it told last."""
        self._outlook: Outlook | None = None
        self._thought_at = -THOUGHT_NEVER_S
        self._looked = {node: asyncio.Event() for node in launchers}

    def seen(self) -> Seen:
        """Return what is seen now."""
        if not self._is_tidy:
            self._forget()
        return Seen(
            nodes=self._in_sight,
            processes=self._processes,
            places=self._places,
            lines=dict(self._lines),
            probed=dict(self._probed),
            pulses=self._pulses.now(),
            refused=dict(self._refused),
            fenced=frozenset(self._fenced()),
            watches=self._watches,
            routed=self.gateways.routed(),
            inflight=self.gateways.inflight(),
            demand=self.gateways.demand(),
            loads=self._meters.look(self._busy, self._processes),
            outlook=self._outlook,
            thought_at=self._thought_at,
        )

    def process(self, uid: str) -> Process | None:
        """Return one process as it was last seen."""
        return self._processes.get(uid)

    def thinks(self) -> None:
        """Note that it is being thought about what is to come."""
        self._thought_at = self.world.clock.monotonic()

    def expect(self, outlook: Outlook) -> None:
        """Note what came of it."""
        self._outlook = outlook
        self.world.wake()

    def refuse(self, uid: str, epoch: int, reason: Reason) -> None:
        """Note that a node would not start something; planning treats it as an end."""
        self._refused[uid, epoch] = reason
        self.world.wake()

    def stopped(self, node: str, uid: str, epoch: int, moment: Moment) -> None:
        """Note that a node has taken the order to stop something, and will not start it again."""
        self._stopped[uid, epoch] = node, moment
        self.world.wake()

    def _fenced(self) -> Iterator[tuple[str, int]]:
        """Return what was stopped no later than its node is seen."""
        for key, (node, moment) in self._stopped.items():
            if node in self._views and self._views[node].shows(moment):
                yield key

    async def first_look(self) -> None:
        """Wait until every node was looked at once, so that nothing is taken for dead unseen."""
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                for looked in self._looked.values():
                    await looked.wait()
        except TimeoutError:
            log.warning("not every node could be seen")

    async def watch(self, node: str) -> None:
        """Follow one node until cancelled."""
        launcher, seq = self.launchers[node], -1
        while True:
            try:
                view = await launcher.observe(seq, LOOK_S)
            except MadangError as error:
                self._lose(node, error)
                seq = -1
                await self.world.clock.sleep(LOOK_AGAIN_S)
                continue
            if seq != view.seq or node not in self._views:
                await self._take(node, view)
            else:
                self._look(node, view)
            seq = view.seq
            self._looked[node].set()

    def _lose(self, node: str, error: MadangError) -> None:
        if node in self._views:
            self._fold(node, None)
            log.warning("node %s can't be seen: %s", node, error)
            self.world.wake()

    def _look(self, node: str, view: Observation) -> None:
        """Keep what the kernel says of the processes now; nothing has happened to them."""
        last = self._views.get(node)
        if last is view:
            return
        if last != view:
            self._fold(node, view)
        for process in view.processes:
            self._pulses.look(process)

    async def _take(self, node: str, view: Observation) -> None:
        """Fold a new view in: last words of what ended, a probe for what announced itself."""
        for process in view.processes:
            if process.state == "exited" and process.uid not in self._lines:
                self._lines[process.uid] = await self._last_lines(node, process.uid)
            elif process.state == "running":
                self._lines.pop(process.uid, None)
                self._probe(process)
            await self._hear_ranks(node, process)
        self._look(node, view)
        self._is_tidy = False
        self.world.wake()

    async def _hear_ranks(self, node: str, process: Process) -> None:
        """Take in the last words of ranks that have ended in error."""
        for rank in process.ranks:
            key = rank_key(process.uid, rank.rank)
            if rank.exit_code and key not in self._lines:
                self._lines[key] = await self._last_lines(node, process.uid, rank.rank)

    def _fold(self, node: str, view: Observation | None) -> None:
        """Put a node's view in the place of its last one; None: it is out of sight.

        In new dictionaries, for what was given out stays as it was; and uid by uid, for there may
        be a thousand nodes. Of a uid on two nodes the newest epoch counts: an end that a node has
        kept, since the order to forget it was lost, hides no successor elsewhere.
        """
        before = self._views.pop(node, None)
        self._busy.pop(node, None)
        fresh = {p.uid: p for p in view.processes} if view else {}
        gone = {p.uid for p in before.processes} - fresh.keys() if before else set()
        if view:
            self._views[node] = view
            self._listen(node, view)
        if (before is None) is not (view is None):
            self._in_sight = frozenset(self._views)
        self._processes, self._places = dict(self._processes), dict(self._places)
        for uid, process in fresh.items():
            self._found.setdefault(uid, {})[node] = process
        for uid in gone:
            del self._found[uid][node]
        for uid in (*fresh, *gone):
            if self._found[uid]:
                newest = max(self._found[uid].items(), key=lambda found: found[1].epoch)
                self._places[uid], self._processes[uid] = newest
            else:
                del self._found[uid], self._places[uid], self._processes[uid]

    def _listen(self, node: str, view: Observation) -> None:
        """Take in what a node tells of its accelerators; what is the same stays the same object."""
        said = (process.announced for process in view.processes if process.uid == symptoms.UID)
        told = next(said, None)
        watch = symptoms.read(told)
        self._busy[node] = symptoms.busy(told)
        if watch != self._watches.get(node):
            left = {name: each for name, each in self._watches.items() if name != node}
            self._watches = {**left, node: watch} if watch else left

    async def _last_lines(self, node: str, uid: str, rank: int | None = None) -> tuple[str, ...]:
        launcher = self.launchers[node]
        try:
            if rank is not None:
                said = await launcher.printed(uid, LAST_LINES, rank)
                return tuple(line.text for line in said)
            return tuple(await launcher.tail(uid, LAST_LINES))
        except MadangError:
            return ()

    def _forget(self) -> None:
        """Drop what was known of processes that are no longer there."""
        self._is_tidy = True
        there = {uid: process.epoch for uid, process in self._processes.items()}
        for known in (self._probed, self._refused):
            for uid, epoch in [k for k in known if there.get(k[0], k[1]) > k[1]]:
                del known[uid, epoch]
        replicas = {replica.uid for replica in self.world.list(CONTROL, "replica").values()}
        members = {
            member_uid(attempt, member)
            for attempt in self.world.snapshot(CONTROL).living
            for member in range(len(attempt.status.places))
        }
        for uid, epoch in [k for k in self._probed if k[0] not in replicas]:
            del self._probed[uid, epoch]
        kept = replicas | members | there.keys()
        for told in (self._refused, self._stopped):
            for key in [k for k in told if k[0] not in kept]:
                del told[key]
        for uid in [uid for uid in self._lines if uid.partition(".")[0] not in there]:
            del self._lines[uid]
        self._pulses.keep(set(there.items()))

    def _probe(self, process: Process) -> None:
        """Ask an engine who it is, again and again in the background, one question at a time."""
        key = process.uid, process.epoch
        url = str((process.announced or {}).get("url", ""))
        if not url or not process.uid.startswith("replica-"):
            return
        if key in self._asking:
            return
        self._asking.add(key)
        work = guarded(f"probe {process.uid}", self._keep_asking(url, key))
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_asking(self, url: str, key: tuple[str, int]) -> None:
        asking = asyncio.get_running_loop().run_in_executor
        try:
            while self._is_running(key):
                answer = None
                with suppress(Unavailable):  # not asked: that is no miss
                    async with self._slots:
                        answer = await asking(self._askers, self.ask, url, *key)
                    self._pulses.hear(key, answer)
                if answer is not None and key not in self._probed:
                    self._probed[key] = answer
                    self.world.wake()
                known = key in self._probed
                rest_s = max(PULSE_S, len(self._asking) / ASKED_PER_S_MAX)
                await self.world.clock.sleep(rest_s if known else LOOK_AGAIN_S)
        finally:
            self._asking.discard(key)

    def _is_running(self, key: tuple[str, int]) -> bool:
        process = self._processes.get(key[0])
        return process is not None and process.epoch == key[1] and process.state == "running"
