"""What there is to place on: accelerators by name beside the arrays that placement works on.

Units of a device are its bytes; a group that may not be split is one device. Accelerators that
are alike are one *stock*, and one kind of the arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from madang.planning.ask import NO_CAP, NO_FIGURE, Ask, Stock
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Fleet, Host, Kind
from madang.planning.placement.reserve import BONUS, Group
from madang.planning.placement.topology import Topology
from madang.planning.snapshot import Snapshot
from madang.resources.holding import Holding
from madang.resources.job import Level
from madang.resources.place import (
    Accelerator,
    AcceleratorSpec,
    Grade,
    Guarantee,
    Node,
    Pool,
    PoolSpec,
    Site,
)
from madang.resources.power import Watts, by_start, milliwatts
from madang.resources.resource import Ref

MIB = 2**20
MILLI = 1000
UNTOLD = ("", "", "")
NOWHERE: Mapping[str, tuple[str, ...]] = {}
UNKNOWN = 2**40
"""In place of processors or memory that a node does not tell: nothing is refused for them."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to meet an ask: a demand in numbers, and which kinds come first."""

    ask: Ask
    """The one of its ways that this is of."""
    demand: Demand
    bonus: tuple[float, ...]
    group: Group
    """All kinds on which the ask can be met with as many devices as where it takes least."""


