"""Everything at a glance: what `madang status` shows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from madang import __version__
from madang.control.intake import Intake
from madang.control.world import World
from madang.planning.snapshot import Seen
from madang.resources.fleet import SIMULATED
from madang.resources.resource import AnyResource
from madang.resources.rights import Principal, Right
from madang.resources.service import Service


def report(who: Principal, world: World, intake: Intake, seen: Seen) -> dict[str, Any]:
    """Return nodes, services, Madang's own processes and usage, as far as the caller sees them."""
    is_operator = who.may(Right.OPERATE, "")
    own = [
        {
            "uid": process.uid,
            "pid": process.pid,
            "rss_bytes": process.rss_bytes,
            "restarts": process.restarts,
            "state": process.state,
        }
        for process in seen.processes.values()
        if is_operator and not process.uid.startswith("replica-")
    ]
    return {
        "version": __version__,
        "term": world.term,
        "revision": world.revision,
        "nodes": _nodes(who, world, intake),
        "services": [_service(service) for service in intake.list(who, "service", None)],
        "processes": own,
        "usage": _usage(who, world),
    }


def _usage(who: Principal, world: World) -> dict[str, int]:
    """Add up what the caller's projects have used."""
    own = world.usage(who)
    names = ("requests", "prompt_tokens", "cached_tokens", "output_tokens")
    return {name: sum(getattr(total, name) for total in own) for name in names}


def _nodes(who: Principal, world: World, intake: Intake) -> list[dict[str, Any]]:
    kinds: dict[str, Counter[str]] = {}
    for accelerator in world.list(who, "accelerator").values():
        kinds.setdefault(accelerator.spec.node, Counter())[accelerator.spec.accelerator] += 1
    nodes = intake.list(who, "node", None)
    return [_node(node, kinds.get(node.name, Counter())) for node in nodes]


def _node(node: AnyResource, kinds: Counter[str]) -> dict[str, Any]:
    return {
        "name": node.name,
        "pool": node.spec.pool,
        "simulated": SIMULATED in node.spec.labels,
        "phase": node.status.phase,
        "cores": node.status.cores,
        "memory_bytes": node.status.memory_bytes,
        "accelerators": kinds.total(),
        "kinds": dict(kinds),
    }


def _service(service: AnyResource) -> dict[str, Any]:
    assert isinstance(service, Service)
    status = service.status.model_dump(mode="json")
    return {
        "project": service.project,
        "name": service.name,
        "wanted": service.wanted,
        "model": service.spec.model,
        "price": service.spec.price and service.spec.price.model_dump(),
        **{
            key: status[key]
            for key in (
                "phase",
                "ready",
                "revision",
                "reason",
                "next_try",
                "smallest_fix",
                "tariff",
            )
        },
    }
