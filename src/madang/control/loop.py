"""The slow loop, on one screen.

It keeps its own pace: a change only wakes it earlier. A plan is a proposal: every write of it is
guarded by the version it was planned from, and a plan that lost a race is dropped and made anew.
"""

from __future__ import annotations

import asyncio
from functools import partial

from madang.control.act import Hands
from madang.control.guard import guarded
from madang.control.observe import Observer
from madang.control.world import World
from madang.planning.action import Action, Plan
from madang.planning.memo import Memo
from madang.planning.plan import plan
from madang.planning.snapshot import Snapshot
from madang.resources.event import Event
from madang.resources.rights import CONTROL
from madang.settings import TURN_SECONDS_MAX
from madang.threads import started

AFTER_ERROR_S = 0.5
"""Pause after a turn that ended in an error."""


class Loop:
    """Observe, plan, act, record; again when something changes or when time is up."""

    def __init__(self, world: World, observer: Observer, hands: Hands) -> None:
        self.world = world
        self.observer = observer
        self.hands = hands
        self.memo = Memo()
        thinker = started(1, "plan")  # its own: no slow engine may keep it waiting
        self._think = partial(asyncio.get_running_loop().run_in_executor, thinker)

    async def run(self) -> None:
        """Turn until cancelled."""
        await self.observer.first_look()
        while True:
            tick = self.world.tick
            planned = await guarded("turn", self.turn())
            if planned is None:
                await self.world.clock.sleep(AFTER_ERROR_S)
            else:
                await self.world.moved(tick, self._pause_s(planned))

    async def turn(self) -> Plan:
        """Go round once, and return what was done."""
        # 1. Observe: one immutable moment of what is stored and what is seen.
        await self.world.be_sure()
        snapshot = self.world.snapshot(CONTROL, self.observer.seen())
        # 2. Plan: pure, so it can think in a thread while the API goes on answering.
        planned = await self._think(plan, snapshot, self.memo)
        if not planned.actions:
            return planned
        # 3. Intend: all reservations and reasons on disk, in one transaction, before any act. Who
        # lost a race raises here: the plan is dropped, and the next turn makes another.
        changed, gone = planned.intent()
        events = [told(a, snapshot) for a in planned.telling()]
        await self.world.commit(CONTROL, changed, gone, events)
        # 4. Act. What comes of it is seen in a later turn, and recorded by its plan.
        await self.hands.carry_out(planned)
        return planned

    def _pause_s(self, planned: Plan) -> float:
        if planned.wake_s is None:
            return TURN_SECONDS_MAX
        return min(TURN_SECONDS_MAX, max(0.05, planned.wake_s))


def told(action: Action, snapshot: Snapshot) -> Event:
    """Tell of an action, as an event."""
    subject = action.subject
    return Event(
        at=snapshot.now,
        actor="control",
        code=action.verb,
        kind=subject.kind,
        project=subject.project,
        name=subject.name,
        uid=subject.uid,
        values={**action.reason.values, "reason": action.reason.code},
    )
