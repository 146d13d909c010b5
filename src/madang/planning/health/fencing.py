"""What becomes of an ill accelerator: nothing new there, its work elsewhere, back once it is well.

One step for each, from what it shows now and what is known of it. Only what is fatal moves work; a
program's own error never does. However much looks broken, no more is fenced at once than
`FENCED_SHARE` of a pool: if the watch itself is wrong, a pool must not be emptied for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from madang.errors import Value
from madang.planning.action import Action, Verb
from madang.planning.health.fitness import Finding, examine, watch_of
from madang.planning.health.xids import Level
from madang.planning.snapshot import LOST, Snapshot
from madang.resources.holding import Holding
from madang.resources.place import Accelerator, AcceleratorPhase, AcceleratorStatus, Failure
from madang.resources.resource import Reason, Ref
from madang.symptoms import Symptoms, Watch

FENCED_SHARE = 0.2
"""Of a pool's accelerators as many, and always one, may be fenced within"""
FENCED_WINDOW_S = 300.0
WELL_S = 600.0
"""So long a fenced one must show nothing bad before it is offered again;"""
EASED_S = 60.0
"""so long one that was only impaired."""
UNRELATED_S = 86_400.0
"""Two failures within that time which have nothing in common are no accident."""
FAILURES_KEPT = 8

STATES = frozenset({
    "accelerator.hot", "accelerator.tool-hung", "accelerator.tool-failed",
    "accelerator.remap-pending", "accelerator.asks-for", "accelerator.too-many",
})  # fmt: skip
"""What is no event: once it does not show any more it is over."""

P = AcceleratorPhase
_REF = attrgetter("ref")


def lost_one(held: Holding, snapshot: Snapshot) -> Accelerator | None:
    """Return the first accelerator of what is held that can't be worked on any more."""
    lost = (snapshot.accelerators[Ref("", n)] for n in held.accelerators if n in snapshot.lost)
    return next(lost, None)


def lost_reason(code: str, lost: Accelerator) -> Reason:
    """Say that work must end for an accelerator's sake; `cause` becomes the words of why."""
    reason = lost.status.reason
    values: dict[str, Value] = {
        **(reason.values if reason else {}), "accelerator": lost.name, "node": lost.spec.node,
    }  # fmt: skip
    values.setdefault("because", reason.code if reason else "")
    return Reason(code=code, values=values)


def plan_accelerators(snapshot: Snapshot) -> Iterator[Action]:
    """Return what changes for accelerators, at most one thing each; nothing where all is well."""
    fenced: Counter[str] | None = None
    watched = snapshot.seen.watches
    there = snapshot.accelerators.values() if watched else ()
    told = [each for each in there if each.spec.node in watched]
    for each in sorted({each.ref: each for each in (*snapshot.unwell, *told)}.values(), key=_REF):
        if fenced is None:
            fenced = _fenced_lately(snapshot)
        action = _step(each, snapshot, fenced)
        if action:
            yield action
            if action.verb in {Verb.FENCE_ACCELERATOR, Verb.QUARANTINE_ACCELERATOR}:
                fenced[pool_of(each, snapshot)] += 1


def wake_s(snapshot: Snapshot) -> float | None:
    """Return the seconds until time alone would change something; None: it would not."""
    due = [
        left
        for each in snapshot.unwell
        if each.status.phase is not P.OK and (left := _left_s(each, snapshot)) is not None
    ]
    return min(due, default=None)


def _left_s(each: Accelerator, snapshot: Snapshot) -> float | None:
    status = each.status
    if status.phase is P.SUSPECT:
        return 5.0
    if status.well_since is None or status.phase is P.QUARANTINED:
        return None
    return max(_limit_s(status) - snapshot.age_s(each.uid, status.well_since), 1.0)


def _step(each: Accelerator, snapshot: Snapshot, fenced: Counter[str]) -> Action | None:
    """Return what is next for one accelerator."""
    if each.status.releases < each.spec.releases:
        return _released(each, snapshot, Reason(code="accelerator.by-operator"))
    watch = watch_of(each, snapshot)
    if watch is None:
        return None
    shown = watch.devices.get(each.spec.device)
    if shown and _is_new(each.status, shown, watch):
        return _met(each, shown, watch)
    found = examine(each, watch)
    if found.level is Level.OK:
        return _recovering(each, snapshot)
    if each.status.phase in LOST:
        return _still_ill(each, watch)
    if found.level is Level.FATAL:
        return _fatal(each, found, snapshot, fenced)
    return _degraded(each, found, snapshot)


