"""The whole slow decision, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from madang.planning.action import Action, Plan, assume
from madang.planning.fleet import Fleet, Memo
from madang.planning.replicas import step, wake_at
from madang.planning.services import households, plan_service
from madang.planning.snapshot import Snapshot
from madang.planning.statuses import plan_nodes, plan_statuses
from madang.resources.replica import Replica, ReplicaPhase

ROUNDS_MAX = 16
"""A plan is quiet after a handful of rounds; this many means that two rules chase each other."""


def plan(snapshot: Snapshot, memo: Memo | None = None) -> Plan:
    """Decide what should happen now.

    Rounds of rules, each seeing the intents of those before, until none has anything to say: so
    a new service gets its revision, its replicas and their places in one plan. Equal snapshots
    give equal plans, with any memo and in any order of nodes.
    """
    memo = memo or Memo()
    actions: list[Action] = []
    for _ in range(ROUNDS_MAX):
        chosen = tuple(_round(snapshot, memo))
        if not chosen:
            return Plan(tuple(actions), _wake_at(snapshot))
        actions.extend(chosen)
        snapshot = assume(snapshot, Plan(chosen))
    raise AssertionError(f"no quiet after {ROUNDS_MAX} rounds: {actions[-1]}")


def _round(snapshot: Snapshot, memo: Memo) -> Iterator[Action]:
    """Return at most one change per resource, each from the first rule that has one."""
    fleet = memo.fleet(snapshot)
    yield from plan_nodes(snapshot)
    touched: set[str] = set()
    for house in households(snapshot):
        for action in chain(plan_service(house, snapshot), plan_statuses(house, snapshot)):
            if _claim(action, touched):
                yield action
        for replica in house.replicas:
            if memo.is_refused(replica, fleet):
                continue
            chosen = step(replica, snapshot, fleet)
            if chosen and _claim(chosen, touched):
                yield chosen
                fleet = _taken(fleet, replica, chosen)
            elif replica.status.phase is ReplicaPhase.WAITING:
                memo.refuse(replica, fleet)


def _taken(fleet: Fleet, replica: Replica, chosen: Action) -> Fleet:
    """Return the fleet as the rest of this round sees it."""
    for changed in chosen.writes:
        if isinstance(changed, Replica) and changed.uid == replica.uid:
            held = changed.status
            if held.accelerators != replica.status.accelerators:
                return fleet.without(replica).after(held.accelerators, held.memory_bytes)
    return fleet


def _claim(action: Action, touched: set[str]) -> bool:
    """Take the resources of this action for this round, unless one is taken."""
    uids = {resource.uid for resource in (*action.writes, *action.gone)}
    if uids & touched:
        return False
    touched |= uids
    return True


def _wake_at(snapshot: Snapshot) -> float | None:
    times = (wake_at(replica, snapshot) for replica in snapshot.replicas.values())
    return min((at for at in times if at is not None), default=None)
