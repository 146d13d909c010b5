"""What is spent of budgets, told with the quotas that set them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from madang.control.world import World
from madang.months import day_number, month_of, written_day
from madang.resources.quota import Quota
from madang.resources.resource import AnyResource
from madang.resources.rights import CONTROL
from madang.resources.serving import UNBOUND
from madang.traffic.leases import DAY, MONTH
from madang.traffic.price import MICRO


async def with_spent(
    world: World, found: Iterable[AnyResource], told: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return what is told of resources, with what is spent of the tokens and the money of quotas.

    What has been metered counts: requests under way are not in it.
    """
    quotas = {r.uid: r for r in found if isinstance(r, Quota) and r.spec.serving != UNBOUND}
    if not quotas:
        return told
    rows = {(r.owner, r.what): r.used for r in await world.spent(CONTROL) if not r.holder}
    now = world.clock.now()
    resets = {DAY: written_day(day_number(now) + 1), MONTH: month_of(now).day_after}
    for body in told:
        quota = quotas.get(body["uid"])
        for what, unit in ((DAY, 1), (MONTH, MICRO)) if quota else ():
            most = getattr(quota.spec.serving, what) if quota else None
            if quota and most is not None:
                kind = "project" if "/" in quota.project else "organization"
                used = round(rows.get((f"{kind}/{quota.project}", what), 0) / unit, 3)
                line = {"what": what, "most": most, "used": used, "left": max(0, most - used)}
                body["status"]["used"] = [
                    *body["status"].get("used", ()), {**line, "resets": resets[what]},
                ]  # fmt: skip
    return told
