"""What the nodes have and what of it is free: the ground that placement stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from madang.planning.snapshot import Snapshot
from madang.resources.replica import Replica
from madang.resources.resource import Reason


@dataclass(frozen=True, slots=True)
class Slot:
    """One accelerator and what is left of it."""

    name: str
    node: str
    kind: str
    memory_bytes: int
    shared: bool
    held_bytes: int = 0
    holders: int = 0

    @property
    def free_bytes(self) -> int:
        """Memory that one more replica could have."""
        if not self.shared and self.holders:
            return 0
        return max(0, self.memory_bytes - self.held_bytes)

    def holding(self, memory_bytes: int, holders: int = 1) -> Slot:
        """Return the slot with that much more (or, negative, less) held."""
        return replace(
            self, held_bytes=self.held_bytes + memory_bytes, holders=self.holders + holders
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every accelerator by name. A value: `after` returns the next."""

    slots: Mapping[str, Slot]
    reachable: frozenset[str]
    """Nodes whose supervisor can be seen: nothing new is placed anywhere else."""
    refusals: dict[str, tuple[Reason, Reason]] = field(default_factory=dict, compare=False)
    """What was found when a revision was last asked of this very fleet: (reason, smallest fix)."""

    def after(self, accelerators: tuple[str, ...], memory_bytes: int, holders: int = 1) -> Fleet:
        """Return the fleet in which these accelerators hold that much more (or less) each."""
        slots = dict(self.slots)
        for name in accelerators:
            if name in slots:
                slots[name] = slots[name].holding(memory_bytes, holders)
        return Fleet(slots, self.reachable)

    def without(self, replica: Replica) -> Fleet:
        """Return the fleet in which this replica has let go."""
        return self.after(replica.status.accelerators, -replica.status.memory_bytes, -1)


def fleet_of(snapshot: Snapshot) -> Fleet:
    """Add up the accelerators and what replicas hold of them.

    A replica holds what its status names, in whatever phase: the list is emptied only when its
    processes are gone.
    """
    held: dict[str, tuple[int, int]] = {}
    for replica in snapshot.replicas.values():
        status = replica.status
        for name in status.accelerators:
            memory, holders = held.get(name, (0, 0))
            held[name] = memory + status.memory_bytes, holders + 1
    slots = {}
    for accelerator in snapshot.accelerators.values():
        spec = accelerator.spec
        memory, holders = held.get(accelerator.name, (0, 0))
        slots[accelerator.name] = Slot(
            name=accelerator.name, node=spec.node, kind=spec.accelerator,
            memory_bytes=spec.memory_bytes, shared=spec.shared,
            held_bytes=memory, holders=holders,
        )  # fmt: skip
    return Fleet(slots, snapshot.seen.nodes)


class Memo:
    """Work kept between turns. Any memo gives the same plan; a warm one gives it sooner."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._fleet = Fleet({}, frozenset())

    def fleet(self, snapshot: Snapshot) -> Fleet:
        """Return the fleet of this snapshot, added up again only if something in it changed."""
        kinds = ("replica", "accelerator", "service")
        key = (*(snapshot.kept.get(kind) for kind in kinds), snapshot.seen.nodes)
        if len(key) != len(self._key) or any(
            new is not old for new, old in zip(key, self._key, strict=True)
        ):
            self._key, self._fleet = key, fleet_of(snapshot)
        return self._fleet
