"""Places for a gang: each of its members on a node of its own, all of one kind; all or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from madang.planning.ask import Ask, Refused
from madang.planning.layout import Option
from madang.planning.place.ground import Ground
from madang.planning.place.place import Placement, place, placement
from madang.planning.placement.demand import Demand
from madang.planning.placement.gang import Gang, GangPlacement
from madang.planning.quotas import NOTHING
from madang.planning.template import ask_of_job
from madang.resources.holding import Holding
from madang.resources.job import Job, Near


@dataclass(frozen=True, slots=True)
class Want:
    """What is asked for at once: by a replica of one node, by a gang of several."""

    ask: Ask
    """Of each node."""
    nodes: int = 1
    near: Near | None = None
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Note its hash: thousands that wait ask for the same."""
        object.__setattr__(self, "_hash", hash((self.ask, self.nodes, self.near)))

    def __hash__(self) -> int:
        """Return what was noted."""
        return self._hash

    def fits(self, ground: Ground) -> bool:
        """Tell whether there is a place for all of it."""
        if self.nodes == 1:
            return ground.fits(self.ask)
        return not isinstance(place_gang(self, ground), Refused)

    def may_fit(self, ground: Ground) -> bool:
        """Tell whether there are as many nodes as it asks for, each with room for its part."""
        options = ground.layout.options(self.ask)
        return any(int(ground.fitting(each.demand).sum()) >= self.nodes for each in options)

    def take(self, ground: Ground) -> None:
        """Let it have its places, if there are any."""
        found = place_gang(self, ground)
        for each in () if isinstance(found, Refused) else found:
            ground.change(NOTHING, each.holding())


def keep(want: Want, coming: Sequence[Holding], ground: Ground) -> None:
    """Let nobody else have what one will get once these are gone, as far as it is free now."""
    with ground.trial():
        for held in coming:
            ground.change(held, NOTHING)
        found = place_gang(want, ground)
    if not isinstance(found, Refused):
        idle = (ground.idle(each.holding()) for each in found)
        ground.change_all((), [each for each in idle if each.accelerators])


def want_of(job: Job) -> Want:
    """Return what a job's gang asks for."""
    return Want(ask_of_job(job), job.spec.nodes, job.spec.near)


def demands(wants: Iterable[Want], ground: Ground) -> Iterator[Demand]:
    """Return all that finding places for these looks for."""
    for want in wants:
        for option in ground.layout.options(want.ask):
            yield option.demand
            if want.nodes > 1:
                yield from (single.demand for single in _of_one_kind(option, ground))


def place_gang(want: Want, ground: Ground) -> tuple[Placement, ...] | Refused:
    """Choose accelerators of so many nodes, on each what is asked; the ground ends as it was.

    See `placement.gang` for what near means. Of kinds that would all do, the one with the best sum
    of scores gets it; of equal ones the first.
    """
    ask, nodes, near = want.ask, want.nodes, want.near
    if nodes == 1:
        found = place(ask, ground)
        return (found,) if isinstance(found, Placement) else found
    best: tuple[Option, GangPlacement] | None = None
    for option in ground.layout.options(ask):
        for single in _of_one_kind(option, ground):
            way = ground.search(single.demand, single.bonus, _gang(single.demand, nodes, near))
            if way and (best is None or way.score > best[1].score):
                best = single, way
    if best:
        places = tuple(placement(choice, best[0].ask, ground) for choice in best[1].choices)
        if _is_allowed(places, ground):
            return places
    if near is None or not near.required:
        places = _one_by_one(ask, nodes, ground)
        if len(places) == nodes:
            return places
    return _refused(want, ground)


def _of_one_kind(option: Option, ground: Ground) -> Iterator[Option]:
    """Split an option by the kind of accelerator: what a gang computes goes at one speed."""
    stocks, demand = ground.layout.stocks, option.demand
    for kind in sorted({stocks[k].kind for k in demand.kinds}):
        parts = tuple(
            part if stock.kind == kind else 0
            for part, stock in zip(demand.parts, stocks, strict=True)
        )
        yield replace(option, demand=replace(demand, parts=parts))


def _gang(demand: Demand, nodes: int, near: Near | None) -> Gang:
    level = near.level.value if near else ""
    return Gang((demand,) * nodes, level, near is not None and near.required, is_apart=True)


def _is_allowed(places: tuple[Placement, ...], ground: Ground) -> bool:
    """Tell whether no pool would draw more than it may with all of them."""
    with ground.trial():
        for found in places:
            ground.change(NOTHING, found.holding())
        return ground.draw.is_within()


def _one_by_one(ask: Ask, nodes: int, ground: Ground) -> tuple[Placement, ...]:
    """Place each where it is best after those before it; as many as find room."""
    places: list[Placement] = []
    with ground.trial():
        while len(places) < nodes:
            found = place(ask, ground, but=frozenset(p.node for p in places))
            if not isinstance(found, Placement):
                break
            if places and found.kind != places[0].kind:
                break
            places.append(found)
            ground.change(NOTHING, found.holding())
    return tuple(places)


def _refused(want: Want, ground: Ground) -> Refused:
    """Say what holds the next one back once as many as can be are placed."""
    with ground.trial():
        placed = _one_by_one(want.ask, want.nodes, ground)
        for found in placed:
            ground.change(NOTHING, found.holding())
        fell = ground.fell(want.ask)
    near = want.near.level.value if want.near and want.near.required else ""
    return Refused(want.ask, fell, nodes=want.nodes, placed=len(placed), near=near)
