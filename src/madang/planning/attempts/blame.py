"""Whose doing it is that an attempt must end: which rank was the first, and what its lines say.

When one rank of a gang is gone the others fail as well, a second later and with words of their own
("Connection closed by peer"). So the cause is the rank that ended first, one ended by a signal
before all others; and a line that tells of a consequence is never shown as the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from madang.errors import Value
from madang.planning.health.fencing import lost_one, lost_reason
from madang.planning.health.fitness import watch_of
from madang.planning.snapshot import Snapshot, rank_key
from madang.resources.attempt import Attempt, AttemptPhase, Outcome, member_uid
from madang.resources.place import Accelerator, AcceleratorPhase, NodePhase
from madang.resources.quantity import written_size
from madang.resources.resource import Reason, Ref
from madang.supervisor.protocol import Process, Rank

NODE_LOST_S = 60.0
"""A gang of which a node can't be seen for so long is started again elsewhere."""
LOGGED_S = 3.0
"""A rank whose accelerator is watched is judged only so long after its end: by then it is known
whether the accelerator was ill, and that comes before whatever the rank says of itself."""
SIGBUS, SIGKILL = 7, 9
LATER = 75
"""Exit code (EX_TEMPFAIL of sysexits) by which a program asks to go on later."""
ASKED_ITSELF = "attempt.asks-to-go-on-later"

ENDS = frozenset({
    "accelerator.contained", "accelerator.row-remapped", "accelerator.uncorrectable",
    "accelerator.too-many",
})  # fmt: skip
"""What ends programs without being fatal to the accelerator, and what may be but is not believed
yet."""
CONSEQUENCES = re.compile(
    r"connection (closed|reset) by peer|timed out waiting|broken pipe|address already in use"
    r"|connection refused|NCCL.*(abort|timeout)",
    re.IGNORECASE,
)
"""What other ranks say when one is gone; seen with gloo, of NCCL read."""
LIKELY: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("job.no-module", re.compile(r"ModuleNotFoundError: No module named '([^']{1,100})'")),
    ("job.no-file", re.compile(r"No such file or directory: '([^']{1,200})'")),
    ("job.no-file", re.compile(r"can't open file '([^']{1,200})'")),
    ("job.accelerator-memory", re.compile(r"(CUDA out of memory|HIP out of memory)")),
    (
        "job.accelerator-access",
        re.compile(
            r"CUDA error: (an illegal memory access was encountered|device-side assert triggered"
            r"|misaligned address|invalid program counter)"
        ),
    ),
    ("job.memory", re.compile(r"(DefaultCPUAllocator|Cannot allocate memory|MemoryError)")),
    ("job.shared-memory", re.compile(r"(unable to allocate shared memory)")),
    ("job.disk-full", re.compile(r"(No space left on device|Disk quota exceeded)")),
    ("job.file-too-large", re.compile(r"(File too large)")),
)
"""The likely cause by what the last lines say, in the order in which it is asked."""


@dataclass(frozen=True, slots=True)
class Blame:
    """Why an attempt must end, and by whose doing."""

    outcome: Outcome
    cause: Reason
    rank: int | None = None
    exit_code: int | None = None
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """One rank, where it runs."""

    node: str
    uid: str
    rank: Rank


def blame(attempt: Attempt, snapshot: Snapshot) -> Blame | None:
    """Say why an attempt must end now; None while it goes on."""
    ranks: list[_Seen] = []
    members_gone = 0
    for member, place in enumerate(attempt.status.places):
        uid = member_uid(attempt, member)
        refused = snapshot.seen.refused.get((uid, attempt.spec.number))
        if refused:
            return Blame(Outcome.FAULT, refused)
        if lost := lost_one(place, snapshot):
            return Blame(Outcome.FAULT, lost_reason("attempt.accelerator", lost))
        if place.node not in snapshot.seen.nodes:
            if _is_lost(place.node, snapshot):
                values: dict[str, Value] = {"node": place.node, "seconds": int(NODE_LOST_S)}
                return Blame(Outcome.FAULT, Reason(code="attempt.node-lost", values=values))
            continue
        process = snapshot.seen.processes.get(uid)
        if process is None:
            if attempt.status.phase is AttemptPhase.RUNNING:
                values = {"node": place.node}
                return Blame(Outcome.FAULT, Reason(code="attempt.vanished", values=values))
            continue
        if process.over_bytes:
            return _too_much(attempt, place.node, process, snapshot)
        members_gone += process.state == "exited"
        ranks += [_Seen(place.node, uid, rank) for rank in process.ranks]
    if any(_is_open(attempt, seen.rank, snapshot) for seen in ranks):
        return None
    return _ended(attempt, ranks, members_gone, snapshot) or _stalled(ranks)


def _too_much(attempt: Attempt, node: str, process: Process, snapshot: Snapshot) -> Blame:
    """Blame a member that held more memory than its job has asked for."""
    job = snapshot.jobs.get(attempt.job)
    values: dict[str, Value] = {
        "node": node, "memory": written_size(process.over_bytes),
        "asked": written_size(job.spec.needs.host_memory if job else 0),
    }  # fmt: skip
    first = process.ranks[0].rank if process.ranks else 0
    lines = snapshot.seen.lines.get(rank_key(process.uid, first), ())
    cause = Reason(code="job.over-memory", values=values)
    return Blame(Outcome.ERROR, cause, exit_code=-SIGKILL, last_lines=lines)


def _is_open(attempt: Attempt, rank: Rank, snapshot: Snapshot) -> bool:
    """Tell whether it may still turn out that a rank ended for its accelerator's sake."""
    if not rank.exit_code or rank.exit_code == LATER:
        return False
    is_fresh = 0 <= snapshot.now - (rank.ended_at or 0.0) < LOGGED_S
    return is_fresh and any(watch_of(each, snapshot) for each in _accelerators(attempt, snapshot))


