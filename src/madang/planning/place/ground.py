"""What is free, to place on: kept from turn to turn, and scored anew only where it changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from madang.planning.ask import Ask, Filter
from madang.planning.forecast import booked, milli_of
from madang.planning.layout import Layout, Option, Usage
from madang.planning.place.draw import Draw
from madang.planning.placement.columns import MADANG, NOWHERE, Columns
from madang.planning.placement.demand import Demand
from madang.planning.placement.fit import enough, fitting
from madang.planning.placement.fleet import NO_DEVICE, Board, Bools, Fleet
from madang.planning.placement.fragmentation import Fragmentation
from madang.planning.placement.gang import Gang, GangPlacement, place_gang
from madang.planning.placement.mix import Mix
from madang.planning.placement.moves import Mover
from madang.planning.placement.outlook import Outlook
from madang.planning.placement.placer import Choice, Placer
from madang.planning.placement.prices import Prices
from madang.planning.placement.reserve import BONUS, Ledger
from madang.planning.quotas import NO_BOOKS, NOTHING, Books, Limit
from madang.planning.snapshot import Snapshot
from madang.resources.holding import Holding
from madang.resources.job import Job
from madang.resources.place import AcceleratorPhase
from madang.resources.replica import Replica, ReplicaStatus
from madang.resources.resource import Reason

UNSEEN = -1
"""Free processors of a node that can't be seen: too few for anything."""
DEMANDS_MAX = 2_000
"""How many different demands are kept ready; beyond, the ready ones are forgotten."""


def free_of(
    layout: Layout, snapshot: Snapshot, *, everywhere: bool = False, but_jobs: bool = False
) -> Fleet:
    """Return what is free: what there is, less what is held; `but_jobs`: by services.

    Lost nodes, and those that are emptied, have nothing to give, unless `everywhere` asks what it
    were if they had. What
    is ill is as if it were not there.
    """
    board = layout.fleet.board()
    _take(board, map(layout.usage, snapshot.served() if but_jobs else snapshot.holdings()))
    np.maximum(board.free, 0, out=board.free, where=layout.fleet.free != NO_DEVICE)
    for place in ill(layout, snapshot):
        board.free[place] = NO_DEVICE
    if not everywhere:
        seen = snapshot.seen.nodes - drained(snapshot)
        board.cpu_milli[[i for i, node in enumerate(layout.nodes) if node not in seen]] = UNSEEN
    return board.fleet()


def drained(snapshot: Snapshot) -> frozenset[str]:
    """Return the nodes that are in sight, and on which nothing may stay."""
    emptied = {ref.name for ref, node in snapshot.nodes.items() if node.spec.drain}
    return snapshot.seen.nodes & emptied


def ill(layout: Layout, snapshot: Snapshot) -> frozenset[tuple[int, int]]:
    """Return (host, device) of those on which nothing new is placed."""
    return frozenset(
        layout.places[each.name]
        for each in snapshot.accelerators.values()
        if each.status.phase is not AcceleratorPhase.OK and each.name in layout.places
    )


def _take(board: Board, usages: Iterable[Usage]) -> None:
    """Take all of these from what is free, at once."""
    used = [usage for usage in usages if usage.devices]
    devices = np.array([each for usage in used for each in usage.devices], np.int64).reshape(-1, 3)
    np.subtract.at(board.free, (devices[:, 0], devices[:, 1]), devices[:, 2])
    beside = np.array([
        (host, usage.cpu_milli, usage.memory_mib)
        for usage in used if usage.cpu_milli or usage.memory_mib
        for host in board.start.of_node(usage.devices[0][0])
    ], np.int64).reshape(-1, 3)  # fmt: skip
    np.subtract.at(board.cpu_milli, beside[:, 0], beside[:, 1])
    np.subtract.at(board.memory_mib, beside[:, 0], beside[:, 2])


def _change(
    board: Board, usage: Usage, sign: int, but: Collection[tuple[int, int]] = ()
) -> int | None:
    """Add to what is free, or take from it; return the host, None if there is none any more.

    `but`: these devices are left as they are.
    """
    for host, device, units in usage.devices:
        if (host, device) not in but:
            board.free[host, device] += sign * units
    if not usage.devices:
        return None
    host = usage.devices[0][0]
    for each in board.start.of_node(host):
        if board.cpu_milli[each] != UNSEEN:
            board.cpu_milli[each] += sign * usage.cpu_milli
            board.memory_mib[each] += sign * usage.memory_mib
    return host


