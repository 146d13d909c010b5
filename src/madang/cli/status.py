"""`madang status`: the whole of it on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from madang.cli.fleet import counted
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import (
    next_step,
    phase,
    power,
    reason,
    say,
    show_json,
    size,
    table,
    tell,
    token_price,
)

NODE = (
    "column.node", "column.phase", "column.cores", "column.memory", "column.accelerators",
)  # fmt: skip
POOL = (
    "column.pool", "column.nodes", "column.phase", "column.cores", "column.memory",
    "column.accelerators",
)  # fmt: skip
IDLE_MAX = 10
"""So many are named that stand idle."""
HOURS_MIN = 0.1
"""Less is not told."""
NODES_MAX = 12
"""More nodes are told together, by their pool and what they have."""
SERVICE = (
    "column.service", "column.project", "column.phase", "column.ready", "column.model",
    "column.token-price", "column.reason",
)  # fmt: skip
PROCESS = (
    "column.process", "column.state", "column.pid", "column.memory", "column.restarts",
)  # fmt: skip


def status(*, options: Options = DEFAULTS) -> None:
    """Show what runs: nodes, services, processes and usage."""
    with options.client() as client:
        found = client.status()
    if options.json:
        show_json(found)
        return
    tell("status.where", version=found["version"], api=found["api"], gateway=found["gateway"])
    if any(node.get("simulated") for node in found["nodes"]):
        tell("status.simulated")
    if len(found["nodes"]) > NODES_MAX:
        table(POOL, list(_pools(found["nodes"])))
    else:
        table(NODE, [_node(node) for node in found["nodes"]])
    for pool in found["pools"]:
        if most := power(pool["power_kw_max"]):
            tell("status.power", pool=pool["name"], most=most, draws=power(pool["power_kw"] or 0))
    say()
    if found["services"]:
        table(SERVICE, [_service(service) for service in found["services"]])
    else:
        tell("status.no-services")
    say()
    if found["processes"]:
        table(PROCESS, [_process(process) for process in found["processes"]])
        say()
    _had(found.get("accelerators", {"items": ()})["items"])
    _idle(found.get("idle", ()))
    tell("status.usage", **found["usage"])
    for service in found["services"]:
        if service["phase"] != "ready":
            next_step("next.explain", subject=f"service/{service['name']}")
            break


def _had(items: Sequence[Mapping[str, Any]]) -> None:
    """Say what was had of accelerators this month and used of them, if that is worth a word."""
    held_h, used_h, idle_h, krw, idle_krw = (
        sum(item[key] for item in items)
        for key in ("held_h", "used_h", "idle_h", "krw", "idle_krw")
    )
    if held_h < HOURS_MIN:
        return
    share = round(100 * used_h / (used_h + idle_h), 1) if used_h + idle_h else "–"
    tell(
        "status.had", held=round(held_h, 1), percent=share, idle=round(idle_h, 1),
        krw=f"{krw:,}", idle_krw=f"{idle_krw:,}",
    )  # fmt: skip


def _idle(warned: Sequence[Mapping[str, Any]]) -> None:
    """Name what stands idle, and what becomes of it."""
    for each in warned[:IDLE_MAX]:
        subject = f"{each['kind']}/{each['name']}"
        say(f"{subject} ({each['project']}): {reason(each['reason'], subject)}")


def _node(node: Mapping[str, Any]) -> tuple[object, ...]:
    memory = size(node["memory_bytes"])
    return node["name"], phase(node["phase"]), node["cores"], memory, node["accelerators"]


def _pools(nodes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    """Give a row for the nodes of one pool that have the same kinds and the same phase."""
    alike: dict[tuple[str, str, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    for node in nodes:
        key = node["pool"], node["phase"], tuple(sorted(node["kinds"]))
        alike.setdefault(key, []).append(node)
    for (pool, state, kinds), own in sorted(alike.items()):
        counts = {kind: sum(node["kinds"][kind] for node in own) for kind in kinds}
        cores = f"{sum(node['cores'] for node in own):g}"
        memory = size(sum(node["memory_bytes"] for node in own))
        yield pool, len(own), phase(state), cores, memory, counted(counts)


def _service(service: Mapping[str, Any]) -> tuple[object, ...]:
    ready = f"{service['ready']}/{service['wanted']}"
    why = reason(service["reason"], f"service/{service['name']}")
    return (
        service["name"], service["project"], phase(service["phase"]),
        ready, service["model"], token_price(service, service), why,
    )  # fmt: skip


def _process(process: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        process["uid"], phase(process["state"]), process["pid"] or "",
        size(process["rss_bytes"]), process["restarts"] or "",
    )  # fmt: skip