def is_undecided(attempt: Attempt, snapshot: Snapshot) -> bool:
    """Tell whether a rank has ended whose end is not judged yet."""
    members = range(len(attempt.status.places))
    found = (snapshot.seen.processes.get(member_uid(attempt, member)) for member in members)
    return any(_is_open(attempt, rank, snapshot) for p in found if p for rank in p.ranks)


def _accelerators(attempt: Attempt, snapshot: Snapshot) -> Iterator[Accelerator]:
    """Return all that an attempt has."""
    for place in attempt.status.places:
        for name in place.accelerators:
            found = snapshot.accelerators.get(Ref("", name))
            if found:
                yield found


def _ill_meanwhile(attempt: Attempt, snapshot: Snapshot) -> Accelerator | None:
    """Return an accelerator of an attempt that has fallen ill since it runs, if less than fatally.

    One that is only hot, or of which its tool says nothing, ends no program.
    """
    return next(
        (
            each
            for each in _accelerators(attempt, snapshot)
            if each.status.phase is not AcceleratorPhase.OK
            and each.status.reason is not None
            and each.status.reason.code in ENDS
            and each.status.since >= attempt.status.started_at
        ),
        None,
    )


def _is_lost(name: str, snapshot: Snapshot) -> bool:
    node = snapshot.nodes.get(Ref("", name))
    if node is None:
        return True
    is_lost = node.status.phase is NodePhase.LOST
    return is_lost and snapshot.age_s(node.uid, node.status.since) >= NODE_LOST_S


def _ended(
    attempt: Attempt, ranks: Sequence[_Seen], members_gone: int, snapshot: Snapshot
) -> Blame | None:
    """Judge the ranks that have ended; None: none has, or those only before the others."""
    bad = [seen for seen in ranks if seen.rank.exit_code]
    if bad:
        return _failed(attempt, min(bad, key=_first), bad, snapshot)
    places = len(attempt.status.places)
    if members_gone < places:
        return None
    if all(seen.rank.exit_code == 0 for seen in ranks) and ranks:
        return Blame(Outcome.SUCCEEDED, Reason(code="attempt.done"), exit_code=0)
    return Blame(Outcome.FAULT, Reason(code="attempt.leader-ended"))


def _first(seen: _Seen) -> tuple[bool, float, int]:
    """Put first whom a signal ended, and of these who ended first."""
    code = seen.rank.exit_code or 0
    return code > 0, seen.rank.ended_at or 0.0, seen.rank.rank


def _failed(
    attempt: Attempt, first: _Seen, bad: Sequence[_Seen], snapshot: Snapshot
) -> Blame:  # fmt: skip
    lines = snapshot.seen.lines.get(rank_key(first.uid, first.rank.rank), ())
    code = first.rank.exit_code or 0
    outcome, cause = _judged(first.rank, code, lines)
    if ill := _ill_meanwhile(attempt, snapshot):
        outcome, cause = Outcome.FAULT, lost_reason("attempt.accelerator", ill)
    if all(seen.rank.exit_code == LATER for seen in bad):
        outcome, cause = Outcome.PREEMPTED, Reason(code=ASKED_ITSELF)
    return Blame(outcome, cause, first.rank.rank, code, lines)


def _judged(rank: Rank, code: int, lines: Sequence[str]) -> tuple[Outcome, Reason]:
    """Say whose doing an exit code is, and what it is likely to come from."""
    values: dict[str, Value] = {"rank": rank.rank, "exit_code": code, "signal": -code}
    if rank.error:
        return Outcome.ERROR, Reason(code="job.no-command", values=values | {"what": rank.error})
    for name, pattern in LIKELY:
        for line in reversed(lines):
            found = pattern.search(line)
            if found:
                return Outcome.ERROR, Reason(code=name, values=values | {"what": found.group(1)})
    if code == -SIGKILL:
        return Outcome.FAULT, Reason(code="job.killed", values=values)
    if code == -SIGBUS:
        return Outcome.ERROR, Reason(code="job.shared-memory", values=values | {"what": "SIGBUS"})
    if code < 0:
        return Outcome.FAULT, Reason(code="job.signalled", values=values)
    if lines and CONSEQUENCES.search(lines[-1]):
        return Outcome.FAULT, Reason(code="job.lost-others", values=values)
    return Outcome.ERROR, Reason(code="job.exited", values=values)


def _stalled(ranks: Sequence[_Seen]) -> Blame | None:
    """Say which rank holds the others up, once none of them makes a step any more.

    All stand still when one does: it is the one that is stopped, else the one with fewest steps.
    One that evaluates, or saves, does so for all; and some may leave it to others to tell of steps.
    """
    living = [seen.rank for seen in ranks if seen.rank.exit_code is None]
    telling = [rank for rank in living if rank.step >= 0 or rank.phase] or living
    still = [rank for rank in telling if rank.stalled]
    if not still or (len(still) < len(telling) and not any(rank.halted for rank in still)):
        return None
    culprit = min(living, key=_slowest)
    values: dict[str, Value] = {
        "rank": culprit.rank, "step": culprit.step, "seconds": int(max(r.quiet_s for r in still)),
    }  # fmt: skip
    code = "attempt.halted" if culprit.halted else "attempt.stalled"
    return Blame(Outcome.FAULT, Reason(code=code, values=values), culprit.rank)


def _slowest(rank: Rank) -> tuple[bool, int, int]:
    return not rank.halted, rank.step, rank.rank
