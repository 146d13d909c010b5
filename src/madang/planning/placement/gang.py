"""Gangs: demands that get room all at once or not at all, and near each other if they ask for it.

What near means is one level of the topology. *Required*: all in one domain of that level.
*Preferred*: in one domain of the nearest level, from that one outwards, that has room for all; in
it as few domains of the level asked for as possible. Of ways that are equally near, the one with
the best sum of the scores by which single demands are placed.

How many each domain has room for is counted first, for all at once. Of those that suffice, the few
that would score best, if all fared on each host as the first of them would, are tried out; equal
ones go to the fullest, as in KAI-Scheduler (read at 72de64fc), then to the first name. For equal
demands of whole devices, of one device, or of none, what is counted is what there is: they are
refused only if there is no way, and the number of domains is the least. Different demands, and
shares of several devices, may get into each other's way, and then a way may be missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from madang.planning.placement import fit
from madang.planning.placement.attempt import Attempts, Way
from madang.planning.placement.columns import Floats
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Ints
from madang.planning.placement.placer import Choice, Placer
from madang.planning.placement.topology import UNKNOWN, Domains, Topology

TRIES = 4
"""Ways that are tried out and compared. On the public trace, to try all of them finds no better."""
TRIES_MAX = 64
"""Ways that are tried out at most, where demands get into each other's way."""

HAS_ONE = 100
"""A filter, after those of `fit`: a member is on that node, and each is to have its own."""
NOT_KNOWN = 101
"""Nobody has said where it lies."""
ELSEWHERE = 102
"""It has room, but outside of the domain that has most."""


@dataclass(frozen=True, slots=True)
class Gang:
    """Demands that are placed together, and how near."""

    members: tuple[Demand, ...]
    level: str = ""
    """Of the topology; empty: anywhere."""
    is_required: bool = False
    """Whether one domain of the level must hold all."""
    is_apart: bool = False
    """Whether each is to have a node of its own: a domain of the topology's last level."""

    def __post_init__(self) -> None:
        """Nobody is no gang."""
        if not self.members:
            raise ValueError("a gang without members")


@dataclass(frozen=True, slots=True)
class GangPlacement:
    """A place for everyone."""

    which: tuple[int, ...]
    """By member, its demand among those of the placer."""
    choices: tuple[Choice, ...]
    """By member; equal ones that follow each other are neighbours."""
    score: float
    """The sum of their scores."""
    together: str
    """The nearest level, from that asked for outwards, of which one domain holds all; or empty."""

    def take(self, placer: Placer) -> None:
        """Carry it out, on the placer that was asked and has not changed since."""
        for which, choice in zip(self.which, self.choices, strict=True):
            placer.take(which, choice)


@dataclass(frozen=True, slots=True)
class GangRefused:
    """No place for everyone, and how far the best attempt came."""

    members: int
    placed: int
    """How many found room."""
    domain: int
    """Where that was, of the level that is required; `UNKNOWN`: of the whole fleet."""
    fell: tuple[tuple[int, int], ...]
    """(filter, hosts): the first filter to which each host falls for the next member."""


def place_gang(
    placer: Placer, gang: Gang, topology: Topology, bonus: Sequence[float] = ()
) -> GangPlacement | GangRefused:
    """Find room for all; the placer, which must know the demands, is left as it is.

    What other gangs of the same plan got is seen once they have taken it. `bonus` is added to
    scores by kind.
    """
    search = _Search(placer, gang, topology, bonus)
    levels = topology.around(gang.level)
    for level in levels[:1] if gang.is_required else levels:
        found = search.best(level)
        if found:
            return search.placement(found, level)
    return search.furthest(level)