def _nobody(_: Job) -> Sequence[Job]:
    return ()


class Ground:
    """What is free, to place on: choices are made by it, and then carried out on it."""

    def __init__(self, layout: Layout, free: Fleet, outlook: Outlook | None = None) -> None:
        self.layout, self.outlook, self.draw = layout, outlook, Draw(layout)
        self.draw.count(free)
        self.refusals: dict[str, tuple[Reason, Reason | None]] = {}
        """What was found when a revision was last asked of just this state: reason, and fix."""
        self.lines: dict[object, Reason] = {}
        """What keeps the first in line waiting, by what it asks for; since a round began."""
        self.savers: dict[tuple[str, str, str], str] = {}
        """Which job has each folder of a volume to save in; since a round began."""
        self.books: Books = NO_BOOKS
        """What quotas leave; since a round began."""
        self.ahead_of: Callable[[Job], Sequence[Job]] = _nobody
        """Who of all jobs that wait is tried before one; since a round began."""
        self.closed: set[str] = set()
        """Kinds of accelerators of which what is free is kept for one that waited too long."""
        self.stuck: set[tuple[object, ...]] = set()
        """Who found no room by any move in just this state, and what could be moved."""
        self.added: dict[object, Reason | None] = {}
        """What was found to help where nodes are added: that hangs on no state of these."""
        wholes = tuple(kind.whole for kind in layout.fleet.kinds)
        halves = tuple(max(1, whole // 2) for whole in wholes)
        self._usual = tuple(dict.fromkeys((Demand(0, 0, 1, wholes), Demand(0, 0, 1, halves))))
        """What is expected where there is no forecast."""
        self._demands = {demand: row for row, demand in enumerate(self._usual)}
        self._placer = self._score(free)
        self._ledger: Ledger | None = None
        """What the plan is for, and what of it is used; none where there is no outlook."""
        self._is_fresh = True
        self._ill: frozenset[tuple[int, int]] = frozenset()
        self.drained: frozenset[str] = frozenset()
        """Nodes that would have something to give if they were not emptied."""
        """(host, device) of those on which nothing new is placed."""
        self._now: dict[str, ReplicaStatus] = {}
        """What replicas have by now whose places changed since it was told what is free."""

    @property
    def board(self) -> Board:
        """What is free now; change it by `change` alone."""
        return self._placer.board

    def sync(self, snapshot: Snapshot, asks: Iterable[Ask]) -> None:
        """Go on from another state of the same hardware; `asks`: of all that wait."""
        free = free_of(self.layout, snapshot)
        self._ill = ill(self.layout, snapshot)
        self.drained = drained(snapshot)
        self._ledger = booked(self.outlook, snapshot, self.layout) if self.outlook else None
        if self._placer.sync(free):
            self.stuck.clear()
        self.refusals.clear()
        self.draw.count(free)
        self._now.clear()
        self._is_fresh = True
        # All that wait at once: each demand that comes later costs a look at every host.
        self.know(o.demand for each in asks for o in self.layout.options(each))

    def _forget(self) -> None:
        self.refusals.clear()
        self.lines.clear()
        self.stuck.clear()

    def allowed(
        self, project: str, ask: Ask, nodes: int = 1, but: Holding = NOTHING
    ) -> Ask | Limit:
        """Return what quotas leave of an ask, or which of them leaves nothing.

        `but`: what is let go of as soon as that is there counts for nothing.
        """
        return self.books.narrow(project, ask, nodes, self.layout.stocks, but)

    def allowed_to(self, owner: Job | Replica, ask: Ask, nodes: int = 1) -> Ask | Limit:
        """Return the same of what somebody asks for, who may take over from somebody."""
        return self.allowed(owner.project, ask, nodes, self.books.taken_from(owner))

    def choose(self, ask: Ask, but: Collection[str] = ()) -> tuple[Choice, Ask] | None:
        """Return where an ask is met best, `but` on these nodes, and in which of its ways.

        What a way costs counts by what it does for that. None: nowhere now.
        """
        hosts = [host for host, node in enumerate(self.layout.nodes) if node in but] if but else ()
        best, found = NOWHERE, None
        options = self.layout.options(ask)
        self.know([option.demand for option in options])
        for option in options:
            which = self._demands[option.demand]
            bonus = self._bonus(option)
            choice = self._chosen(which, option.demand, bonus, hosts)
            if choice is None:
                continue
            kind = int(self.layout.fleet.kind[choice.host])
            own, most = self._placer.scores[which, choice.host], ask.most_throughput
            score = own * (most / option.ask.throughput) ** (own < 0) + bonus[kind]
            if score > best:
                best, found = score, (choice, option.ask)
        return found

    def _chosen(
        self, which: int, demand: Demand, bonus: Sequence[float], but: Sequence[int]
    ) -> Choice | None:
        """Choose for one demand, `but` these hosts, so that no pool draws more than it may."""
        allowed = self.draw.allowed(self.board, demand)
        if allowed is None:
            return self._placer.choose_but(which, bonus, but)
        allowed[list(but)] = False
        fleet = self.layout.fleet
        row = self._placer.scores[which] + np.array(bonus)[fleet.kind]
        scores = np.where(allowed, row, NOWHERE)
        best = np.flatnonzero((scores == scores.max(initial=NOWHERE)) & (scores > NOWHERE))
        if not len(best):
            return None
        host = int(best[fleet.rank[best].argmin()])
        if int(fleet.kind[host]) in self.draw.tight(demand):
            return Choice(host, self.draw.devices(self.board, host, demand))
        level = int(self._placer.column(host).levels[which])
        return Choice(host, self.board.devices(host, demand, level))

    def _bonus(self, option: Option) -> tuple[float, ...]:
        """Put kinds first that are preferred, and before those the ones that the plan is for."""
        ledger = self._ledger
        if ledger is None:
            return option.bonus
        has_room = (
            ledger.has_room(option.group, k, milli_of(option.demand, k, self.layout))
            for k in range(len(option.bonus))
        )
        return tuple(own + BONUS * room for own, room in zip(option.bonus, has_room, strict=True))

    def search(self, demand: Demand, bonus: Sequence[float], gang: Gang) -> GangPlacement | None:
        """Return the best places for a gang, whatever pools may draw."""
        self.know([demand])
        found = place_gang(self._placer, gang, self.layout.topology, bonus)
        return found if isinstance(found, GangPlacement) else None

    def fits(self, ask: Ask) -> bool:
        """Tell whether there is a place."""
        options = self.layout.options(ask)
        return any(bool(self.fitting(option.demand).any()) for option in options)

    def fitting(self, demand: Demand) -> Bools:
        """[hosts] Whether a demand could go there."""
        fits, allowed = fitting(self.board, demand), self.draw.allowed(self.board, demand)
        return fits if allowed is None else fits & allowed

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Let something be tried: in the end all is as it was."""
        before, lines = self.board.fleet(), dict(self.lines)
        known = dict(self.refusals), set(self.stuck)
        caps = dict(self.draw.caps)
        try:
            yield
        finally:
            self._placer.sync(before)
            self.draw.caps = caps
            self.draw.count(before)
            self.lines, (self.refusals, self.stuck) = lines, known

    def make_room(self, ask: Ask, running: Sequence[tuple[ReplicaStatus, Ask]]) -> list[int]:
        """Return the numbers of those whose move elsewhere might make room, the least harm first.

        Where a pool draws all that it may, whether it does is to be tried.
        """
        wanted = [option.demand for option in self.layout.options(ask)]
        here = [self._where(status, each) for status, each in running]
        self.know([*wanted, *(demand for _, demand in filter(None, here))])
        mover = Mover(self._placer)
        for key, found in enumerate(here):
            if found:
                choice, demand = found
                if any(self.draw.may_follow(self.board, each, choice, demand) for each in wanted):
                    mover.add(key, self._demands[demand], choice)
        ways = (mover.ways(self._demands[demand]) for demand in wanted)
        return list(dict.fromkeys(key for own in ways for _, key, *_ in own))

    def _where(self, status: ReplicaStatus, ask: Ask) -> tuple[Choice, Demand] | None:
        """Return where a replica is, and its demand there."""
        devices = self.layout.usage(status).devices
        if any((host, device) in self._ill for host, device, _ in devices):
            return None  # whoever leaves that makes no room
        option = self.layout.way(ask, status.variant, devices[0][0]) if devices else None
        if option is None:
            return None
        return Choice(devices[0][0], tuple(device for _, device, _ in devices)), option.demand

    def see(self, node: str, everywhere: Fleet) -> None:
        """Take a lost node for seen; `everywhere` says what it has free."""
        for host, name in enumerate(self.layout.nodes):
            if name == node:
                self.board.cpu_milli[host] = everywhere.cpu_milli[host]
                self._placer.refresh(host)

    def fell(self, ask: Ask) -> tuple[tuple[Filter, int], ...]:
        """Return how many nodes fell to each filter first; each counts by its best kind and way."""
        layout, board, order = self.layout, self.board, list(Filter)
        verdict = np.zeros(len(layout.nodes), np.int64)
        kind = layout.fleet.kind
        for option in layout.options(ask):
            demand = option.demand
            own = np.full(len(verdict), order.index(Filter.BUSY))
            fit = enough(layout.fleet.board(), demand)
            few = fit.sum(axis=1) < demand.devices
            for place in self._ill:
                fit[place] = False
            few_well = fit.sum(axis=1) < demand.devices
            allowed = self.draw.allowed(board, demand)
            if allowed is not None:
                own[~allowed] = order.index(Filter.POWER)
            own[board.memory_mib < demand.memory_mib] = order.index(Filter.HOST_MEMORY)
            own[board.cpu_milli < demand.cpu_milli] = order.index(Filter.CORES)
            own[few_well] = order.index(Filter.FENCED)
            own[few] = order.index(Filter.TOO_FEW)
            own[np.array(demand.parts)[kind] == 0] = 0
            verdict = np.maximum(verdict, own)
        for k, stock in enumerate(layout.stocks):
            barred = stock.bars_all(ask)
            if barred:
                verdict[kind == k] = order.index(barred)
        verdict[board.cpu_milli == UNSEEN] = order.index(Filter.LOST)
        emptied = [node in self.drained for node in layout.nodes]
        verdict[np.array(emptied, bool)] = order.index(Filter.DRAINED)
        furthest: dict[str, int] = dict.fromkeys(layout.bare, order.index(Filter.WRONG_KIND))
        for node, found in zip(layout.nodes, verdict, strict=True):
            furthest[node] = max(furthest.get(node, 0), int(found))
        counts = Counter(order[found] for found in furthest.values())
        return tuple(sorted(counts.items(), key=lambda item: order.index(item[0])))

    @property
    def is_fresh(self) -> bool:
        """Tell whether nothing was carried out on it since it was told what is free."""
        return self._is_fresh and not self._now

    def status(self, replica: Replica) -> ReplicaStatus:
        """Return what a replica has by now."""
        return self._now.get(replica.uid, replica.status)

    def idle(self, held: Holding) -> Holding:
        """Return what of this nobody has, of its accelerators alone."""
        free, whole = self.board.free, self.layout.fleet.free
        places = {name: self.layout.places.get(name) for name in held.accelerators}
        names = (name for name, at in places.items() if at and free[at] == whole[at])
        return Holding(node=held.node, accelerators=tuple(names), whole=True)

    def carry_out(self, replica: Replica, after: ReplicaStatus) -> None:
        """Let a replica have what is decided for it."""
        self.change(self.status(replica), after)
        self._now[replica.uid] = after

    def change_all(self, before: Sequence[Holding], after: Sequence[Holding]) -> None:
        """Let an attempt have what is decided for it."""
        for held in before:
            self.change(held, NOTHING)
        for held in after:
            self.change(NOTHING, held)
        self._is_fresh = False

    def change(self, before: Holding, after: Holding) -> None:
        """Give back what was held, and take what is."""
        self._forget()
        for held, sign in ((before, 1), (after, -1)):
            host = _change(self.board, self.layout.usage(held), sign, self._ill)
            if host is not None:
                self.draw.note(host, self.board)
                self._placer.refresh(host)

    def know(self, demands: Iterable[Demand]) -> None:
        """Be ready for these: together they cost one look at every host, one by one a look each."""
        wanted = dict.fromkeys(demands)
        new = wanted.keys() - self._demands.keys()
        if new:
            if len(self._demands) + len(new) > DEMANDS_MAX:
                self._demands = {demand: row for row, demand in enumerate(self._usual)}
            for demand in wanted:
                self._demands.setdefault(demand, len(self._demands))
            self._placer = self._score(self.board.fleet())

    def _score(self, free: Fleet) -> Placer:
        kinds = self.layout.fleet.kinds
        known = self.outlook
        measure = Fragmentation(Mix.of(dict(known.mix) if known else self._usual), kinds)
        prices = known.prices() if known else Prices.by_size(kinds)
        demands = list(self._demands)
        return Placer(free, demands, Columns(demands, kinds, measure, prices, MADANG))


def empty(layout: Layout) -> Ground:
    """Return the ground on which nobody has anything yet."""
    return Ground(layout, layout.fleet)
