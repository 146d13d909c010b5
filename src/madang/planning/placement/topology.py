"""Where hosts lie: levels of domains, one within the other, such as site, zone, rack and node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madang.planning.placement.fleet import Ints

UNKNOWN = -1
"""The domain of a host of which nobody has said where it lies."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The domain of each host at each level. The numbers of domains mean nothing but themselves."""

    levels: tuple[str, ...]
    """The widest first; the last is the node."""
    ids: Ints
    """[levels, hosts] `UNKNOWN`, or 0, 1, …"""

    @classmethod
    def of(cls, levels: Sequence[str], labels: Sequence[Sequence[str]]) -> Topology:
        """[hosts][levels] labels, in the order of the fleet; empty: unknown.

        Racks of the same name in two zones are two racks.
        """
        ids = np.full((len(levels), len(labels)), UNKNOWN, np.int64)
        known: list[dict[tuple[str, ...], int]] = [{} for _ in levels]
        for host, own in enumerate(labels):
            for at in range(len(levels)):
                path = tuple(own[: at + 1])
                if path[-1]:
                    ids[at, host] = known[at].setdefault(path, len(known[at]))
        return cls(tuple(levels), ids)

    def at(self, level: str) -> Ints:
        """[hosts] The domains of one level; of no level: all hosts are one."""
        if not level:
            return np.zeros(self.ids.shape[1], np.int64)
        return np.asarray(self.ids[self.levels.index(level)])

    def around(self, level: str) -> tuple[str, ...]:
        """Return the level and those that are wider, the nearest first, and last no level."""
        upwards = self.levels[: self.levels.index(level) + 1] if level else ()
        return (*reversed(upwards), "")

    def places(self, rank: Ints) -> Ints:
        """[hosts] Their place in an order in which neighbours come one after the other."""
        keys = [rank]
        for ids in self.ids[::-1]:
            first = np.full(len(rank), len(rank), np.int64)
            np.minimum.at(first, ids[ids >= 0], rank[ids >= 0])
            keys.append(np.where(ids >= 0, first[ids], len(rank)))
        out = np.empty(len(rank), np.int64)
        out[np.lexsort(keys)] = np.arange(len(rank))
        return out


@dataclass(frozen=True, slots=True)
class Domains:
    """The hosts of each domain of one level, or of a part of it."""

    order: Ints
    """Hosts, domain after domain; in each by name."""
    starts: Ints
    """Where in that each domain starts."""

    @classmethod
    def of(cls, ids: Ints, hosts: Ints) -> Domains:
        """Group hosts, given by name, by their [all hosts] domains; unknown ones are left out."""
        known = hosts[ids[hosts] >= 0]
        order = known[np.argsort(ids[known], kind="stable")]
        own = ids[order]
        return cls(order, np.flatnonzero(np.diff(own, prepend=own[:1] - 1)))

    def numbers(self) -> Ints:
        """Return for each place in `order` which domain it belongs to."""
        lengths = np.diff(self.starts, append=len(self.order))
        return np.repeat(np.arange(len(self.starts)), lengths)

    def sums(self, values: Ints) -> Ints:
        """[…, domains] Sums of […, hosts] values."""
        return np.asarray(self.fold(values[..., self.order]))

    def fold(self, laid: NDArray[Any]) -> NDArray[Any]:
        """[…, domains] Sums of values laid out domain after domain."""
        return np.add.reduceat(laid, self.starts, axis=-1)

    def hosts(self, domain: int) -> Ints:
        """Return the hosts of one domain, by name."""
        end = self.starts[domain + 1] if domain + 1 < len(self.starts) else len(self.order)
        return self.order[self.starts[domain] : end]
