"""The hands of the loop: start, stop, judge. Every act may be done twice without harm."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from madang.control.gangs import Gangs
from madang.control.guard import guarded
from madang.control.observe import Observer
from madang.control.tools import Tools
from madang.control.world import World
from madang.errors import MadangError, Unavailable
from madang.planning.action import (
    Action,
    Discard,
    Halt,
    Launch,
    Plan,
    Record,
    Reprice,
    RunGate,
    Start,
    Stop,
    Warn,
)
from madang.planning.forecast import Question
from madang.planning.services.replicas import STOP_GRACE_S
from madang.ports import Assignment
from madang.resources.event import Event
from madang.resources.place import Accelerator, Node
from madang.resources.replica import Replica
from madang.resources.resource import Reason, Ref
from madang.resources.revision import Build, Check, Revision, Verdict
from madang.resources.rights import CONTROL, GATE
from madang.supervisor.protocol import LaunchPlan
from madang.threads import started
from madang.verify.subject import Subject

GATES_MAX = 4
"""Gates that run at once; others wait for their turn."""
GATE_AGAIN_S = 1.0
"""Pause before a gate that gave no verdict is run again."""
NOT_NOW = frozenset({"supervisor.closing", "supervisor.stale-term"})
"""Refusals that say nothing about what was to be started."""


class Hands:
    """Carries out effects through the ports."""

    def __init__(self, world: World, observer: Observer, tools: Tools) -> None:
        self.world = world
        self.observer = observer
        self.tools = tools
        self.gangs = Gangs(world, observer, tools)
        self._gates: dict[Ref, asyncio.Task[None]] = {}
        self._thinking: asyncio.Task[None] | None = None
        self._examiners = started(GATES_MAX, "gate")

    async def carry_out(self, planned: Plan) -> None:
        """Do what the plan asks for; a node that can't be reached is left for the next turn."""
        unreachable: set[str] = set()
        for action in planned.effects():
            await guarded(f"{action.verb} {action.subject.name}", self._do(action, unreachable))

    async def _do(self, action: Action, unreachable: set[str]) -> None:
        match action.effect:
            case Start(ref):
                await self._start(ref, unreachable)
            case Stop(node, uid, epoch) if node in self.tools.launchers and node not in unreachable:
                try:
                    moment = await self.tools.launchers[node].stop(uid, epoch, STOP_GRACE_S)
                except Unavailable:
                    unreachable.add(node)
                    raise
                self.observer.stopped(node, uid, epoch, moment)
            case Launch() | Warn() | Halt() | Record() | Discard() as effect:
                await self.gangs.carry_out(effect)
            case RunGate(build, replica):
                self._run_gate(build, replica)
            case Reprice(question):
                self._think(question)
            case _:
                pass

    async def _start(self, ref: Ref, unreachable: set[str]) -> None:
        """Start a replica's process; a refusal is told to planning as an end."""
        replica = self.world.get(CONTROL, Replica, ref)
        if replica is None or replica.status.node in unreachable:
            return
        try:
            # In a thread: a file that has changed is read again from end to end.
            plan = await asyncio.to_thread(self._launch_plan, replica)
            await self.tools.launchers[replica.status.node].start(plan)
        except MadangError as error:
            is_far = isinstance(error, Unavailable) and not error.code.startswith("blob.")
            if is_far or error.code in NOT_NOW:
                unreachable.add(replica.status.node)
                raise
            reason = Reason(code=error.code, values=error.values)
            self.observer.refuse(replica.uid, replica.status.epoch, reason)

    def _launch_plan(self, replica: Replica) -> LaunchPlan:
        status = replica.status
        revision = self.world.get(CONTROL, Revision, replica.revision)
        node = self.world.get(CONTROL, Node, Ref("", status.node))
        assert revision is not None, replica.name
        form = revision.spec.form(status.variant)
        engine = self.tools.engines[form.recipe]
        devices = [
            self.world.get(CONTROL, Accelerator, Ref("", name)) for name in status.accelerators
        ]
        return engine.launch(
            Assignment(
                uid=replica.uid,
                epoch=status.epoch,
                model_name=revision.spec.model,
                model_path=self.tools.blobs.path(revision.spec.digest),
                context_tokens=form.context_tokens,
                slots=form.slots,
                memory_bytes=status.memory_bytes,
                cores=node.status.cores if node else 1.0,
                accelerators=status.accelerators,
                devices=tuple(device.spec.device for device in devices if device),
                token=self.tools.token(replica.uid, status.epoch),
            )
        )

    def _think(self, question: Question) -> None:
        """Have it thought about in the background; what comes of it is seen in a later turn."""
        self.observer.thinks()
        work = guarded("outlook", self._thought(question))
        self._thinking = asyncio.create_task(work)

    async def _thought(self, question: Question) -> None:
        outlook = await asyncio.to_thread(self.tools.think, question)
        if outlook:
            self.observer.expect(outlook)

    def _run_gate(self, build: Ref, replica: Ref) -> None:
        """Judge in the background; an older gate of the same build is let go."""
        if build in self._gates:
            self._gates[build].cancel()
        work = guarded(f"gate {build.name}", self._gate(build, replica))
        self._gates[build] = asyncio.create_task(work)

    async def _gate(self, build_ref: Ref, replica_ref: Ref) -> None:
        replica = self.world.get(CONTROL, Replica, replica_ref)
        build = self.world.get(CONTROL, Build, build_ref)
        if replica is None or build is None:
            return
        subject = Subject(
            url=replica.status.url,
            uid=replica.uid,
            token=self.tools.token(replica.uid, replica.status.epoch),
            metrics=self.tools.engines[build.spec.engine].metrics,
        )
        asking = asyncio.get_running_loop().run_in_executor
        while self._is_asked(build):
            checks = await asking(self._examiners, self.tools.judge, subject, build.spec.gate)
            if checks is not None:
                await guarded(f"verdict {build.name}", self._record(build, checks))
            # Still open: no judgement was possible, or it could not be written. Planning says
            # when it is enough.
            await self.world.clock.sleep(GATE_AGAIN_S)
        self._gates.pop(build_ref, None)

    def _is_asked(self, asked: Build) -> bool:
        """Tell whether this question is still open: of the same replica, by the same control."""
        build = self.world.get(CONTROL, Build, asked.ref)
        return build is not None and build.status == asked.status

    async def _record(self, asked: Build, checks: Sequence[Check]) -> None:
        """Write the verdict, unless the build was asked of somebody else meanwhile."""
        build = self.world.get(CONTROL, Build, asked.ref)
        if build is None or not self._is_asked(asked):
            return
        passed = all(check.passed for check in checks)
        now = self.world.clock.now()
        judged = build.with_status(
            verdict=Verdict.PASSED if passed else Verdict.FAILED,
            judged_at=now,
            checks=tuple(checks),
        )
        failed = next((check for check in checks if not check.passed), None)
        event = Event(
            at=now,
            actor="gate",
            code="build.passed" if passed else "build.failed",
            kind="build",
            project=build.project,
            name=build.name,
            uid=build.uid,
            values={"check": failed.name, "detail": failed.detail} if failed else {},
        )
        await self.world.commit(GATE, [judged], events=[event])
