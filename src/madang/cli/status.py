"""`madang status`: the whole of it on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, phase, reason, say, show_json, size, table, tell

NODE = (
    "column.node", "column.phase", "column.cores", "column.memory", "column.accelerators",
)  # fmt: skip
SERVICE = (
    "column.service", "column.project", "column.phase", "column.ready", "column.model",
    "column.reason",
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
    table(NODE, [_node(node) for node in found["nodes"]])
    say()
    if found["services"]:
        table(SERVICE, [_service(service) for service in found["services"]])
    else:
        tell("status.no-services")
    say()
    if found["processes"]:
        table(PROCESS, [_process(process) for process in found["processes"]])
        say()
    tell("status.usage", **found["usage"])
    for service in found["services"]:
        if service["phase"] != "ready":
            next_step("next.explain", subject=f"service/{service['name']}")
            break


def _node(node: Mapping[str, Any]) -> tuple[object, ...]:
    memory = size(node["memory_bytes"])
    return node["name"], phase(node["phase"]), node["cores"], memory, node["accelerators"]


def _service(service: Mapping[str, Any]) -> tuple[object, ...]:
    ready = f"{service['ready']}/{service['wanted']}"
    why = reason(service["reason"], f"service/{service['name']}")
    return (
        service["name"], service["project"], phase(service["phase"]),
        ready, service["model"], why,
    )  # fmt: skip


def _process(process: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        process["uid"], phase(process["state"]), process["pid"] or "",
        size(process["rss_bytes"]), process["restarts"] or "",
    )  # fmt: skip
