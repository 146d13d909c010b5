"""Resources as people are told of them: what is stored, and of a pool what it draws now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from madang.control.world import World
from madang.planning.layout import drawing, is_processor
from madang.planning.snapshot import Snapshot
from madang.resources.place import Pool, PoolStatus
from madang.resources.power import milliwatts
from madang.resources.resource import AnyResource
from madang.resources.rights import CONTROL

MW_PER_KW = 10**6


def shown(world: World, found: Iterable[AnyResource]) -> list[dict[str, Any]]:
    """Return resources as JSON, for whoever may see them."""
    told = list(found)
    drawn = power(world.snapshot(CONTROL)) if any(isinstance(r, Pool) for r in told) else {}
    return [r.model_copy(update={"status": drawn.get(r.uid, r.status)}).shown() for r in told]


def power(snapshot: Snapshot) -> dict[str, PoolStatus]:
    """Return what each pool draws, idle accelerators too, by its uid.

    Processors count where somebody has said what they draw, and are missed nowhere else.
    """
    drawn, unknown = Counter[str](), dict[str, set[str]]()
    for spec, pool, watts, works in drawing(snapshot):
        if watts:
            drawn[pool] += milliwatts(watts.full if works else watts.idle)
        elif not is_processor(spec.accelerator):
            unknown.setdefault(pool, set()).add(spec.accelerator)
    return {
        pool.uid: PoolStatus(
            power_kw=drawn[pool.name] / MW_PER_KW if pool.name in drawn else None,
            no_watts=tuple(sorted(unknown.get(pool.name, ()))),
        )
        for pool in snapshot.all(Pool).values()
    }
