"""What leaves a decision: named actions, each with its reason, its intent and its effect."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from madang.planning.forecast import Question
from madang.planning.snapshot import Snapshot
from madang.resources.resource import AnyResource, Reason, Ref


class Verb(StrEnum):
    """Every action there is; also the code of the event that tells of it."""

    CREATE_ENDPOINT = "endpoint.created"
    CREATE_REVISION = "revision.created"
    CREATE_REPLICA = "replica.created"
    HOLD_REPLICA = "replica.waiting"
    START_REPLICA = "replica.started"
    REPEAT_START = "replica.start-repeated"
    ANSWERING_REPLICA = "replica.announced"
    VERIFY_BUILD = "build.verifying"
    READY_REPLICA = "replica.ready"
    BACK_OFF_REPLICA = "replica.backed-off"
    RELEASE_REPLICA = "replica.released"
    FAIL_REPLICA = "replica.failed"
    DRAIN_REPLICA = "replica.draining"
    STOP_REPLICA = "replica.stopping"
    REPEAT_STOP = "replica.stop-repeated"
    FORGET_REPLICA = "replica.stopped"
    START_ATTEMPT = "attempt.started"
    REPEAT_ATTEMPT = "attempt.start-repeated"
    RUN_ATTEMPT = "attempt.running"
    MAKE_ROOM = "room.made"
    SAVE_ATTEMPT = "attempt.saving"
    REPEAT_SAVE = "attempt.save-repeated"
    READ_CHECKPOINT = "checkpoint.claimed"
    STOP_ATTEMPT = "attempt.stopping"
    REPEAT_HALT = "attempt.stop-repeated"
    RELEASE_ATTEMPT = "attempt.released"
    END_ATTEMPT = "attempt.ended"
    HOLD_JOB = "job.waiting"
    RETRY_JOB = "job.retried"
    FINISH_JOB = "job.succeeded"
    FAIL_JOB = "job.failed"
    CANCEL_JOB = "job.cancelled"
    FORGET_JOB = "job.forgotten"
    CLEAR_JOB = "job.clearing"
    GROW_SWEEP = "sweep.grown"
    COUNT_SWEEP = "sweep.counted"
    STEER_SWEPT = "sweep.passed-on"
    WATCH_ACCELERATOR = "accelerator.watched"
    IMPAIR_ACCELERATOR = "accelerator.impaired"
    SUSPECT_ACCELERATOR = "accelerator.suspected"
    FENCE_ACCELERATOR = "accelerator.fenced"
    QUARANTINE_ACCELERATOR = "accelerator.quarantined"
    HEED_ACCELERATOR = "accelerator.looked-at"
    RELEASE_ACCELERATOR = "accelerator.released"
    METER = "meter.read"
    BUSY_AGAIN = "idle.over"
    WARN_IDLE = "idle.warned"
    RETURN_GRANT = "grant.gave-back"
    STATUS_GRANT = "grant.status"
    STATUS_ROUND = "round.status"
    STATUS_NODE = "node.status"
    STATUS_REVISION = "revision.status"
    STATUS_SERVICE = "service.status"
    SCALE_SERVICE = "service.scaled"
    PRICE_SERVICE = "service.priced"
    STOP_ORPHAN = "process.orphaned"
    REPRICE = "outlook.asked"
    TALLY = "tally.kept"
    TURN = "queue.turned"
    QUEUE = "queue.kept"
    FORGET_SERVICE = "service.deleted"


@dataclass(frozen=True, slots=True)
class Start:
    """Start the process of this replica, at the epoch its status has."""

    replica: Ref


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process with this uid, up to this epoch, on this node."""

    node: str
    uid: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Launch:
    """Start every rank of this attempt, where its status says."""

    attempt: Ref


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell all these processes to save and to end; nothing is ended."""

    members: tuple[Stop, ...]


@dataclass(frozen=True, slots=True)
class Halt:
    """End all these processes."""

    orders: tuple[Stop, ...]
    grace_s: float
    """So long they have between the signal to end and the one that ends."""


@dataclass(frozen=True, slots=True)
class Record:
    """Read the folder that this attempt calls a checkpoint, and write down what it is."""

    job: Ref
    attempt: Ref


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove what a job has on the disk, and then forget it with all its attempts."""

    job: Ref