def _is_new(status: AcceleratorStatus, shown: Symptoms, watch: Watch) -> bool:
    """Tell whether it is another device, or its counts begin anew with its kernel or driver."""
    is_other = bool(shown.serial) and shown.serial != status.serial
    return status.boot != watch.boot or is_other or shown.uncorrectable < status.uncorrectable


def _met(each: Accelerator, shown: Symptoms, watch: Watch) -> Action:
    """Note who it is, and from what its errors are counted."""
    heeded = each.status.heeded if each.status.boot == watch.boot else -1
    noted: Accelerator = each.with_status(
        serial=shown.serial or each.status.serial, boot=watch.boot, heeded=heeded,
        uncorrectable=shown.uncorrectable,
    )  # fmt: skip
    values: dict[str, Value] = {"serial": noted.status.serial or "?"}
    reason = Reason(code="accelerator.serial", values=values)
    return Action(Verb.WATCH_ACCELERATOR, each, reason, (noted,))


def heeded(each: Accelerator, watch: Watch) -> dict[str, Any]:
    """Return the fields that say that all it has told so far is known."""
    shown = watch.devices.get(each.spec.device, Symptoms())
    newest = max((mark for _, mark in shown.xids), default=each.status.heeded)
    known = max(shown.uncorrectable, each.status.uncorrectable)
    return {"boot": watch.boot, "heeded": newest, "uncorrectable": known}


def _degraded(each: Accelerator, found: Finding, snapshot: Snapshot) -> Action | None:
    """Place nothing new there; what was heeded once and is a state goes on being seen."""
    reason, status = found.reason, each.status
    assert reason is not None
    known = _heeded_now(each, snapshot)
    is_same = status.reason is not None and status.reason.code == reason.code
    if status.phase is P.IMPAIRED and is_same and status.well_since is None and not known:
        return None
    since = status.since if status.phase is P.IMPAIRED else snapshot.now
    ill: Accelerator = each.with_status(
        phase=P.IMPAIRED, reason=reason, since=since, well_since=None, **known
    )
    return Action(Verb.IMPAIR_ACCELERATOR, each, reason, (ill,))


def _heeded_now(each: Accelerator, snapshot: Snapshot) -> dict[str, Any]:
    """Return what is to be written down as known that was not; nothing where all is."""
    watch = watch_of(each, snapshot)
    assert watch is not None
    known, status = heeded(each, watch), each.status
    return {} if all(getattr(status, key) == value for key, value in known.items()) else known


def _fatal(
    each: Accelerator, found: Finding, snapshot: Snapshot, fenced: Counter[str]
) -> Action | None:
    """Fence it, or quarantine it, or, where too many go at once, only place nothing new there."""
    pool, reason = pool_of(each, snapshot), found.reason
    assert reason is not None
    limit = fenced_max(pool, snapshot)
    if fenced[pool] >= limit:
        return _suspected(each, reason, snapshot, limit)
    failure = Failure(at=snapshot.now, cause=reason, work=_work(each, snapshot))
    again = any(_is_unrelated(failure, old) for old in each.status.failures)
    phase = P.QUARANTINED if again else P.FENCED
    verb = Verb.QUARANTINE_ACCELERATOR if again else Verb.FENCE_ACCELERATOR
    ill: Accelerator = each.with_status(
        phase=phase, reason=reason, since=snapshot.now, well_since=None, next_try=None,
        fenced_at=snapshot.now, failures=(*each.status.failures, failure)[-FAILURES_KEPT:],
        **_heeded_now(each, snapshot),
    )  # fmt: skip
    return Action(verb, each, reason, (ill,))