class _Search:
    """Which hosts to try, and what to say of what came of it."""

    def __init__(
        self, placer: Placer, gang: Gang, topology: Topology, bonus: Sequence[float]
    ) -> None:
        self._gang, self._topology = gang, topology
        self._node = topology.ids[-1] if gang.is_apart else None
        self._try = Attempts(placer, gang.members, self._node, bonus)
        self._rank = placer.board.start.rank
        self._by_name = np.argsort(self._rank)

    def best(self, level: str) -> Way | None:
        """Return the best way within one domain of a level; None if none was found."""
        found, tries, fewest = list[Way](), 0, 0
        for number, ways in self._enough(level):
            if found and number > fewest:
                break
            fewest = number
            for hosts in ways:
                way, tries = self._try.attempt(hosts), tries + 1
                self._try.undo(way)
                if len(way.taken) == len(self._gang.members):
                    found.append(way)
                    break
                if tries == TRIES_MAX:
                    break
            if len(found) == TRIES or tries >= TRIES_MAX:
                break
        return max(found, key=lambda way: way.score, default=None)

    def _enough(self, level: str) -> list[tuple[int, Iterator[Ints]]]:
        """Return which hosts to try of each domain that has room for all, what promises most first.

        With how few domains of the level asked for each needs: fewer come before more.
        """
        domains = Domains.of(self._topology.at(level), self._by_name)
        have = domains.sums(self._try.rooms)
        able = np.flatnonzero((have >= self._try.need).all(axis=0))
        hosts = [domains.hosts(int(d)) for d in able]
        ways = [(1, iter((each,))) for each in hosts]
        if level != self._gang.level:
            ways = [self._fewest(each) for each in hosts]
        number = np.array([each for each, _ in ways])
        first = self._rank[domains.order[domains.starts[able]]]
        spare, promise = have.sum(axis=0)[able], self._promise(domains)[able]
        return [ways[i] for i in np.lexsort((first, spare, -promise, number))]

    def _promise(self, domains: Domains) -> Floats:
        """[domains] The sum of scores, if all fared on each host as the first of them would."""
        numbers, total = domains.numbers(), np.zeros(len(domains.starts))
        attempts = self._try
        for score, room, need in zip(attempts.scores, attempts.rooms, attempts.need, strict=True):
            order = domains.order[np.lexsort((-score[domains.order], numbers))]
            before = np.cumsum(room[order]) - room[order]
            taken = np.clip(need - before + before[domains.starts][numbers], 0, room[order])
            total += domains.fold(np.where(taken > 0, score[order], 0.0) * taken)
        return total

    def _fewest(self, hosts: Ints) -> tuple[int, Iterator[Ints]]:
        """Return how few domains of the level asked for do, and the hosts of so many, then of more.

        Those with most room first; the last of the fewest is the fullest that suffices. A node of
        which nothing is known is a domain by itself.
        """
        ids, need = self._topology.at(self._gang.level).copy(), self._try.need
        of_node = self._try.board.start.of_node
        unknown = hosts[ids[hosts] < 0]
        ids[unknown] = [len(ids) + of_node(int(host))[0] for host in unknown]
        parts = Domains.of(ids, hosts)
        have, first = parts.sums(self._try.rooms), self._rank[parts.order[parts.starts]]
        useful, total = np.minimum(have, need).sum(axis=0), have.sum(axis=0)
        order = np.lexsort((first, total, -useful))
        so_far = np.cumsum(have[:, order], axis=1)
        number = int((so_far < need).any(axis=0).sum()) + 1
        left = need - (so_far - have[:, order])[:, [number - 1]]
        rest = order[number - 1 :]
        do = rest[(have[:, rest] >= left).all(axis=0)]
        last = do[np.lexsort((first[do], total[do]))[0]]
        chosen = [np.append(order[: number - 1], last)]
        more = [number + 2**i for i in range((len(order) - number).bit_length())]
        chosen += [order[:many] for many in (*more, len(order))]
        inside = (np.concatenate([parts.hosts(int(d)) for d in each]) for each in chosen)
        return number, (each[np.argsort(self._rank[each])] for each in inside)

    def placement(self, way: Way, level: str) -> GangPlacement:
        """Say who goes where: equal members one after the other, neighbours side by side."""
        place, demands = self._topology.places(self._rank), self._try.demands
        laid = sorted(way.taken, key=lambda t: (place[t[1].host], t[1].devices), reverse=True)
        queues = [[choice for own, choice in laid if own == n] for n in range(len(demands))]
        numbers = [demands.index(member) for member in self._gang.members]
        which = tuple(self._try.which[number] for number in numbers)
        return GangPlacement(which, tuple(queues[n].pop() for n in numbers), way.score, level)

    def furthest(self, level: str) -> GangPlacement | GangRefused:
        """Say how far the best attempt within one domain of a level came, and why no further."""
        ids, need = self._topology.at(level), self._try.need
        domains = Domains.of(ids, self._by_name)
        useful = np.minimum(domains.sums(self._try.rooms), need).sum(axis=0)
        first = self._rank[domains.order[domains.starts]]
        leading = np.lexsort((first, -self._promise(domains), -useful))[:TRIES]
        best, inside = Way(0.0, ()), self._by_name[:0]
        for domain in leading:
            hosts = domains.hosts(int(domain))
            way = self._try.attempt(hosts)
            self._try.undo(way)
            if not len(inside) or len(way.taken) > len(best.taken):
                best, inside = way, hosts
        if len(best.taken) == len(self._gang.members):
            return self.placement(best, level)
        self._try.attempt(inside)
        domain = int(ids[inside[0]]) if level and len(inside) else UNKNOWN
        fell = sorted(Counter(self._fell(best, inside, ids).tolist()).items())
        return GangRefused(len(self._gang.members), len(best.taken), domain, tuple(fell))

    def _fell(self, best: Way, inside: Ints, ids: Ints) -> Ints:
        """[hosts] The filter to which each falls, once those of the best attempt are there."""
        placed = Counter(number for number, _ in best.taken)
        next_one = min(n for n, (need,) in enumerate(self._try.need) if placed[n] < need)
        fell = fit.first_filter(self._try.board, self._try.demands[next_one])
        out = np.ones(len(ids), np.bool_)
        out[inside] = False
        has_room = fell == fit.FITS
        fell[has_room & out] = ELSEWHERE
        fell[has_room & (ids < 0)] = NOT_KNOWN
        if self._node is not None:
            used = self._node[[choice.host for _, choice in best.taken]]
            fell[has_room & np.isin(self._node, used)] = HAS_ONE
            fell[has_room & (self._node < 0)] = NOT_KNOWN
        return fell