PREFERRED = 2 * BONUS
"""Added to the score of preferred kinds: what somebody has asked for comes before what is expected
of others."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What is held on one node."""

    devices: tuple[tuple[int, int, int], ...]
    """(host, device, units), all of one host."""
    cpu_milli: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What there is, whoever has it: the same as long as the hardware is."""

    stocks: tuple[Stock, ...]
    fleet: Fleet
    """With everything free, as if every node could be seen."""
    nodes: tuple[str, ...]
    """[hosts]"""
    devices: tuple[tuple[tuple[str, ...], ...], ...]
    """[hosts][devices] names of the accelerators, more than one in a group."""
    places: Mapping[str, tuple[int, int]]
    """(host, device) by the name of an accelerator."""
    bare: tuple[str, ...]
    """Nodes without any accelerator."""
    topology: Topology
    """Which hosts lie near each other."""
    _options: dict[Ask, tuple[Option, ...]] = field(default_factory=dict, compare=False)

    def options(self, ask: Ask) -> tuple[Option, ...]:
        """Return the ways to meet an ask, the fewest devices first; none: nothing will ever do."""
        found = self._options.get(ask)
        if found is None:
            found = tuple(option for way in ask.ways for option in self._make_options(way))
            self._options[ask] = found
        return found

    def way(self, ask: Ask, variant: int, host: int) -> Option | None:
        """Return the way in which one is met that is there in a form."""
        kind, options = int(self.fleet.kind[host]), self.options(ask)
        own = (o for o in options if o.ask.variant == variant and o.demand.parts[kind])
        return next(own, None)

    def _make_options(self, ask: Ask) -> Iterator[Option]:
        """Kinds differ in how many accelerators a device stands for, and in whose memory it is."""
        ways: dict[tuple[int, int], list[int]] = {}
        for k, stock in enumerate(self.stocks):
            if stock.bars(ask) is None:
                host_mib = -(-ask.host_memory_bytes // MIB)
                if is_processor(stock.kind):
                    host_mib += ask.memory_bytes * ask.count // MIB
                ways.setdefault((-(-ask.count // stock.group), host_mib), []).append(k)
        liked = [ask.prefer == "domestic" and stock.is_domestic for stock in self.stocks]
        bonus = tuple(PREFERRED if like else 0.0 for like in liked)
        takes = [
            (devices * self.stocks[k].part_bytes(ask) * self.stocks[k].group, devices)
            for (devices, _), kinds in ways.items() for k in kinds
        ]  # fmt: skip
        _, usual = min(takes, default=(0, 0))
        group = tuple(sorted(k for (n, _), kinds in ways.items() if n == usual for k in kinds))
        for (devices, host_mib), kinds in sorted(ways.items()):
            parts = [0] * len(self.stocks)
            for k in kinds:
                parts[k] = self.stocks[k].part_bytes(ask)
            yield Option(
                ask, Demand(milli_cores(ask.cores), host_mib, devices, tuple(parts)), bonus, group
            )  # fmt: skip

    def usage(self, held: Holding) -> Usage:
        """Return what is held; accelerators that are no longer there count as nothing."""
        taken: dict[tuple[int, int], int] = {}
        kind = ""
        for name in held.accelerators:
            place = self.places.get(name)
            if place is not None:
                stock = self.stocks[self.fleet.kind.item(place[0])]
                is_part = stock.shared and not held.whole
                taken[place] = max(1, held.memory_bytes) if is_part else self.fleet.free.item(place)
                kind = stock.kind
        host_mib = -(-held.host_memory_bytes // MIB)
        if is_processor(kind):
            host_mib += held.memory_bytes * len(taken) // MIB
        devices = tuple((*place, units) for place, units in taken.items())
        return Usage(devices, milli_cores(held.cores), host_mib)

    def copies(self, node: str, count: int) -> Layout:
        """Return so many nodes like one, and nothing else."""
        mine, fleet = [h for h, name in enumerate(self.nodes) if name == node], self.fleet
        hosts, devices = [], {}
        for number in range(count):
            for host in mine:
                free = tuple(int(f) for f in fleet.free[host][: len(self.devices[host])])
                k, name = int(fleet.kind[host]), f"{node}.{number}"
                made = Host(
                    f"{name} {k}", int(fleet.cpu_milli[host]), int(fleet.memory_mib[host]), k,
                    free, name,
                )  # fmt: skip
                hosts.append(made)
                own = self.devices[host]
                devices[made.name] = tuple(tuple(f"{n}.{number}" for n in names) for names in own)
        return _laid(self.stocks, Fleet.of(fleet.kinds, hosts), devices, ())

    def is_like(self, other: Layout) -> bool:
        """Tell whether nothing that placement looks at differs."""
        one, two = self.fleet, other.fleet
        return (
            (self.stocks, self.nodes, self.devices) == (other.stocks, other.nodes, other.devices)
            and np.array_equal(self.topology.ids, other.topology.ids)
            and np.array_equal(one.free, two.free)
            and np.array_equal(one.cpu_milli, two.cpu_milli)
            and np.array_equal(one.memory_mib, two.memory_mib)
        )


def is_processor(kind: str) -> bool:
    """Tell whether a kind stands for the node's processors, and its memory for the node's own."""
    return kind == "cpu" or kind.startswith("cpu/")


def milli_cores(cores: float) -> int:
    """Return thousandths of processors, rounded up."""
    return -int(-cores * MILLI // 1)


def layout_of(snapshot: Snapshot) -> Layout:
    """Lay out the accelerators by what they are."""
    pools, units = _Pools(snapshot), dict[tuple[str, ...], Accelerator]()
    for names, least in _devices(snapshot):
        units[names] = least
    stocks, index = _stocks(pools, units)
    rows: dict[tuple[str, int], list[tuple[str, ...]]] = {}
    for names, least in units.items():
        rows.setdefault((least.spec.node, index[pools.mark(names, least)]), []).append(names)
    hosts, devices = [], {}
    for (node, k), own in rows.items():
        cpu, memory = _size(snapshot.nodes.get(Ref("", node)))
        free = tuple(units[names].spec.memory_bytes for names in own)
        host = Host(f"{node} {k}", cpu, memory, k, free, node)
        hosts.append(host)
        devices[host.name] = tuple(own)
    kinds = [Kind(stock.name, max(1, stock.memory_bytes), stock.group) for stock in stocks]
    fleet = Fleet.of(kinds, hosts)
    bare = {ref.name for ref in snapshot.nodes} - {host.node for host in hosts}
    labels = {node: _where(node, snapshot) for node in {host.node for host in hosts}}
    return _laid(stocks, fleet, devices, tuple(sorted(bare)), labels)


def _where(name: str, snapshot: Snapshot) -> tuple[str, ...]:
    """Return site, zone and rack of a node, as far as somebody has said so."""
    node = snapshot.nodes.get(Ref("", name))
    pool = snapshot.get(Pool, Ref("", node.spec.pool)) if node else None
    labels = node.spec.labels if node else {}
    return (pool.spec.site if pool else "", labels.get("zone", ""), labels.get("rack", ""))


def _laid(
    stocks: tuple[Stock, ...], fleet: Fleet, devices: Mapping[str, tuple[tuple[str, ...], ...]],
    bare: tuple[str, ...], labels: Mapping[str, tuple[str, ...]] = NOWHERE,
) -> Layout:  # fmt: skip
    laid = tuple(devices[name] for name in fleet.names)
    places = {
        name: (h, d) for h, own in enumerate(laid) for d, names in enumerate(own) for name in names
    }
    nodes = tuple(name.rpartition(" ")[0] for name in fleet.names)
    paths = [(*labels.get(node, UNTOLD), node) for node in nodes]
    topology = Topology.of((*Level, "node"), paths)
    return Layout(stocks, fleet, nodes, laid, places, bare, topology)


def made_for(ask: Ask, nodes: int) -> Layout:
    """Return so many nodes of which each has just what is asked for."""
    kind = ask.wanted_kind or min(ask.kinds)
    size, is_shared = max(1, ask.memory_bytes), is_processor(kind)
    stock = Stock("", kind, size, size, is_shared, Guarantee.SHARED, 1, ask.grade)
    memory = ask.host_memory_bytes + (ask.memory_bytes * ask.count if is_shared else 0)
    hosts = [
        Host(f"{n} 0", milli_cores(ask.cores), -(-memory // MIB), 0, (size,) * ask.count, f"{n}")
        for n in range(nodes)
    ]
    devices = {host.name: tuple((f"{host.node}-{i}",) for i in range(ask.count)) for host in hosts}
    return _laid((stock,), Fleet.of((Kind(kind, size),), hosts), devices, ())


def _devices(snapshot: Snapshot) -> Iterator[tuple[tuple[str, ...], Accelerator]]:
    """Return what is given together, in order: the names, and the one with the least memory."""
    grouped: dict[tuple[str, str], list[Accelerator]] = {}
    for _, accelerator in sorted(snapshot.accelerators.items()):
        mark = accelerator.spec.group or f" {accelerator.name}"
        grouped.setdefault((accelerator.spec.node, mark), []).append(accelerator)
    for group in grouped.values():
        names = tuple(accelerator.name for accelerator in group)
        yield names, min(group, key=lambda a: (a.spec.memory_bytes, a.name))


_Mark = tuple[object, ...]


class _Pools:
    """Which pool a node is in, and what its site may hold."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._nodes = snapshot.nodes
        sites = snapshot.all(Site)
        self._pools = {ref.name: pool.spec for ref, pool in snapshot.all(Pool).items()}
        self._grades: dict[str, Grade] = {}
        for name, spec in self._pools.items():
            site = sites.get(Ref("", spec.site))
            self._grades[name] = site.spec.grade if site else Grade.OPEN

    def mark(self, names: tuple[str, ...], least: Accelerator) -> _Mark:
        """Return what is the same of all devices that are alike."""
        spec, node = least.spec, self._nodes.get(Ref("", least.spec.node))
        pool = node.spec.pool if node else ""
        size = round(spec.memory_bytes / 1e9)
        shared = spec.shared and len(names) == 1
        grade = self._grades.get(pool, Grade.OPEN)
        power = self._power(pool, spec, len(names))
        return pool, spec.accelerator, size, shared, spec.guarantee, len(names), grade, *power

    def _power(self, name: str, spec: AcceleratorSpec, count: int) -> tuple[int, int, int]:
        """Return what so many draw idle, what more once they work, and what their pool may."""
        pool = self._pools.get(name)
        watts = watts_of(spec, pool)
        most = pool.power_kw_max if pool else None
        cap = NO_CAP if most is None else milliwatts(most * 1000)
        if watts is None:
            free = 0 if is_processor(spec.accelerator) else NO_FIGURE
            return free, free, cap
        return watts.idle_mw * count, watts.more_mw * count, cap


