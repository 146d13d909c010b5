"""Several processes that choose replicas and give turns as one gateway would.

Each tells what it has under way at every replica, so that a replica's bounds hold once, and who
waits for a turn. Turns go by `share` in each process; between processes whoever has less under way
goes first: a process lets a replica go by that somebody of another process, who has less, waits
for. It does so for a moment only, since what waits there may be unable to go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

from msgspec import structs

from madang.traffic.desk import Desk
from madang.traffic.exchange import Exchange, Place
from madang.traffic.fleet import BUSY_S, Fleet
from madang.traffic.front import Front
from madang.traffic.health import identity
from madang.traffic.hold import Call, Hold, _Line, _Weight
from madang.traffic.joint import JointBudgets, Others, Seat
from madang.traffic.limits import Limits
from madang.traffic.prompt import Prompt
from madang.traffic.refusal import Refusal
from madang.traffic.route import Router, _Crew
from madang.traffic.table import Target, Usage

LOOK_S = 0.005
"""So often what others have under way everywhere is read; of the replica chosen, each time."""
YIELD_S = 0.05
"""So long a turn is left to somebody elsewhere who has less, and does not take it."""
TRIES_MAX = 8
LEVELS = 7
"""Of how much somebody has under way: none, 1, up to 3, up to 7 …; each has 8 bits of a number."""
LEVEL_BITS = 8
LEVEL_COUNT_MAX = 15
"""So many of one level are told by a process, that the sums of 16 fit."""
LOOKED_AT = 16
"""So many who wait are looked at for one who has nothing under way."""
TOLD_MAX = 64
"""Of so many who wait for one endpoint it is told how much they have."""


class JointFleet(Fleet):
    """What each replica has to do, for this process and for all others."""

    def __init__(self, limits: Limits, others: Others) -> None:
        self.there: list[int] = []
        """Requests under way by others."""
        self.unread_there: list[float] = []
        self._others = others
        self._seats: list[Seat | None] = []
        self._most: list[int] = []
        self._looked_at = 0.0
        super().__init__(limits)

    def enrol(self, target: Target, spot: int) -> None:
        """Take in a replica, and count it together with the others."""
        if spot < len(self._seats) and (before := self._seats[spot]):
            before.leave()
        uid, epoch = identity(target)
        seat = self._others.seat(f"replica/{uid}/{epoch}")
        self._seats[spot : spot + 1] = [seat]
        self.there[spot : spot + 1] = [0]
        self.unread_there[spot : spot + 1] = [0.0]
        most = target.slots * self._per_slot
        self._most[spot : spot + 1] = [most if seat else max(1, most // self._others.processes)]
        super().enrol(target, spot)
        self.look(spot)

    def look(self, spot: int) -> bool:
        """Read what others have at a spot; False: all together have more than may be there."""
        if seat := self._seats[spot]:
            _, _, _, requests, unread = seat.elsewhere(0)
            if requests != self.there[spot] or unread != self.unread_there[spot]:
                self.there[spot], self.unread_there[spot] = requests, unread
                self._weigh(spot)
        return self.requests[spot] + self.there[spot] <= self._most[spot]

    def look_around(self, now: float) -> None:
        """Read what others have everywhere, if that was not done lately."""
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            for spot in range(len(self._seats)):
                self.look(spot)

    def _weigh(self, spot: int) -> None:
        """Say anew how long a prompt would wait there, and tell the others what we have there."""
        super()._weigh(spot)
        if seat := self._seats[spot]:
            seat.tell((0, 0, 0, self.requests[spot], int(self.unread[spot])))
        there = self.there[spot]
        if self.requests[spot] + there >= self._most[spot]:
            self.wait_s[spot] = float("inf")
        elif there:
            slots = self._slots[spot]
            self.wait_s[spot] += (
                self.unread_there[spot] * self.pace_s[spot] + BUSY_S * there / slots
            )
            if (more := self.requests[spot] + there + 1 - slots) > 0:
                self.wait_s[spot] += self._held_s[spot] * min(more, there) / slots


class JointRouter(Router):
    """What one of several processes knows of its targets."""

    def __init__(self, limits: Limits, others: Others) -> None:
        super().__init__(limits)
        self._processes = others.processes
        self._joint = JointFleet(limits, others)
        self._fleet = self._joint

    def take(
        self, targets: Sequence[Target], now: float, without: str = "", prompt: Prompt | None = None
    ) -> Target | None:
        """Pick a target as `Router` does, and not one that others have filled meanwhile."""
        prompt = prompt or Prompt()
        self._joint.look_around(now)
        for _ in range(TRIES_MAX):
            target = super().take(targets, now, without, prompt)
            if target is None or self._joint.look(prompt.spot):
                return target
            self.give_back(target, now, prompt)
        return None

    def _has_its_part(self, crew: _Crew, spot: int, prompt: Prompt) -> bool:
        fleet, most = self._joint, self.limits.unread_tokens_max
        if fleet.unread[spot] + fleet.unread_there[spot] < most:
            return False
        return fleet.has_its_part(prompt.lane, most * len(crew.all.spots) / self._processes)


def parted(limits: Limits, processes: int) -> Limits:
    """Return the bounds of one of so many processes: what weighs on memory is divided."""
    return structs.replace(
        limits,
        requests_max=-(-limits.requests_max // processes),
        bodies_bytes_max=max(limits.body_bytes_max, limits.bodies_bytes_max // processes),
    )


class _Tenant:
    """What somebody has under way at one endpoint."""

    __slots__ = ("own", "seat", "weight")

    def __init__(self, seat: Seat | None) -> None:
        self.seat, self.own, self.weight = seat, 0, 1.0

    @property
    def level(self) -> int:
        """How much that is by weight, here and elsewhere."""
        all_of = self.own + (self.seat.elsewhere(0)[3] if self.seat else 0)
        return min(LEVELS - 1, int(all_of / self.weight).bit_length())


class _Turns:
    """What is told of the turns at one endpoint."""

    def __init__(self, place: Place, others: Others) -> None:
        self._name, self._others = f"{place[0]}/{place[1]}", others
        self.seat = others.seat(f"line/{self._name}")
        self.tenants: dict[str, _Tenant] = {}
        self.yields_since: float | None = None

    def of(self, tenant: str, weight: float = 0.0) -> _Tenant:
        """Return what is known of somebody; a weight of 0 leaves it as it was."""
        found = self.tenants.get(tenant)
        if found is None:
            seat = self._others.seat(f"turns/{self._name}/{tenant}")
            found = self.tenants[tenant] = _Tenant(seat)
        found.weight = weight or found.weight
        return found

    def count(self, tenant: str, sign: int) -> None:
        """Count what somebody has under way here, and tell it."""
        found = self.of(tenant)
        found.own += sign
        if found.seat:
            found.seat.tell((0, 0, 0, found.own, 0))

    def tell(self, line: _Line) -> None:
        """Tell how many wait here, and how much these have under way."""
        if self.seat is None:
            return
        counts = [0] * LEVELS
        for tenant in islice(line.own, TOLD_MAX):
            level = self.of(tenant).level
            counts[level] = min(LEVEL_COUNT_MAX, counts[level] + 1)
        told = sum(count << LEVEL_BITS * level for level, count in enumerate(counts))
        self.seat.tell((0, 0, 0, len(line.calls), told))

    def owes(self, tenant: str) -> bool:
        """Tell whether somebody who has less waits elsewhere."""
        if self.seat is None or not (told := self.seat.elsewhere(0)[4]):
            return False
        return bool(told & ((1 << LEVEL_BITS * self.of(tenant).level) - 1))

    def needy(self, first: str, line: _Line) -> Exchange | None:
        """Return one of somebody who has nothing under way anywhere, if whoever is next has."""
        if self.of(first).level:
            for name in islice(line.own, LOOKED_AT):
                if not self.of(name).level and (found := line.share.oldest(name)):
                    return found
        return None

    def tidy(self, waiting: Collection[str]) -> bool:
        """Forget who has nothing under way, and does not wait; False: that is all of them."""
        for name, each in tuple(self.tenants.items()):
            if not each.own and name not in waiting:
                if each.seat:
                    each.seat.leave()
                del self.tenants[name]
        return bool(self.tenants or waiting)


class JointHold(Hold):
    """The lines of one of several processes."""

    def __init__(self, limits: Limits, others: Others) -> None:
        super().__init__(limits)
        self._others = others
        self._turns: dict[Place, _Turns] = {}
        self._counted: dict[Exchange, tuple[Place, str]] = {}

    def tend(self, now: float) -> bool:
        """Tell who waits, and call whose turn has come; False: nobody waits."""
        for place, turns in tuple(self._turns.items()):
            line = self._lines.get(place)
            if line is not None and line.calls:
                turns.tell(line)
                self.serve_at(place, now)
            if not turns.tidy(line.own if line else ()):
                if turns.seat:
                    turns.seat.leave()
                del self._turns[place]
        return any(line.calls for line in self._lines.values())

    def leads(self, exchange: Exchange) -> bool:
        """Tell whether one who comes now is next, here and elsewhere."""
        turns = self._at(exchange.place)
        turns.of(exchange.tenant, exchange.key.weight)
        return super().leads(exchange) and not turns.owes(exchange.tenant)

    def pass_by(self, exchange: Exchange, now: float) -> None:
        """Charge the project of one that had its turn at once."""
        super().pass_by(exchange, now)
        self._begin(exchange)

    def enter(
        self, exchange: Exchange, call: Call, now: float, first: bool = False
    ) -> Refusal | None:
        """Take a place, and tell the others of it."""
        refused = super().enter(exchange, call, now, first)
        line = self._line(exchange.place)
        if line.calls and len(line.own) <= LEVELS:  # else it is told at the next look
            turns = self._at(exchange.place)
            turns.of(exchange.tenant, exchange.key.weight)
            turns.tell(line)
        return refused

    def leave(self, exchange: Exchange) -> Call | None:
        """Give up a place."""
        call = super().leave(exchange)
        line = self._lines.get(exchange.place)
        if call is not None and line is not None and not line.calls:
            self._at(exchange.place).tell(line)
        return call

    def give_back(self, exchange: Exchange, now: float) -> None:
        """Give back what a turn was charged that came to nothing."""
        super().give_back(exchange, now)
        self._end(exchange)

    def settle(self, exchange: Exchange, usage: Usage | None, now: float) -> None:
        """Charge what was used."""
        super().settle(exchange, usage, now)
        self._end(exchange)

    def _turn(self, line: _Line, now: float) -> tuple[Exchange, Target | Refusal] | None:
        """Return whose turn it is, unless it is that of somebody elsewhere who has less."""
        first = line.share.next()
        if first is None:
            return None
        turns = self._at(first.place)
        if (needy := turns.needy(first.tenant, line)) and (choice := needy.turn(now)):
            if isinstance(choice, Target):
                self._begin(needy)
            return needy, choice
        if turns.owes(first.tenant):
            if turns.yields_since is None:
                turns.yields_since = now
            if now - turns.yields_since < YIELD_S:
                return None
        else:
            turns.yields_since = None
        found = super()._turn(line, now)
        if found:
            turns.yields_since = None
            if isinstance(found[1], Target):
                self._begin(found[0])
        return found

    def _most(self, exchange: Exchange) -> _Weight:
        """Return how long a line may be: as a single one, but what others have of it, or our part.

        What weighs on memory is divided.
        """
        whole, parts = super()._most(exchange), self._others.processes
        turns = self._at(exchange.place)
        waiting = turns.seat.elsewhere(0)[3] if turns.seat else whole.count
        count = max(-(-whole.count // parts), whole.count - waiting)
        size = max(self.limits.body_bytes_max, whole.bytes // parts)
        tokens = max(whole.tokens / parts, min(exchange.prompt_tokens, whole.tokens))
        return _Weight(count, size, tokens)

    def _at(self, place: Place) -> _Turns:
        turns = self._turns.get(place)
        if turns is None:
            turns = self._turns[place] = _Turns(place, self._others)
        return turns

    def _begin(self, exchange: Exchange) -> None:
        self._end(exchange)
        self._counted[exchange] = exchange.place, exchange.tenant
        self._at(exchange.place).count(exchange.tenant, 1)

    def _end(self, exchange: Exchange) -> None:
        if counted := self._counted.pop(exchange, None):
            place, tenant = counted
            self._at(place).count(tenant, -1)


class JointDesk(Desk):
    """The desk of one of several processes of one gateway."""

    def __init__(self, limits: Limits, front: Front, salt: int, others: Others) -> None:
        super().__init__(limits, front, salt)
        self._joint_budgets = JointBudgets(others)
        self._joint_hold = JointHold(limits, others)
        self.budgets, self._hold = self._joint_budgets, self._joint_hold
        self._router = JointRouter(limits, others)
        self._refreshed = 0

    def tend(self, now: float) -> bool:
        """Do what is to be done between requests; True: do it again soon, somebody waits."""
        if int(now) != self._refreshed:
            self._refreshed = int(now)
            self._joint_budgets.refresh(now)
        return self._joint_hold.tend(now)