def _suspected(each: Accelerator, reason: Reason, snapshot: Snapshot, limit: int) -> Action | None:
    """Leave what runs there alone; nothing is heeded, so that it is fenced once more may be."""
    if each.status.phase is P.SUSPECT and each.status.well_since is None:
        return None
    values: dict[str, Value] = {
        **reason.values, "because": reason.code, "pool": pool_of(each, snapshot), "limit": limit,
        "minutes": int(FENCED_WINDOW_S // 60),
    }  # fmt: skip
    why = Reason(code="accelerator.too-many", values=values)
    ill: Accelerator = each.with_status(
        phase=P.SUSPECT, reason=why, since=snapshot.now, well_since=None
    )
    return Action(Verb.SUSPECT_ACCELERATOR, each, why, (ill,))


def _is_unrelated(new: Failure, old: Failure) -> bool:
    """Tell whether two failures of one day have neither their cause nor their work in common."""
    if not 0 <= new.at - old.at <= UNRELATED_S:
        return False
    is_same_work = bool(set(new.work) & set(old.work))
    return new.cause.code != old.cause.code or not is_same_work


def _work(each: Accelerator, snapshot: Snapshot) -> tuple[str, ...]:
    """Return the uids of the jobs and services that have it."""
    owners: set[str] = set()
    for attempt in snapshot.living:
        job = snapshot.jobs.get(attempt.job)
        if job and any(each.name in place.accelerators for place in attempt.status.places):
            owners.add(job.uid)
    for replica in snapshot.replicas.values():
        service = snapshot.services.get(replica.service)
        if service and each.name in replica.status.accelerators:
            owners.add(service.uid)
    return tuple(sorted(owners))


def _still_ill(each: Accelerator, watch: Watch) -> Action | None:
    """Begin anew to wait until it is well; more of the same is no further failure."""
    known = heeded(each, watch)
    is_known = all(getattr(each.status, key) == value for key, value in known.items())
    if is_known and each.status.well_since is None and each.status.next_try is None:
        return None
    ill: Accelerator = each.with_status(**known, well_since=None, next_try=None)
    values = each.status.reason.values if each.status.reason else {}
    reason = Reason(code="accelerator.still-ill", values={"serial": values.get("serial", "?")})
    return Action(Verb.HEED_ACCELERATOR, each, reason, (ill,))


def _recovering(each: Accelerator, snapshot: Snapshot) -> Action | None:
    """Offer it again once it was well for long enough; one in quarantine never by itself."""
    status = each.status
    if status.phase in {P.OK, P.QUARANTINED}:
        return None
    limit_s = _limit_s(status)
    if status.well_since is None:
        due = snapshot.now + limit_s
        well: Accelerator = each.with_status(well_since=snapshot.now, next_try=due)
        values: dict[str, Value] = {"minutes": int(limit_s // 60)}
        reason = Reason(code="accelerator.seems-well", values=values)
        return Action(Verb.HEED_ACCELERATOR, each, reason, (well,))
    if snapshot.age_s(each.uid, status.well_since) < limit_s:
        return None
    values = {"minutes": int(limit_s // 60)}
    return _released(each, snapshot, Reason(code="accelerator.was-well", values=values))


def _limit_s(status: AcceleratorStatus) -> float:
    """Wait for long after what broke something; a state that has passed is only over."""
    was_state = status.reason is not None and status.reason.code in STATES
    return EASED_S if was_state and status.phase is not P.FENCED else WELL_S


def _released(each: Accelerator, snapshot: Snapshot, reason: Reason) -> Action:
    """Offer it again. Whoever takes it out of quarantine has looked: what was is forgotten."""
    status, watch = each.status, watch_of(each, snapshot)
    kept = () if status.phase is P.QUARANTINED else status.failures
    well: Accelerator = each.with_status(
        phase=P.OK, reason=None, since=snapshot.now, well_since=None, next_try=None,
        failures=kept, releases=each.spec.releases, **(heeded(each, watch) if watch else {}),
    )  # fmt: skip
    return Action(Verb.RELEASE_ACCELERATOR, each, reason, (well,))


def check(each: Accelerator, snapshot: Snapshot) -> Reason | None:
    """Say why it may not be offered again now; None: nothing speaks against it.

    What its kernel has logged is past; what its tool says counts.
    """
    watch = watch_of(each, snapshot)
    if watch is None:
        return Reason(code="accelerator.unwatched", values={"node": each.spec.node})
    known: Accelerator = each.with_status(**heeded(each, watch))
    return examine(known, watch).reason


def pool_of(each: Accelerator, snapshot: Snapshot) -> str:
    """Return the pool of its node; empty where the node is not known."""
    node = snapshot.nodes.get(Ref("", each.spec.node))
    return node.spec.pool if node else ""


def fenced_max(pool: str, snapshot: Snapshot) -> int:
    """Return how many accelerators of a pool may be fenced within `FENCED_WINDOW_S`."""
    count = sum(
        each.spec.accelerator != "cpu" and pool_of(each, snapshot) == pool
        for each in snapshot.accelerators.values()
    )
    return max(1, int(FENCED_SHARE * count))


def _fenced_lately(snapshot: Snapshot) -> Counter[str]:
    """Count those of each pool that were fenced within the window, by whichever clock is longer."""
    lately: Counter[str] = Counter()
    for each in snapshot.accelerators.values():
        at = each.status.fenced_at
        if at is not None:
            past_s = max(snapshot.age_s(each.uid, at), snapshot.now - at)
            lately[pool_of(each, snapshot)] += past_s < FENCED_WINDOW_S
    return lately
