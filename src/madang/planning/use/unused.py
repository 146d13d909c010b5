"""Grants of which less is used than they ask for: warned, and what lies unused is given back.

What a project uses of a kind is what its sums have of it and were not measured as idle, so that
missing readings take nothing. The narrowest of its grants come first, and each accelerator counts
for one of them. Time counts by the clock of this control that only goes forward.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from madang.planning.action import Action, Verb
from madang.planning.ask import of_kind
from madang.planning.grants import given, told
from madang.planning.layout import MILLI
from madang.planning.snapshot import Snapshot
from madang.planning.use.idle import WARNED_AT, is_due, policy_in, slice_s, values_of
from madang.planning.use.metering import used_in
from madang.resources.grant import GIVEN, Deed, Grant, GrantPhase
from madang.resources.idle import IdleWatch, Reclaim, Then
from madang.resources.resource import Reason, Ref
from madang.resources.tenancy import Project

G = GrantPhase
SLACK = 0.98
"""What is used of a last accelerator is more than a reading that came a little late."""


def plan_unused(snapshot: Snapshot) -> Iterator[Action]:
    """Look at every grant for which it is time; warn of it, and take back what is not used."""
    own: dict[str, list[Grant]] = {}
    for grant in given(snapshot):
        own.setdefault(grant.project, []).append(grant)
    for place, grants in sorted(own.items()):
        grants.sort(key=lambda each: (-len(each.spec.accelerator), each.begins, each.name))
        for number, grant in enumerate(grants):
            policy = grant.spec.reclaim or policy_in(place, snapshot)
            if policy and _is_time(grant, policy, snapshot):
                yield from _look(grant, policy, grants[:number], snapshot)


def wake_s(snapshot: Snapshot) -> float | None:
    """Return the seconds until the next look."""
    policies = (each.spec.reclaim or policy_in(each.project, snapshot) for each in given(snapshot))
    return min((slice_s(policy) for policy in policies if policy), default=None)


def _is_time(grant: Grant, policy: Reclaim, snapshot: Snapshot) -> bool:
    watch = grant.status.watch
    return watch is None or snapshot.age_s(grant.uid, watch.at) >= slice_s(policy)


def _look(
    grant: Grant, policy: Reclaim, before: Sequence[Grant], snapshot: Snapshot
) -> Iterator[Action]:
    """Note how much of a grant was used since the last look, and what follows."""
    watch, used = grant.status.watch, _used(grant.project, grant.spec.accelerator, snapshot)
    fresh = IdleWatch(at=snapshot.now, term=snapshot.term, used=used, below=policy.below)
    if watch is None:
        yield _kept(grant, fresh)
        return
    if watch.term != snapshot.term:
        marks = {"at": snapshot.now, "term": snapshot.term, "used": used}
        yield _kept(grant, watch.model_copy(update=marks))
        return
    passed_s = snapshot.age_s(grant.uid, watch.at)
    rate = _rate(grant, before, Counter(used) - Counter(watch.used), passed_s)
    is_sane = all(used.get(kind, 0) >= amount for kind, amount in watch.used.items())
    if not is_sane or rate >= policy.below * MILLI * grant.status.count:
        yield from _used_again(grant, fresh, snapshot)
        return
    if watch.below == policy.below:
        passed_s += watch.idle_s
        fresh = fresh.model_copy(update={
            "peak_milli": max(rate, watch.peak_milli), "warned_s": watch.warned_s
        })  # fmt: skip
    else:
        fresh = fresh.model_copy(update={"peak_milli": rate})
    yield from _judge(grant, fresh.model_copy(update={"idle_s": passed_s}), policy, snapshot)


def _judge(
    grant: Grant, fresh: IdleWatch, policy: Reclaim, snapshot: Snapshot
) -> Iterator[Action]:  # fmt: skip
    """Warn of a grant that was idle for half of the time; take back what was for all of it."""
    if is_due(fresh.idle_s, fresh.warned_s, policy):
        yield _give_back(grant, fresh, policy, snapshot)
    elif fresh.warned_s is None and fresh.idle_s >= WARNED_AT * policy.over:
        fresh = fresh.model_copy(update={"warned_s": fresh.idle_s})
        reason = _warning(grant, fresh, policy)
        warned: Grant = grant.with_status(
            phase=G.WARNED, watch=fresh, reason=reason, since=snapshot.now
        )
        yield Action(Verb.WARN_IDLE, grant, reason, (warned,))
    else:
        yield _kept(grant, fresh)


def _give_back(
    grant: Grant, fresh: IdleWatch, policy: Reclaim, snapshot: Snapshot
) -> Action:  # fmt: skip
    """Let a grant be over as far as it is not used: for whoever is next in line, from now on."""
    left = min(used_up(fresh), grant.status.count)
    returned = grant.status.count - left
    values = values_of(fresh.idle_s, fresh.warned_s, policy)
    values |= {"returned": returned, "left": left}
    deed = Deed(what="return", by="control", at=snapshot.now, text=str(returned))
    phase = going(grant) if left else G.RECLAIMED
    fewer: Grant = grant.with_status(
        count=left or grant.status.count, deeds=(*grant.status.deeds, deed), watch=None
    )
    reason = Reason(code="grant.returned", values=values)
    done: Grant = fewer.with_status(phase=phase, reason=told(fewer, phase), since=snapshot.now)
    return Action(Verb.RETURN_GRANT, grant, reason, (done,))


def _used_again(grant: Grant, fresh: IdleWatch, snapshot: Snapshot) -> Iterator[Action]:
    """Begin anew, and take a warning back; one that it ends soon is given by the next rule."""
    watch = grant.status.watch
    if watch is None or watch.warned_s is None:
        yield _kept(grant, fresh)
        return
    moved: Grant = grant.with_status(
        phase=going(grant), watch=fresh, reason=told(grant, going(grant)), since=snapshot.now
    )
    yield Action(Verb.BUSY_AGAIN, grant, Reason(code="idle.used-again"), (moved,))


def used_up(watch: IdleWatch) -> int:
    """Return how many accelerators were used at most while a grant was idle, whole ones."""
    return math.ceil(watch.peak_milli * SLACK / MILLI)


def _warning(grant: Grant, watch: IdleWatch, policy: Reclaim) -> Reason:
    code = "grant.warned-only" if policy.then is Then.WARN else "grant.warned-idle"
    values = values_of(watch.idle_s, watch.warned_s, policy)
    return Reason(code=code, values={
        **values, "count": grant.status.count, "used": used_up(watch),
    })  # fmt: skip


def warning_of(grant: Grant, snapshot: Snapshot) -> Reason | None:
    """Say that a grant is warned of since it is not used, as it is by now; None: it is not."""
    watch = grant.status.watch
    if watch is None or watch.warned_s is None or grant.status.phase not in GIVEN:
        return None
    policy = grant.spec.reclaim or policy_in(grant.project, snapshot)
    return _warning(grant, watch, policy) if policy else None


def going(grant: Grant) -> GrantPhase:
    """Return the phase of a grant that is given and not warned of."""
    return G.RENEWED if grant.status.until else G.ACTIVE


def _kept(grant: Grant, watch: IdleWatch) -> Action:
    noted: Grant = grant.with_status(watch=watch)
    return Action(Verb.METER, grant, Reason(code="meter.read"), (noted,))


def _used(place: str, start: str, snapshot: Snapshot) -> dict[str, int]:
    """Return what a project has used so far of the kinds that begin so, or may have used."""
    project = snapshot.get(Project, Ref(place, place.rpartition("/")[2]))
    found: Counter[str] = Counter()
    for use in used_in(project, snapshot) if project else ():
        if of_kind(use.accelerator, start):
            found[use.accelerator] += use.held - use.idle
    return dict(found)


def _rate(
    grant: Grant, before: Sequence[Grant], used: Mapping[str, int], passed_s: float
) -> int:  # fmt: skip
    """Return how many accelerators of a grant were used, in thousandths.

    What narrower and older grants of its project are used up by does not count for it.
    """
    if passed_s <= 0:
        return MILLI * grant.status.count
    rates = {kind: amount / passed_s for kind, amount in used.items()}
    for other in before:
        room = float(MILLI * other.status.count)
        for kind in sorted(each for each in rates if of_kind(each, other.spec.accelerator)):
            taken = min(room, rates[kind])
            rates[kind], room = rates[kind] - taken, room - taken
    return round(sum(rates.values()))