@dataclass(frozen=True, slots=True)
class RunGate:
    """Judge this build on this replica, and record the verdict."""

    build: Ref
    replica: Ref


@dataclass(frozen=True, slots=True)
class Reprice:
    """Think about what is expected, apart, and see what it says in a later turn."""

    question: Question


Effect = Start | Stop | Launch | Warn | Halt | Record | Discard | RunGate | Reprice


@dataclass(frozen=True, slots=True)
class Unkept:
    """What an action is about and no store keeps: a process that no replica claims, the outlook."""

    uid: str
    kind: str = "process"
    project: str = ""

    @property
    def name(self) -> str:
        """What it is called: only its uid is left."""
        return self.uid


@dataclass(frozen=True, slots=True)
class Action:
    """One decision. Its writes are the intent: they are committed before the effect begins."""

    verb: Verb
    subject: AnyResource | Unkept
    reason: Reason
    writes: tuple[AnyResource, ...] = ()
    gone: tuple[AnyResource, ...] = ()
    effect: Effect | None = None

    @property
    def fix(self) -> Reason | None:
        """Return what would help whom it leaves waiting, and was tried; None: nothing known."""
        own = (each for each in self.writes if each.uid == self.subject.uid)
        return next((getattr(each.status, "smallest_fix", None) for each in own), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that should happen now, and when to look again."""

    actions: tuple[Action, ...] = ()
    wake_s: float | None = None
    """Seconds until time alone changes something; None: nothing waits for time."""

    def intent(self) -> tuple[tuple[AnyResource, ...], tuple[AnyResource, ...]]:
        """Return the writes of all actions, (changed, gone), the last of each resource."""
        last: dict[tuple[str, Ref], tuple[AnyResource, bool]] = {}
        for action in self.actions:
            last.update({(r.kind, r.ref): (r, False) for r in action.writes})
            last.update({(r.kind, r.ref): (r, True) for r in action.gone})
        changed = tuple(r for r, is_gone in last.values() if not is_gone)
        gone = tuple(r for r, is_gone in last.values() if is_gone and r.resource_version > 0)
        return changed, gone

    def effects(self) -> tuple[Action, ...]:
        """Return the actions that have an effect, the last for each subject."""
        return tuple({a.subject.uid: a for a in self.actions if a.effect}.values())

    def telling(self) -> tuple[Action, ...]:
        """Return the actions worth telling: the last of each verb for each subject."""
        told = (a for a in self.actions if a.verb is not Verb.METER)
        return tuple({(a.verb, a.subject.uid): a for a in told}.values())


def assume(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """Return the snapshot with the plan's intents in flight.

    At the same instant there is nothing more to plan: `plan(assume(s, plan(s)))` has no actions.
    """
    last: dict[tuple[str, Ref], tuple[AnyResource, bool]] = {}
    for action in plan.actions:
        last.update({(r.kind, r.ref): (r, False) for r in action.writes})
        last.update({(r.kind, r.ref): (r, True) for r in action.gone})
    states = last.values()
    snapshot = snapshot.after(
        (r for r, gone in states if not gone), (r for r, gone in states if gone)
    )
    orphans = {a.subject.uid for a in plan.actions if a.verb is Verb.STOP_ORPHAN}
    if orphans:
        left = {u: p for u, p in snapshot.seen.processes.items() if u not in orphans}
        snapshot = replace(snapshot, seen=replace(snapshot.seen, processes=left))
    if any(action.verb is Verb.REPRICE for action in plan.actions):
        snapshot = replace(snapshot, seen=replace(snapshot.seen, thought_at=snapshot.steady_s))
    return snapshot
