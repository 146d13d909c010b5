"""Room by shares: once every few minutes those who are given none may have to make some.

For whom each turn of a lane gives room, and whom placement then refuses it. Never for what counts
for less; only where it then really starts; and as few as will do, who is worth least first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from madang.planning.action import Action, Verb
from madang.planning.ask import Ask
from madang.planning.place.gangs import Want, want_of
from madang.planning.place.ground import Ground
from madang.planning.queue.clock import passed_s
from madang.planning.queue.lanes import Lane, Member
from madang.planning.queue.order import Order
from madang.planning.queue.preempt import Victim, coming_free, is_refused, make_room
from madang.planning.quotas import NOTHING
from madang.planning.share.rule import RULE
from madang.planning.share.turn import Why
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of
from madang.resources.job import Job
from madang.resources.replica import Replica
from madang.resources.resource import Reason

ASKED_MAX = 16
"""For so many at a time room is made in a lane,"""
VICTIMS_MAX = 256
"""and so many that might make it are looked at for each."""
CODES = {
    Why.AGED: ("attempt.yields-aged", "attempt.yields-aged-elsewhere"),
    Why.GUARANTEED: ("attempt.yields-share", "attempt.yields-share-elsewhere"),
    Why.WORTH: ("attempt.yields-worth", "attempt.yields-worth-elsewhere"),
}
"""What those are told who make room for their own project, and for another."""


def plan_turns(snapshot: Snapshot, ground: Ground, order: Order) -> Iterator[Action]:
    """Have those make room, in each lane where it is time, who are given none."""
    for lane in order.lanes.values():
        if lane.queue is None or due_s(lane, snapshot) > 0 or not _waits(lane):
            continue
        chosen = tuple(_Room(lane, snapshot, ground).made())
        if chosen:
            yield from chosen
            turned = lane.queue.with_status(turn_at=snapshot.now)
            reason = Reason(code="queue.turn", values={"kind": lane.kind})
            yield Action(Verb.TURN, lane.queue, reason, (turned,))


def would_make_room(
    waiter: Job | Replica, lane: Lane, snapshot: Snapshot, ground: Ground
) -> bool:  # fmt: skip
    """Tell whether a turn of the lane now would have others make room for it, once they saved."""
    return _Room(lane, snapshot, ground).helps(waiter)


def wake_s(snapshot: Snapshot, order: Order) -> float | None:
    """Return the seconds until somebody may be asked again; None: nobody has cause to."""
    lanes = [lane for lane in order.lanes.values() if lane.queue and _waits(lane)]
    times = (due if (due := due_s(lane, snapshot)) > 0 else _saved_s(lane) for lane in lanes)
    return min((due for due in times if due > 0), default=None)


def _saved_s(lane: Lane) -> float:
    """Return the seconds until the first has saved who is asked only then; 0: there is none."""
    return float(min(lane.line.saves_s[lane.leaving.late], default=0.0))


def due_s(lane: Lane, snapshot: Snapshot) -> float:
    """Return the seconds until somebody may be asked again in a lane; below 0: since then."""
    if lane.queue is None:
        return 0.0
    return RULE.every_s - passed_s(snapshot, lane.queue.uid, lane.queue.status.turn_at)


def _waits(lane: Lane) -> bool:
    """Tell whether somebody waits there, and somebody could make room."""
    is_refused_here = any(not m.runs and is_refused(m.owner) for m in lane.present)
    return is_refused_here and bool((lane.line.runs & ~lane.line.fixed).any())


def _may_leave(member: Member, snapshot: Snapshot) -> bool:
    own = member.attempt if member.fixed_until <= snapshot.now else None
    return own is not None and all(p.node in snapshot.seen.nodes for p in own.status.places)


def _victim(member: Member) -> Victim | None:
    job, attempt = member.owner, member.attempt
    return Victim(job, attempt, 0.0) if isinstance(job, Job) and attempt else None


class _Room:
    """One turn of one lane, tried on what is free."""

    def __init__(self, lane: Lane, snapshot: Snapshot, ground: Ground) -> None:
        self._lane, self._snapshot, self._ground = lane, snapshot, ground
        self._is_patient = True
        made, present = lane.turn, lane.present
        why = made.why.tolist()
        there = [at for at in made.order.tolist()[::-1] if _may_leave(present[at], snapshot)]
        self._place = {id(present[at]): at for at in there}
        spare = (present[at] for at in lane.leaving.leaves)
        self._spare = [member for member in spare if id(member) in self._place]
        """Who is given nothing: who is worth least first, but who saves soon after all others;"""
        rest = (Why.WORTH, Why.GUARANTEED)
        self._given = [present[at] for each in rest for at in there if why[at] == each]
        """and who is given something that is not for its age."""
        waits = [(present[at], Why(why[at])) for at in made.starts]
        waits = [(member, why) for member, why in waits if is_refused(member.owner)]
        top = max((m.height for m in present if not m.runs), default=0)
        self._waits = sorted(
            (each for each in waits if each[0].height == top),
            key=lambda each: isinstance(each[0].owner, Job),
        )  # fmt: skip

    def made(self) -> Iterator[Action]:
        """Ask those to save who make room, for one after the other."""
        if not self._waits or not (self._spare or self._waits[0][1] is Why.AGED):
            return
        coming = tuple(coming_free(self._snapshot))
        mark = (
            "turn", self._lane.kind, *(m.owner.uid for m, _ in self._waits[:ASKED_MAX]),
            *(m.owner.uid for m in self._spare), len(self._given), *self._lane.leaving.late,
            *((held.node, held.accelerators) for held in coming),
        )  # fmt: skip
        if mark in self._ground.stuck:
            return
        with self._ground.trial():
            for held in coming:
                self._ground.change(held, NOTHING)
            found = list(islice(self._helped(), ASKED_MAX))
        for member, why, victims in found:
            yield from make_room(member.owner, victims, self._snapshot, CODES[why])
        if not found:
            self._ground.stuck.add(mark)

    def helps(self, waiter: Job | Replica) -> bool:
        """Tell whether room would be made for one of those who wait, whoever has to save first."""
        self._is_patient = False
        with self._ground.trial():
            for held in coming_free(self._snapshot):
                self._ground.change(held, NOTHING)
            helped = islice(self._helped(), ASKED_MAX)
            return any(member.owner.uid == waiter.uid for member, *_ in helped)

    def _helped(self) -> Iterator[tuple[Member, Why, Sequence[Victim]]]:
        """Return for whom there is room once these have left, in a trial."""
        ground = self._ground
        for member, why in self._waits:
            want = self._want(member)
            if want is None:
                continue
            if want.fits(ground):
                want.take(ground)
                continue
            may = self._spare + (self._given if why is Why.AGED else [])
            chosen = self._fewest(want, [m for m in may if m.height <= member.height])
            if chosen and why is not Why.AGED and self._is_patient and not self._is_time(chosen):
                for other in chosen:
                    self._stay(other)
            elif chosen:
                for other in chosen:
                    (self._spare if other in self._spare else self._given).remove(other)
                want.take(ground)
                yield member, why, [victim for m in chosen if (victim := _victim(m))]

    def _want(self, member: Member) -> Want | None:
        """Return what one asks for, as far as quotas leave it."""
        owner, ground = member.owner, self._ground
        if isinstance(owner, Job):
            want: Want | None = want_of(owner)
        else:
            ask = ask_of(owner.revision, self._snapshot)
            want = Want(ask) if ask else None
        if want is None:
            return None
        allowed = ground.allowed_to(owner, want.ask, want.nodes)
        return replace(want, ask=allowed) if isinstance(allowed, Ask) else None

    def _fewest(self, want: Want, may: Sequence[Member]) -> Sequence[Member]:
        """Return who leaves so that there is room, and have them gone; nobody where all do not."""
        gone: list[Member] = []
        for member in may[:VICTIMS_MAX]:
            self._leave(member)
            gone.append(member)
            if want.fits(self._ground):
                break
        else:
            for member in gone:
                self._stay(member)
            return ()
        for member in gone[-2::-1]:
            self._stay(member)
            if want.fits(self._ground):
                gone.remove(member)
            else:
                self._leave(member)
        return gone

    def _is_time(self, chosen: Sequence[Member]) -> bool:
        """Tell whether these would not lose much that they will have saved soon."""
        return self._lane.leaving.is_time([self._place[id(member)] for member in chosen])

    def _leave(self, member: Member) -> None:
        for place in member.attempt.status.places if member.attempt else ():
            self._ground.change(place, NOTHING)

    def _stay(self, member: Member) -> None:
        for place in member.attempt.status.places if member.attempt else ():
            self._ground.change(NOTHING, place)
