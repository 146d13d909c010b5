"""Nodes that come and go: what people write of them, and the snapshot in which it has happened."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from madang.errors import NotFound, Rejected, Unfit
from madang.planning.ask import of_kind
from madang.planning.snapshot import Snapshot
from madang.resources.fleet import CPU
from madang.resources.place import (
    Accelerator,
    AcceleratorSpec,
    AcceleratorStatus,
    Node,
    NodePhase,
    NodeSpec,
    NodeStatus,
)
from madang.resources.power import published
from madang.resources.quantity import size_bytes
from madang.resources.replica import Replica, ReplicaPhase, ReplicaStatus
from madang.resources.resource import AnyResource, Ref

COUNT_MAX = 10_000
PER_NODE_MAX = 64
WRITTEN = re.compile(
    r"(?P<count>[1-9][0-9]{0,4})x(?P<kind>[a-z0-9][a-z0-9/._-]*)(?::(?P<per_node>[1-9][0-9]?))?"
    r"(?:=(?P<memory>[0-9.]+ ?[A-Za-z]*))?@(?P<site>[^/@=:]+)(?:/(?P<pool>[^/@=:]+))?"
)
LEAVING = frozenset({ReplicaPhase.DRAINING, ReplicaPhase.STOPPING})


@dataclass(frozen=True, slots=True)
class Addition:
    """What is to come: `8xh100@seoul`, `2xnvidia/h200:8=141GB@seoul/new`."""

    written: str
    count: int
    """Accelerators; nodes, where it is said how many accelerators each has."""
    kind: str
    """Or the end of one, without its maker; or a node: COUNT nodes like that one are to come."""
    per_node: int
    """0: as many as on a node that is there."""
    memory_bytes: int
    """Of each accelerator; 0: as of one that is there."""
    site: str
    pool: str

    @classmethod
    def read(cls, written: str) -> Addition:
        """Read COUNTxKIND[:PER_NODE][=MEMORY]@SITE[/POOL]; raises `Rejected`."""
        found = WRITTEN.fullmatch(written.strip())
        said = found.groupdict("") if found else {}
        if not said or int(said["count"]) > COUNT_MAX or int(said["per_node"] or 0) > PER_NODE_MAX:
            raise Rejected("twin.bad-addition", written, limit=COUNT_MAX, per_node=PER_NODE_MAX)
        try:
            memory = size_bytes(said["memory"]) if said["memory"] else 0
        except Unfit as error:
            raise Rejected("twin.bad-memory", written, **error.why()) from error
        count, each = int(said["count"]), int(said["per_node"] or 0)
        return cls(written, count, said["kind"], each, memory, said["site"], said["pool"])


@dataclass(frozen=True, slots=True)
class Shape:
    """What a new node is like, and what it has."""

    node: Node
    accelerators: tuple[AcceleratorSpec, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A node that comes."""

    node: Node
    accelerators: tuple[Accelerator, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What comes and goes, and the snapshot in which it has."""

    snapshot: Snapshot
    arrivals: tuple[Arrival, ...]
    gone: tuple[str, ...]
    """Names of the nodes that go."""


def change(
    snapshot: Snapshot, add: Iterable[str], nodes: Iterable[str], sites: Iterable[str]
) -> Change:
    """Work out a change as people write it; raises `Rejected` where something is not known."""
    gone = frozenset(_named(snapshot, nodes, sites))
    arrivals: list[Arrival] = []
    for each in map(Addition.read, add):
        arrivals += _arrivals(each, snapshot, len(arrivals))
    if not gone and not arrivals:
        raise Rejected("twin.no-change")
    after = _with(_without(snapshot, gone), arrivals)
    return Change(after, tuple(arrivals), tuple(sorted(gone)))


def _named(snapshot: Snapshot, nodes: Iterable[str], sites: Iterable[str]) -> Iterator[str]:
    """Give the nodes that are to go, by their names and by their sites."""
    for name in nodes:
        check_known("twin.no-such-node", name, [ref.name for ref in snapshot.nodes])
        yield name
    where = sites_of(snapshot)
    for site in sites:
        check_known("twin.no-such-site", site, _sites(snapshot))
        yield from (ref.name for ref, node in snapshot.nodes.items() if where[node.name] == site)


def sites_of(snapshot: Snapshot) -> dict[str, str]:
    """Return the site of each node by its name; empty where its pool is not known."""
    pools = {ref.name: pool.spec.site for ref, pool in snapshot.kept.get("pool", {}).items()}
    return {ref.name: pools.get(node.spec.pool, "") for ref, node in snapshot.nodes.items()}


def _sites(snapshot: Snapshot) -> list[str]:
    return sorted(ref.name for ref in snapshot.kept.get("site", {}))


def check_known(code: str, name: str, known: Sequence[str]) -> None:
    """Raise `NotFound` for a name that is not among these, with the most like it."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0) or ["-"]
        raise NotFound(code, name, nearest=near[0], known=", ".join(sorted(known)[:20]) or "-")


def _arrivals(asked: Addition, snapshot: Snapshot, made: int) -> Iterator[Arrival]:
    """Give the new nodes of one addition: `made` have been made before it."""
    check_known("twin.no-such-site", asked.site, _sites(snapshot))
    shape = _shape(asked, snapshot)
    pool = _pool(asked, shape, snapshot)
    taken = {ref.name for ref in snapshot.nodes}
    names = (f"new-{n}" for n in itertools.count(1) if f"new-{n}" not in taken)
    new = itertools.islice(names, made, None)
    for count in _counts(asked, shape):
        yield _arrival(next(new), pool, replace(shape, accelerators=shape.accelerators[:count]))


def _counts(asked: Addition, shape: Shape) -> Iterator[int]:
    """Give for each new node how many accelerators it has."""
    each = len(shape.accelerators)
    is_nodes = asked.per_node or Ref("", asked.kind) == shape.node.ref
    total = asked.count * each if is_nodes else asked.count
    yield from (min(each, total - start) for start in range(0, total, each))


def _arrival(name: str, pool: str, shape: Shape) -> Arrival:
    spec = shape.node.spec.model_copy(update={"pool": pool})
    status = shape.node.status.model_copy(update={"phase": NodePhase.READY, "reason": None})
    own = []
    for number, like in enumerate(shape.accelerators):
        part = like.model_copy(update={"node": name, "device": str(number)})
        called = f"{name}-{number}"
        uid, fresh = f"accelerator-{called}", AcceleratorStatus()
        own.append(Accelerator(name=called, uid=uid, spec=part, status=fresh))
    return Arrival(Node(name=name, uid=f"node-{name}", spec=spec, status=status), tuple(own))


def _shape(asked: Addition, snapshot: Snapshot) -> Shape:
    """Return the shape of the node that is named, or of one with that kind.

    One in the same pool or site comes before others.
    """
    by_node: dict[str, list[AcceleratorSpec]] = {ref.name: [] for ref in snapshot.nodes}
    for _, accelerator in sorted(snapshot.accelerators.items()):
        by_node.setdefault(accelerator.spec.node, []).append(accelerator.spec)
    known = {spec.accelerator for own in by_node.values() for spec in own}
    if asked.kind not in known and by_node.get(asked.kind):
        return Shape(snapshot.nodes[Ref("", asked.kind)], tuple(by_node[asked.kind]))
    kind, where, near = _kind(asked, known), sites_of(snapshot), []
    for ref, node in snapshot.nodes.items():
        own = [spec for spec in by_node[ref.name] if spec.accelerator == kind]
        far = (node.spec.pool != asked.pool, where[ref.name] != asked.site, ref.name)
        near += [(far, node, own)] if own else []
    if not near:
        return _declared(asked, kind, snapshot)
    _, node, own = min(near, key=lambda each: each[0])
    memory = asked.memory_bytes or own[0].memory_bytes
    alike = [*own, *[own[0]] * PER_NODE_MAX][: asked.per_node or len(own)]
    return Shape(node, tuple(each.model_copy(update={"memory_bytes": memory}) for each in alike))


def _kind(asked: Addition, known: set[str]) -> str:
    """Return the kind that is meant: written out, or without its maker; raises `Rejected`."""
    if asked.kind in known:
        return asked.kind
    like = [k for k in known if of_kind(k, asked.kind) or of_kind(k.partition("/")[2], asked.kind)]
    if len(like) == 1:
        return like[0]
    told = ", ".join(sorted(like or known)) or "-"
    if like:
        raise Rejected("twin.which-kind", asked.kind, known=told)
    if not asked.memory_bytes or not (asked.kind == CPU or "/" in asked.kind):
        raise Rejected("twin.no-such-kind", asked.kind, known=told, site=asked.site)
    return asked.kind


def _declared(asked: Addition, kind: str, snapshot: Snapshot) -> Shape:
    """Return the shape of a node of a kind that is not there: all its accelerators on one node.

    It has the processors and the memory of the roomiest node.
    """
    status = max(
        (node.status for node in snapshot.nodes.values()),
        key=lambda status: (status.memory_bytes, status.cores), default=NodeStatus(),
    )  # fmt: skip
    node = Node(name="new", uid="node-new", spec=NodeSpec(pool="new"), status=status)
    spec = AcceleratorSpec(
        node=node.name,
        accelerator=kind,
        memory_bytes=asked.memory_bytes,
        shared=kind == CPU,
        watts=published(kind),
    )
    return Shape(node, (spec,) * (asked.per_node or min(asked.count, PER_NODE_MAX)))


def _pool(asked: Addition, shape: Shape, snapshot: Snapshot) -> str:
    """Return the pool that is named; else that of the node whose shape it has, or the only one."""
    pools, like = snapshot.kept.get("pool", {}), shape.node.spec.pool
    own = sorted(ref.name for ref, pool in pools.items() if pool.spec.site == asked.site)
    if asked.pool:
        check_known("twin.no-such-pool", asked.pool, own)
        return asked.pool
    if like in own or len(own) == 1:
        return like if like in own else own[0]
    raise Rejected("twin.which-pool", asked.site, known=", ".join(own) or "-")


def _with(snapshot: Snapshot, arrivals: Sequence[Arrival]) -> Snapshot:
    """Return the snapshot in which these nodes are in sight."""
    made: list[AnyResource] = [each.node for each in arrivals]
    made += [accelerator for each in arrivals for accelerator in each.accelerators]
    seen = snapshot.seen
    nodes = seen.nodes | {each.node.name for each in arrivals}
    return replace(snapshot.after(made), seen=replace(seen, nodes=nodes))


def _without(snapshot: Snapshot, nodes: frozenset[str]) -> Snapshot:
    """Return the snapshot without these nodes: what ran there waits for another place."""
    going: list[AnyResource] = [snapshot.nodes[Ref("", name)] for name in nodes]
    going += [a for a in snapshot.accelerators.values() if a.spec.node in nodes]
    there = [r for r in snapshot.replicas.values() if r.status.node in nodes]
    going += [r for r in there if r.status.phase in LEAVING]
    homeless: list[AnyResource] = [
        _homeless(r, snapshot) for r in there if r.status.phase not in LEAVING
    ]
    seen = snapshot.seen
    lost = {uid for uid, node in seen.places.items() if node in nodes}
    seen = replace(
        seen, nodes=seen.nodes - nodes,
        processes={uid: p for uid, p in seen.processes.items() if uid not in lost},
        places={uid: node for uid, node in seen.places.items() if uid not in lost},
    )  # fmt: skip
    return replace(snapshot.after(homeless, going), seen=seen)


def _homeless(replica: Replica, snapshot: Snapshot) -> Replica:
    """Return a replica that has lost its node: it waits, as one that never had any."""
    status = ReplicaStatus(since=snapshot.now, epoch=replica.status.epoch)
    return replica.model_copy(update={"status": status})
