"""What would become of all if nodes, weights or grants were others: two worlds, side by side.

Both worlds start from one snapshot, are planned for by the very code that control runs, and go on
until nothing is left to plan. What differs between them is what the change does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from madang.answers import Json
from madang.planning.explain import Explanation, explain
from madang.planning.layout import drawing
from madang.planning.services.replicas import accelerator_kind
from madang.planning.snapshot import Probed, Snapshot
from madang.resources.manifest import Manifest
from madang.resources.power import Watts
from madang.resources.replica import Replica, ReplicaPhase
from madang.resources.resource import Ref
from madang.resources.service import Service
from madang.supervisor.protocol import Process
from madang.twin.change import Change, change
from madang.twin.form import plain
from madang.twin.ideal import Ideal
from madang.twin.merit import with_merit
from madang.twin.standings import jobs, queues

QUIET_S = 900.0
"""Longer than anything is put off by planning."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to come and to go, as people write it."""

    add: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    """Names of nodes that go."""
    sites: tuple[str, ...] = ()
    """Names of sites all of whose nodes go."""
    weights: tuple[str, ...] = ()
    """Of projects, as `acme/lab=2`."""
    grants: tuple[Manifest, ...] = ()
    """That are given, with all they ask for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One world once it is quiet."""

    snapshot: Snapshot

    @classmethod
    def of(cls, snapshot: Snapshot) -> Outcome:
        """Let a world come to rest."""
        world = Ideal(snapshot)
        world.settle(QUIET_S)
        return cls(world.snapshot)

    def ready(self) -> dict[str, Replica]:
        """Return what serves, by uid."""
        return {
            r.uid: r
            for r in self.snapshot.replicas.values()
            if r.status.phase is ReplicaPhase.READY
        }

    def by_service(self) -> Counter[Ref]:
        """Count what serves."""
        return Counter(r.service for r in self.ready().values())


def whatif(snapshot: Snapshot, asked: Asked) -> Json:
    """Answer what would start, wait, be gained and lost, and drawn; raises as `change`."""
    is_seen = bool(snapshot.seen.nodes)
    start = awake(snapshot)
    made = _changed(start, asked)
    before, after = Outcome.of(start), Outcome.of(made.snapshot)
    services = list(_services(before, after))
    accelerators = list(_accelerators(before.snapshot, after.snapshot))
    return {
        "at": snapshot.now,
        "assumed_in_sight": not is_seen,
        "added": [_arrival(made, kind) for kind in _arrived(made)],
        "removed": list(made.gone),
        "starts": list(_starts(before, after)),
        "moves": list(_moves(before, after, frozenset(made.gone))),
        "waits": list(_waits(after, before)),
        "services": services,
        "projects": _projects(services),
        "jobs": list(jobs(before.snapshot, after.snapshot)),
        "queues": list(queues(before.snapshot, after.snapshot)),
        "accelerators": accelerators,
        "watts": _watts(accelerators),
    }


def _changed(start: Snapshot, asked: Asked) -> Change:
    has_merit = bool(asked.weights or asked.grants)
    if has_merit and not (asked.add or asked.nodes or asked.sites):
        made = Change(start, (), ())
    else:
        made = change(start, asked.add, asked.nodes, asked.sites)
    return replace(made, snapshot=with_merit(made.snapshot, asked.weights, asked.grants))


