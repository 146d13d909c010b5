"""What is kept from turn to turn, each part made anew only where what it was made from changed."""

from __future__ import annotations

from collections import Counter

from madang.planning.forecast import is_for, mix_of
from madang.planning.layout import Layout, layout_of
from madang.planning.place.ground import Ground
from madang.planning.placement.demand import Demand
from madang.planning.queue.members import Roll
from madang.planning.queue.order import Order
from madang.planning.queue.yard import Yard
from madang.planning.quotas import Books
from madang.planning.services.services import Household, households
from madang.planning.since import is_same
from madang.planning.snapshot import Snapshot
from madang.planning.use.metering import Readings
from madang.resources.place import Pool


class Memo:
    """Work kept between turns. Any memo gives the same plan; a warm one gives it sooner."""

    def __init__(self) -> None:
        self._ground: Ground | None = None
        self._hardware: tuple[object, ...] = ()
        self._known: tuple[object, ...] = ()
        self._state: tuple[object, ...] = ()
        self._counted: tuple[object, ...] = ()
        self._mix: Counter[Demand] = Counter()
        self._roll = Roll()
        self._yard: Yard | None = None
        self._built: tuple[object, ...] = ()
        self._order: Order | None = None
        self._seen: Snapshot | None = None
        self.readings = Readings()
        """Which meters are due."""
        self._housed: tuple[object, ...] = ()
        self._houses: tuple[Household, ...] = ()

    def houses(self, snapshot: Snapshot) -> tuple[Household, ...]:
        """Return what belongs to each service, gathered again only where some of it changed."""
        housed = _identity(snapshot, "service", "revision", "replica", "endpoint")
        if not is_same(housed, self._housed):
            self._housed, self._houses = housed, tuple(households(snapshot))
        return self._houses

    def ground(self, snapshot: Snapshot) -> Ground:
        """Return what is free in this snapshot, added up again only where something changed."""
        # Of pools what people write of them: what they have seen changes whenever a job ends.
        specs = (pool.spec for pool in snapshot.all(Pool).values())
        hardware = (*_identity(snapshot, "accelerator", "node", "site"), *specs)
        before = ground = self._ground
        if ground is None or not is_same(hardware, self._hardware):
            layout = layout_of(snapshot)
            if ground is None or not ground.layout.is_like(layout):
                ground = self._ground = Ground(layout, layout.fleet)
            self._hardware, self._state = hardware, ()
        outlook, layout = snapshot.seen.outlook, ground.layout
        if not is_same((outlook, layout), self._known):
            self._known = outlook, layout
            if outlook and not is_for(outlook, layout):
                outlook = None
            if outlook is not ground.outlook:
                ground = self._ground = Ground(layout, layout.fleet, outlook)
                self._state = ()
        books, is_known = Books(snapshot), snapshot is self._seen and ground is before
        yard = self._yard_of(snapshot, ground.layout)
        muster = None if is_known else self._roll.muster(snapshot, yard, books)
        state = (*_identity(snapshot, "replica", "service", "job", "attempt"), snapshot.seen.nodes)
        if not (is_same(state, self._state) and ground.is_fresh):
            ground.sync(snapshot, self._roll.asks(snapshot))
            self._state = state
        if not ground.books.leaves_the_same(books):
            ground.refusals.clear()
            ground.stuck.clear()
        ground.books = books
        ground.lines.clear()
        ground.savers.clear()
        ground.closed.clear()
        if muster:
            self._order, self._seen = Order(snapshot, yard, books, muster), snapshot
            ground.ahead_of = self._order.ahead_of
        return ground

    def order(self, snapshot: Snapshot) -> Order:
        """Return who of all that wait in this snapshot is tried first."""
        if snapshot is not self._seen or self._order is None:
            self.ground(snapshot)
        assert self._order is not None
        return self._order

    def _yard_of(self, snapshot: Snapshot, layout: Layout) -> Yard:
        """Return what there is to wait for; only hardware and services change that."""
        kept = _identity(snapshot, "accelerator", "node", "replica")
        built = (*kept, snapshot.seen.nodes, layout)
        if self._yard is None or not is_same(built, self._built):
            self._yard, self._built = Yard(layout, snapshot), built
        return self._yard

    def mix(self, snapshot: Snapshot, layout: Layout) -> Counter[Demand]:
        """Return the demands of this snapshot, counted again only if something in it changed."""
        counted = (*_identity(snapshot, "replica", "revision", "model", "job"), layout)
        if not is_same(counted, self._counted):
            self._counted, self._mix = counted, mix_of(snapshot, layout)
        return self._mix


def _identity(snapshot: Snapshot, *kinds: str) -> tuple[object, ...]:
    return tuple(snapshot.kept.get(kind) for kind in kinds)
