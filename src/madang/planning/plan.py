"""The whole slow decision, on one screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from madang.planning import jobs
from madang.planning.action import Action, Plan, Reprice, Stop, Unkept, Verb, assume
from madang.planning.attempts import attempts
from madang.planning.forecast import question
from madang.planning.grants import plan_grants
from madang.planning.grants import wake_s as grant_wake_s
from madang.planning.health.fencing import plan_accelerators
from madang.planning.health.fencing import wake_s as fencing_wake_s
from madang.planning.jobs import Task, plan_job, tasks
from madang.planning.keeping import plan_forgetting
from madang.planning.layout import Layout
from madang.planning.memo import Memo
from madang.planning.overuse import plan_over
from madang.planning.place.ground import Ground
from madang.planning.queue.order import Order
from madang.planning.queue.preempt import plan_room
from madang.planning.queue.queues import plan_queues
from madang.planning.queue.queues import wake_s as clock_wake_s
from madang.planning.queue.turns import plan_turns
from madang.planning.queue.turns import wake_s as turn_wake_s
from madang.planning.quotas import wake_s as quota_wake_s
from madang.planning.rounds.calls import plan_rounds
from madang.planning.rounds.calls import wake_s as round_wake_s
from madang.planning.services.moving import plan_moves
from madang.planning.services.replicas import step
from madang.planning.services.replicas import wake_s as replica_wake_s
from madang.planning.services.services import Household, plan_service
from madang.planning.snapshot import Snapshot
from madang.planning.statuses import plan_nodes, plan_statuses
from madang.planning.sweeps import plan_sweep
from madang.planning.tally import plan_tallies
from madang.planning.use.idle import plan_idle
from madang.planning.use.metering import plan_meters
from madang.planning.use.metering import wake_s as meter_wake_s
from madang.planning.use.tariffs import plan_tariffs
from madang.planning.use.tariffs import wake_s as tariff_wake_s
from madang.planning.use.unused import plan_unused
from madang.planning.use.unused import wake_s as unused_wake_s
from madang.resources.attempt import Attempt, member_uid
from madang.resources.replica import Replica
from madang.resources.resource import Reason

ROUNDS_MAX = 16
"""A plan is quiet after a handful of rounds; this many means that two rules chase each other."""


OURS = ("replica-", "attempt-")
"""How uids begin of what replicas and attempts run: the only processes that planning may end."""


def plan(snapshot: Snapshot, memo: Memo | None = None) -> Plan:
    """Decide what should happen now.

    Rounds of rules, each seeing the intents of those before, until none has anything to say: so
    a new service gets its revision, its replicas and their places in one plan. Equal snapshots
    give equal plans, with any memo and in any order of nodes.
    """
    memo = memo or Memo()
    actions: list[Action] = []
    for _ in range(ROUNDS_MAX):
        houses = memo.houses(snapshot)
        chosen = (
            tuple(plan_tallies(snapshot))
            or tuple(plan_meters(snapshot, memo.readings))
            or tuple(plan_tariffs(snapshot))
            or (*plan_rounds(snapshot), *plan_grants(snapshot))
            or tuple(plan_unused(snapshot))
            or tuple(plan_idle(snapshot))
            or tuple(plan_accelerators(snapshot))
            or tuple(plan_over(snapshot, memo.ground(snapshot)))
            or tuple(_deeds(houses, snapshot, memo))
            or tuple(plan_moves(snapshot, memo.ground(snapshot)))
            or tuple(plan_room(snapshot, memo.ground(snapshot), memo.order(snapshot)))
            or tuple(plan_turns(snapshot, memo.ground(snapshot), memo.order(snapshot)))
            or tuple(_words(houses, snapshot))
        )
        order = memo.order(snapshot)
        kept = tuple(plan_queues(snapshot, order)) if not chosen else ()
        actions.extend(kept)
        if not chosen and order.are_kept:
            # What is kept of queues that are there changes nothing else: no need to look again.
            return Plan(tuple(actions), _wake_s(snapshot, memo.ground(snapshot), order))
        actions.extend(chosen)
        snapshot = assume(snapshot, Plan((*chosen, *kept)))
    raise AssertionError(f"no quiet after {ROUNDS_MAX} rounds: {actions[-1]}")


def _deeds(houses: Sequence[Household], snapshot: Snapshot, memo: Memo) -> Iterator[Action]:
    """Return at most one change per resource, each from the first rule that has one."""
    ground = memo.ground(snapshot)
    touched: set[str] = set()
    for house in houses:
        for action in plan_service(house, snapshot):
            if _claim(action, touched):
                yield action
        for replica in house.replicas:
            chosen = step(replica, snapshot, ground)
            if chosen and _claim(chosen, touched):
                yield chosen
                _carry_out(ground, replica, chosen)
    order = memo.order(snapshot)
    for task in tasks(snapshot, ground, order):
        is_sweep = bool(task.job.spec.sweep)
        own = plan_sweep(task, snapshot) if is_sweep else plan_job(task, snapshot, ground, order)
        yield from _of_task(task, own, snapshot, ground, touched)
    yield from filter(lambda action: _claim(action, touched), plan_forgetting(snapshot))
    yield from _orphans(snapshot)
    yield from _thought(snapshot, ground.layout, memo)


def _of_task(
    task: Task, planned: Iterable[Action], snapshot: Snapshot, ground: Ground, touched: set[str]
) -> Iterator[Action]:
    """Return what is next for a job, as far as it may be, and for its attempts."""
    for action in planned:
        if _claim(action, touched):
            yield action
            _take_places(ground, action, snapshot)
    for attempt in task.living:
        chosen = attempts.step(attempt, snapshot)
        if chosen and _claim(chosen, touched):
            yield chosen
            _take_places(ground, chosen, snapshot)


def _orphans(snapshot: Snapshot) -> Iterator[Action]:
    """Stop what runs for nobody: its replica was forgotten before the order to stop arrived."""
    claimed = {replica.uid for replica in snapshot.replicas.values()}
    claimed |= {
        member_uid(attempt, member)
        for attempt in snapshot.living
        for member, place in enumerate(attempt.status.places)
        if place.accelerators
    }
    for uid in sorted(snapshot.seen.processes.keys() - claimed):
        node, epoch = snapshot.seen.places.get(uid), snapshot.seen.processes[uid].epoch
        is_told = (uid, epoch) in snapshot.seen.fenced
        if node is not None and uid.startswith(OURS) and not is_told:
            order = Stop(node, uid, epoch)
            reason = Reason(code="process.orphaned")
            yield Action(Verb.STOP_ORPHAN, Unkept(uid), reason, effect=order)


def _thought(snapshot: Snapshot, layout: Layout, memo: Memo) -> Iterator[Action]:
    """Think anew about what is to come, where the mix or the hardware has changed."""
    asked = question(snapshot, layout, memo.mix(snapshot, layout))
    if asked:
        reason = Reason(code="outlook.changed", values={"kinds": len(asked.mix)})
        yield Action(Verb.REPRICE, Unkept("outlook", "outlook"), reason, effect=Reprice(asked))


def _words(houses: Sequence[Household], snapshot: Snapshot) -> Iterator[Action]:
    """Return what nodes, revisions and services say of themselves once all deeds are done."""
    yield from plan_nodes(snapshot)
    for house in houses:
        yield from plan_statuses(house, snapshot)


def _carry_out(ground: Ground, replica: Replica, chosen: Action) -> None:
    """Let the rest of this round see what the replica has let go of and taken."""
    for changed in chosen.writes:
        is_own = isinstance(changed, Replica) and changed.uid == replica.uid
        if is_own and changed.status.accelerators != replica.status.accelerators:
            ground.carry_out(replica, changed.status)
            ground.books.take(replica.project, changed.status)


def _take_places(ground: Ground, chosen: Action, snapshot: Snapshot) -> None:
    """Let the rest of this round see what an attempt has taken.

    What it lets go of is for the next round, which begins with those who are first in line.
    """
    for changed in chosen.writes:
        if isinstance(changed, Attempt) and changed.ref not in snapshot.attempts:
            ground.change_all((), changed.status.places)
            for place in changed.status.places:
                ground.books.take(changed.project, place)


def _claim(action: Action, touched: set[str]) -> bool:
    """Take the resources of this action for this round, unless one is taken."""
    uids = {resource.uid for resource in (*action.writes, *action.gone)}
    if uids & touched:
        return False
    touched |= uids
    return True


def lives_wake_s(snapshot: Snapshot) -> float | None:
    """Return the seconds until a replica, a job or an accelerator may go on by itself."""
    times = [replica_wake_s(replica, snapshot) for replica in snapshot.unsettled]
    times += [attempts.wake_s(attempt, snapshot) for attempt in snapshot.living]
    times += [jobs.wake_s(job, snapshot) for job in snapshot.open_jobs if jobs.is_timed(job)]
    return _soonest(*times, fencing_wake_s(snapshot))


def _wake_s(snapshot: Snapshot, ground: Ground, order: Order) -> float | None:
    return _soonest(
        lives_wake_s(snapshot), quota_wake_s(snapshot, ground.books), grant_wake_s(snapshot),
        meter_wake_s(snapshot), turn_wake_s(snapshot, order), clock_wake_s(snapshot, order),
        round_wake_s(snapshot), unused_wake_s(snapshot), tariff_wake_s(snapshot),
    )  # fmt: skip


def _soonest(*times: float | None) -> float | None:
    return min((due for due in times if due is not None and due > 0), default=None)