def watts_of(spec: AcceleratorSpec, pool: PoolSpec | None) -> Watts | None:
    """Return what an accelerator draws in its pool; None: nobody has said so."""
    return (by_start(pool.watts, spec.accelerator) if pool else None) or spec.watts


def drawing(snapshot: Snapshot) -> Iterator[tuple[AcceleratorSpec, str, Watts | None, bool]]:
    """Give every accelerator, under a limit or not: its pool, its figures, whether it works."""
    held = {name for holding in snapshot.holdings() for name in holding.accelerators}
    pools = snapshot.all(Pool)
    for each in snapshot.accelerators.values():
        node = snapshot.nodes.get(Ref("", each.spec.node))
        pool = pools.get(Ref("", node.spec.pool)) if node else None
        watts = watts_of(each.spec, pool.spec if pool else None)
        yield each.spec, pool.name if pool else "", watts, each.name in held


def _stocks(
    pools: _Pools, units: Mapping[tuple[str, ...], Accelerator]
) -> tuple[tuple[Stock, ...], dict[_Mark, int]]:
    """Return the stocks in order, and the number of each by its mark."""
    sizes: dict[Any, list[int]] = {}
    for names, least in units.items():
        sizes.setdefault(pools.mark(names, least), []).append(least.spec.memory_bytes)
    made = {
        mark: Stock(mark[0], mark[1], max(own), min(own), *mark[3:]) for mark, own in sizes.items()
    }
    stocks = tuple(sorted(made.values()))
    return stocks, {mark: stocks.index(stock) for mark, stock in made.items()}


def _size(node: Node | None) -> tuple[int, int]:
    """Return a node's processors in thousandths, and its memory in MiB."""
    cores = node.status.cores if node else 0
    memory = node.status.memory_bytes if node else 0
    return int(cores * MILLI) or UNKNOWN, memory // MIB or UNKNOWN
