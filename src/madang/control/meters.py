"""How busy is what replicas and jobs have, added up on a clock that only goes forward.

By what their accelerators' tools tell, where those do; processors by the time that the kernel gives
out; else by signs of life: requests of a service, steps of a job. Gathers, and judges nothing. What
nobody tells is not known: that is never idleness.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from madang.control.gateways import Gateways
from madang.control.world import World
from madang.planning.snapshot import Load
from madang.resources.attempt import Attempt, AttemptPhase, member_uid
from madang.resources.holding import Holding
from madang.resources.place import Accelerator
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Ref
from madang.resources.rights import CONTROL
from madang.resources.tariff import Tokens
from madang.supervisor.protocol import Process, Rank

LOOK_S = 5.0
"""So often it is looked."""
BLIND_S = 60.0
"""What lies further apart than that is not known in between."""
STEPS = 5.0
"""A job steps while the last step is no longer ago than so many of them take,"""
STEP_S_MIN = 60.0
"""or than that."""
Key = tuple[str, int]
"""uid and epoch."""
Busy = Mapping[str, Mapping[str, float]]
"""How busy accelerators are, 0 to 1, by node and device; of a node in sight."""


@dataclass(slots=True)
class _Dial:
    known_s: float = 0.0
    busy_s: float = 0.0
    tokens: Tokens = (0, 0, 0)
    """What was read and written in that time."""
    cpu_s: float | None = None
    """Processor time at the last look."""


class Meters:
    """One dial for each replica and attempt that has accelerators."""

    def __init__(self, world: World, gateways: Gateways) -> None:
        self._world = world
        self._gateways = gateways
        self._dials: dict[Key, _Dial] = {}
        self._shown: dict[Key, Load] = {}
        """What they show; made anew at each look, for it is part of a snapshot."""
        self._asked: dict[Ref, int] = {}
        """How many requests each endpoint has had."""
        self._looked_s: float | None = None

    def look(self, busy: Busy, processes: Mapping[str, Process]) -> dict[Key, Load]:
        """Read all dials, unless that was done a moment ago; return what they show."""
        now_s = self._world.clock.monotonic()
        since_s = None if self._looked_s is None else now_s - self._looked_s
        if since_s is None or since_s >= LOOK_S:
            self._looked_s = now_s
            self._turn(min(since_s or 0.0, BLIND_S), _Sight(self._world, busy, processes))
            dials = self._dials.items()
            self._shown = {key: Load(dial.known_s, dial.busy_s, dial.tokens) for key, dial in dials}
        return self._shown

    def _turn(self, passed_s: float, sight: _Sight) -> None:
        """Move every dial on; those of what is gone are thrown away."""
        asked = {Ref(u.project, u.endpoint): u.requests for u in self._world.usage(CONTROL)}
        flows = {ref for ref, count in asked.items() if count != self._asked.get(ref, 0)}
        self._asked = asked
        inflight, is_told = self._gateways.inflight(), self._gateways.routed() is not None
        before, self._dials, counted = self._dials, {}, self._world.take_tokens()
        for key, owner in _holders(self._world):
            dial = self._dials[key] = before.get(key) or _Dial()
            share = sight.share(owner, dial, passed_s)
            if share is None and isinstance(owner, Replica) and is_told:
                is_ready = owner.status.phase is ReplicaPhase.READY
                is_asked = owner.uid in inflight or owner.service in flows
                share = float(is_asked) if is_ready else None
            if share is not None:
                dial.known_s += passed_s
                dial.busy_s += passed_s * share
                told = counted.get(key[0], (0, 0, 0))
                prompt, cached, output = (a + b for a, b in zip(dial.tokens, told, strict=True))
                dial.tokens = prompt, cached, output


class _Sight:
    """What is seen at one look."""

    def __init__(self, world: World, busy: Busy, processes: Mapping[str, Process]) -> None:
        self._busy = busy
        self._processes = processes
        self._accelerators = world.list(CONTROL, Accelerator.kind)

    def share(self, owner: Replica | Attempt, dial: _Dial, passed_s: float) -> float | None:
        """Return how busy all is that something has, on average; None: not all of it is known."""
        members = list(_members(owner))
        shares = [self._device(place, name) for _, place in members for name in place.accelerators]
        known = [each for each in shares if each is not None]
        if shares and len(known) == len(shares):
            return sum(known) / len(known)
        if all(self._is_processor(place) for _, place in members):
            return self._processors(members, dial, passed_s)
        return self._steps(members) if isinstance(owner, Attempt) else None

    def _device(self, place: Holding, name: str) -> float | None:
        found = self._accelerators.get(Ref("", name))
        told = self._busy.get(place.node, {})
        return told.get(found.spec.device) if found else None

    def _is_processor(self, place: Holding) -> bool:
        found = (self._accelerators.get(Ref("", name)) for name in place.accelerators)
        return all(each is not None and each.spec.accelerator == "cpu" for each in found)

    def _processors(
        self, members: list[tuple[str, Holding]], dial: _Dial, passed_s: float
    ) -> float | None:
        """Return how busy processors are that are kept for something: of one where none is."""
        seen = [self._processes.get(uid) for uid, _ in members]
        if not seen or not all(each and each.cpu_s for each in seen):
            dial.cpu_s = None
            return None
        used_s, before_s = sum(each.cpu_s for each in seen if each), dial.cpu_s
        dial.cpu_s = used_s
        if before_s is None or used_s < before_s or not passed_s:
            return None
        cores = sum(max(1.0, place.cores) for _, place in members)
        return min(1.0, (used_s - before_s) / (passed_s * cores))

    def _steps(self, members: list[tuple[str, Holding]]) -> float | None:
        """Tell whether any rank of a gang gets on; None: none has said anything yet."""
        seen = (self._processes.get(uid) for uid, _ in members)
        ranks = [rank for each in seen if each for rank in each.ranks if rank.step >= 0]
        return float(any(map(_gets_on, ranks))) if ranks else None


def _gets_on(rank: Rank) -> bool:
    return rank.exit_code is None and rank.quiet_s <= max(STEP_S_MIN, STEPS * rank.step_s)


def _members(owner: Replica | Attempt) -> Iterator[tuple[str, Holding]]:
    """Return the processes of a replica, or of an attempt, with what each has."""
    if isinstance(owner, Replica):
        yield owner.uid, owner.status
        return
    for member, place in enumerate(owner.status.places):
        if place.accelerators:
            yield member_uid(owner, member), place


def _holders(world: World) -> Iterator[tuple[Key, Replica | Attempt]]:
    for replica in world.list(CONTROL, Replica.kind).values():
        if isinstance(replica, Replica) and replica.status.accelerators:
            yield (replica.uid, replica.status.epoch), replica
    for attempt in world.list(CONTROL, Attempt.kind).values():
        if isinstance(attempt, Attempt) and attempt.status.phase is not AttemptPhase.ENDED:
            yield (attempt.uid, attempt.spec.number), attempt
