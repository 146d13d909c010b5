"""Looking ahead: which demands to count on, and when to think anew about what they mean.

What is there now, running or waiting, is the best guess of what will come: a service that asks for
something has asked for it before, and what runs long counts for more, as it should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from madang.planning.ask import Ask
from madang.planning.layout import MILLI, Layout, Option
from madang.planning.leaving import LEAVING
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Kind
from madang.planning.placement.outlook import Outlook
from madang.planning.placement.reserve import Ledger
from madang.planning.snapshot import Snapshot
from madang.planning.template import ask_of, ask_of_job

CHANGED = 0.1
"""The mix has changed when so much of it is other than it was."""
THINK_AGAIN_S = 30.0
"""Between two times to think anew, however much has changed."""


@dataclass(frozen=True, slots=True)
class Question:
    """What prices are asked for: a fleet as if it were empty, and what is counted on."""

    kinds: tuple[Kind, ...]
    hosts: tuple[tuple[tuple[int, int, int, int], int], ...]
    """(kind, thousandths of processors, MiB, devices), and how many are so."""
    mix: tuple[tuple[Demand, int], ...]


def question(snapshot: Snapshot, layout: Layout, mix: Mapping[Demand, int]) -> Question | None:
    """Return what to think about anew; None while what is known will do, or there's no choice.

    A fleet of one host has nowhere else to put anything.
    """
    waited_s = snapshot.steady_s - snapshot.seen.thought_at
    if len(layout.nodes) < 2 or not mix or waited_s < THINK_AGAIN_S:
        return None
    known, fleet = snapshot.seen.outlook, layout.fleet
    if known and is_for(known, layout) and distance(mix, dict(known.mix)) <= CHANGED:
        return None
    columns = (fleet.kind, fleet.cpu_milli, fleet.memory_mib, (fleet.free >= 0).sum(axis=1))
    hosts = Counter(zip(*(map(int, column) for column in columns), strict=True))
    return Question(fleet.kinds, tuple(sorted(hosts.items())), tuple(sorted(mix.items())))


def is_for(outlook: Outlook, layout: Layout) -> bool:
    """Tell whether an outlook is one for this hardware."""
    fleet = layout.fleet
    return (outlook.kinds, outlook.capacity) == (fleet.kinds, tuple(fleet.capacity))


def mix_of(snapshot: Snapshot, layout: Layout) -> Counter[Demand]:
    """Count the demands of all replicas and jobs that are there or should be.

    Of several forms the one counts that a replica has; of what waits, the first that may ever do.
    """
    mix: Counter[Demand] = Counter()
    for (ask, variant), count in _asked(snapshot).items():
        options = layout.options(ask)
        own = options[0].ask.variant if options and variant is None else variant
        options = tuple(option for option in options if option.ask.variant == own)
        if options:
            mix[merged(options)] += count
    return mix


def _asked(snapshot: Snapshot) -> Counter[tuple[Ask, int | None]]:
    """Count what is asked for, and in which form it is had; None: in none yet."""
    asked: Counter[tuple[Ask, int | None]] = Counter()
    replicas = Counter(
        (replica.revision, replica.status.variant if replica.status.accelerators else None)
        for replica in snapshot.replicas.values()
        if replica.status.phase not in LEAVING
    )
    for (ref, variant), count in replicas.items():
        ask = ask_of(ref, snapshot)
        if ask:
            asked[ask, variant] += count
    for job in snapshot.open_jobs:
        if job.deleted_at is None and not job.spec.sweep:
            asked[ask_of_job(job), None] += job.spec.nodes
    return asked


def merged(options: Sequence[Option]) -> Demand:
    """Return one demand for one form: all ways to meet it with as many as where it takes least.

    A group of four that could do what one device of another kind does is no place that counts.
    """
    usual = [o.demand for o in options if any(o.demand.parts[k] for k in o.group)]
    first = usual[0]
    alike = [demand.parts for demand in usual]
    parts = tuple(max(own) for own in zip(*alike, strict=True))
    return Demand(first.cpu_milli, first.memory_mib, first.devices, parts)


def booked(outlook: Outlook, snapshot: Snapshot, layout: Layout) -> Ledger:
    """Book what replicas and attempts have on the plan of an outlook."""
    ledger = Ledger(dict(outlook.reserve))
    for (ask, variant, name), count in _placed(snapshot).items():
        place = layout.places.get(name)
        option = layout.way(ask, variant, place[0]) if place else None
        if option and place:
            k = int(layout.fleet.kind[place[0]])
            if k in option.group:
                ledger.note(option.group, k, count * milli_of(option.demand, k, layout))
    return ledger


def _placed(snapshot: Snapshot) -> Counter[tuple[Ask, int, str]]:
    """Count what is had by what was asked for, in which form, and the first of its accelerators."""
    placed: Counter[tuple[Ask, int, str]] = Counter()
    replicas = Counter(
        (r.revision, r.status.variant, r.status.accelerators[0])
        for r in snapshot.replicas.values()
        if r.status.accelerators
    )
    for (ref, variant, name), count in replicas.items():
        ask = ask_of(ref, snapshot)
        if ask:
            placed[ask, variant, name] += count
    for attempt in snapshot.living:
        held = [place.accelerators[0] for place in attempt.status.places if place.accelerators]
        job = snapshot.jobs.get(attempt.job) if held else None
        if job:
            placed.update((ask_of_job(job), 0, name) for name in held)
    return placed


def milli_of(demand: Demand, kind: int, layout: Layout) -> int:
    """Return the thousandths of devices of a kind that a demand takes."""
    return demand.devices * demand.parts[kind] * MILLI // layout.fleet.kinds[kind].whole


def distance(one: Mapping[Demand, int], other: Mapping[Demand, int]) -> float:
    """Return which part of a mix is other than in another: 0 to 1."""
    ours, theirs = sum(one.values()), sum(other.values())
    if not ours or not theirs:
        return 1.0
    both = one.keys() | other.keys()
    return sum(abs(one.get(d, 0) / ours - other.get(d, 0) / theirs) for d in both) / 2