def awake(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot as it is where nothing goes wrong from now on.

    One in which no node was seen was read while control was down: then all nodes are in sight, and
    whatever holds accelerators runs.
    """
    seen = snapshot.seen
    if not seen.nodes and snapshot.nodes:
        holding = [r for r in snapshot.replicas.values() if r.status.accelerators]
        seen = replace(
            seen, nodes=frozenset(ref.name for ref in snapshot.nodes),
            processes={r.uid: _running(r) for r in holding},
            places={r.uid: r.status.node for r in holding},
        )  # fmt: skip
    well = {
        (uid, each.epoch): Probed(healthy=True)
        for uid, each in seen.processes.items()
        if each.announced is not None
    }
    seen = replace(seen, probed=well, pulses={}, refused={}, routed=frozenset(), inflight={})
    return replace(snapshot, seen=seen)


def _running(replica: Replica) -> Process:
    status = replica.status
    return Process(
        uid=replica.uid, epoch=status.epoch, state="running", pid=status.pid or 1,
        announced={"url": status.url or f"http://{replica.uid}"}, accelerators=status.accelerators,
    )  # fmt: skip


def _arrived(made: Change) -> list[tuple[str, str, int]]:
    """Return pool, kind and accelerators per node of what comes, each once, in order."""
    found = ((a.node.spec.pool, a.accelerators[0].spec.accelerator, len(a.accelerators))
             for a in made.arrivals)  # fmt: skip
    return list(dict.fromkeys(found))


def _arrival(made: Change, alike: tuple[str, str, int]) -> Json:
    pool, kind, each = alike
    nodes = [
        a.node.name
        for a in made.arrivals
        if (a.node.spec.pool, a.accelerators[0].spec.accelerator, len(a.accelerators)) == alike
    ]
    return {"pool": pool, "kind": kind, "nodes": nodes, "accelerators": each * len(nodes)}


def _starts(before: Outcome, after: Outcome) -> Iterator[Json]:
    """Give what serves only because of the change, by service."""
    known = before.ready().keys()
    yield from _rows([r for uid, r in after.ready().items() if uid not in known], after.snapshot)


def _moves(before: Outcome, after: Outcome, gone: frozenset[str]) -> Iterator[Json]:
    """Give what serves in both worlds, but has to leave a node that goes."""
    there = {uid for uid, replica in before.ready().items() if replica.status.node in gone}
    yield from _rows([r for uid, r in after.ready().items() if uid in there], after.snapshot)


def _rows(replicas: Iterable[Replica], snapshot: Snapshot) -> Iterator[Json]:
    grouped: dict[tuple[str, str, str], list[Replica]] = {}
    for each in replicas:
        key = (each.project, each.spec.service, accelerator_kind(each, snapshot))
        grouped.setdefault(key, []).append(each)
    for (project, service, kind), own in sorted(grouped.items()):
        nodes = sorted({each.status.node for each in own})
        yield {"project": project, "service": service, "kind": kind, "replicas": len(own),
               "nodes": nodes}  # fmt: skip


def _waits(after: Outcome, before: Outcome) -> Iterator[Json]:
    """Give what is not all there once the changed world is quiet, why, and what would help."""
    ready, was = after.by_service(), before.by_service()
    for ref, service in sorted(after.snapshot.services.items()):
        wanted = _wanted(service)
        if ready[ref] >= wanted:
            continue
        why = _cause(explain(service, after.snapshot))
        yield {
            "project": ref.project, "service": ref.name, "replicas": wanted - ready[ref],
            "before": max(0, wanted - was[ref]), "phase": why.phase, "reason": plain(why.reason),
            "smallest_fix": plain(why.smallest_fix),
        }  # fmt: skip


def _wanted(service: Service) -> int:
    return 0 if service.deleted_at is not None else service.wanted


def _cause(told: Explanation) -> Explanation:
    """Return the first that says why, of a service and what it waits for."""
    return next((each for each in told.because if each.reason), told)


def _services(before: Outcome, after: Outcome) -> Iterator[Json]:
    was, now = before.by_service(), after.by_service()
    for ref, service in sorted(before.snapshot.services.items()):
        yield {"project": ref.project, "service": ref.name, "wanted": _wanted(service),
               "before": was[ref], "after": now[ref]}  # fmt: skip


def _projects(services: Iterable[Json]) -> list[Json]:
    sums: dict[str, Json] = {}
    for row in services:
        total = sums.setdefault(
            row["project"], {"project": row["project"], "before": 0, "after": 0}
        )
        total["before"] += row["before"]
        total["after"] += row["after"]
    return list(sums.values())


_Alike = tuple[str, int, Watts | None]
"""Kind, bytes, and what one draws."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Accelerators of one kind and memory, of which one draws as much as the other."""

    used: int = 0
    total: int = 0


def _accelerators(before: Snapshot, after: Snapshot) -> Iterator[Json]:
    """Give each kind: how many there are, how many are used, and what they draw."""
    was, now = tallies(before), tallies(after)
    for kind in sorted({*was, *now}, key=lambda kind: (kind[:2], str(kind[2]))):
        one, other, watts = was.get(kind, Tally()), now.get(kind, Tally()), kind[2]
        drawn = [watts and _drawn(each, watts) for each in (one, other)]
        yield {
            "kind": kind[0], "memory_bytes": kind[1], "before": plain(one), "after": plain(other),
            "idle_watts": watts and watts.idle, "full_watts": watts and watts.full,
            "watts_before": drawn[0], "watts_after": drawn[1],
        }  # fmt: skip


def tallies(snapshot: Snapshot) -> dict[_Alike, Tally]:
    """Count accelerators by what is alike; one that several share is used once."""
    total: Counter[_Alike] = Counter()
    used: Counter[_Alike] = Counter()
    for spec, _, watts, works in drawing(snapshot):
        key = spec.accelerator, spec.memory_bytes, watts
        total[key] += 1
        used[key] += works
    return {key: Tally(used[key], count) for key, count in total.items()}


def _drawn(tally: Tally, watts: Watts) -> float:
    """By PWR's rule: a device draws its full power as soon as anything runs on it."""
    return tally.used * watts.full + (tally.total - tally.used) * watts.idle


def _watts(accelerators: Iterable[Json]) -> Json:
    rows = list(accelerators)
    known = [row for row in rows if row["full_watts"] is not None]
    unknown = sorted({row["kind"] for row in rows if row["full_watts"] is None})
    return {
        "before": sum(row["watts_before"] for row in known),
        "after": sum(row["watts_after"] for row in known),
        "no_figure": unknown,
    }
