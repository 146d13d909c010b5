"""Leases of what costs money: control lends what gateways may spend, by the newest limits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from madang.control.gateways import Gateways
from madang.control.world import World
from madang.resources.rights import GATEWAY
from madang.traffic.leases import DAY, MONTH, Asked, Lent
from madang.traffic.price import MICRO
from madang.traffic.table import Allowance, RouteTable

BOOTS_KEPT = 1024


class Leases:
    """Answers gateways that ask for leases."""

    def __init__(self, world: World, gateways: Gateways) -> None:
        self._world = world
        self._gateways = gateways
        self._numbers: OrderedDict[str, int] = OrderedDict()
        """The newest question of each life of a gateway."""

    async def lend(self, asked: Asked) -> Sequence[Lent]:
        """Lend what is asked for, as far as there may be; nothing for a question out of turn."""
        if asked.number <= self._numbers.get(asked.boot, 0):
            return []
        self._numbers[asked.boot] = asked.number
        self._numbers.move_to_end(asked.boot)
        while len(self._numbers) > BOOTS_KEPT:
            self._numbers.popitem(last=False)
        limits = limits_of(self._gateways.table())
        wants = [(want, limits.get((want.owner, want.what), 0)) for want in asked.wants]
        return await self._world.lend(GATEWAY, asked, wants)


def limits_of(table: RouteTable) -> dict[tuple[str, str], int]:
    """Return the limits on what costs money: of tokens a day, of millionths of a won a month."""
    found: dict[tuple[str, str], int] = {}
    for key in table.keys.values():
        if key.limits is not None:
            _add(found, f"key/{key.uid}", key.limits)
    for place, allowance in table.limits.items():
        _add(found, f"{'project' if '/' in place else 'organization'}/{place}", allowance)
    return found


def _add(found: dict[tuple[str, str], int], owner: str, allowance: Allowance) -> None:
    if allowance.tokens_per_day is not None:
        found[owner, DAY] = allowance.tokens_per_day
    if allowance.krw_per_month is not None:
        found[owner, MONTH] = allowance.krw_per_month * MICRO
