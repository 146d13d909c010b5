"""A fleet file: read with the place of each mistake, kept in the home, shown to people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.cli.output import say, size, table, tell
from madang.errors import Corrupt, Rejected, Value, refuse_newer, why
from madang.forms import MARK, marked
from madang.settings import BODY_BYTES_MAX, Home

if TYPE_CHECKING:
    from pydantic import ValidationError

POOLS = (
    "column.site", "column.pool", "column.nodes", "column.accelerators", "column.cores",
    "column.memory",
)  # fmt: skip
FILE = "file"
"""Where the home keeps the name of the file that it was made with."""


def read(source: str) -> dict[str, Any]:
    """Read a fleet file as the simulation works by; raises `Rejected` with its line."""
    import yaml

    try:
        with Path(source).open("rb") as file:
            content = file.read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise Rejected("fleet.unreadable", source, cause=error.strerror or str(error)) from error
    if len(content) > BODY_BYTES_MAX:
        raise Rejected("fleet.too-large", source, limit_bytes=BODY_BYTES_MAX)
    try:
        root = yaml.compose(content, yaml.SafeLoader)
        body = _keyed(yaml.safe_load(content))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        cause = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else 0
        raise Rejected("fleet.not-yaml", source, line=line, cause=cause) from error
    return _checked(body, source, root)


def _checked(body: object, source: str, root: Any) -> dict[str, Any]:
    """Return the fleet in plain form; raises for the first mistake, with its line."""
    from pydantic import ValidationError

    from madang.resources.fleet import Fleet, faults, line_of, plain, written

    try:
        fleet = Fleet.model_validate(body)
    except ValidationError as error:
        raise _named(error, source, root) from error
    for where, unfit in faults(fleet):
        place: dict[str, Value] = {"line": line_of(root, where), "key": written(where)}
        raise Rejected("fleet.value", source, **place, **unfit.why())
    return plain(fleet)


def _keyed(value: Any) -> Any:
    """Make every key a string, as people mean it."""
    if isinstance(value, dict):
        return {str(key): _keyed(each) for key, each in value.items()}
    return [_keyed(each) for each in value] if isinstance(value, list) else value


def _named(error: ValidationError, source: str, root: Any) -> Rejected:
    """Turn one complaint into a sentence about one key; a misspelt key before a missing one."""
    from madang.resources.fleet import Fleet, line_of, written
    from madang.resources.manifest import keys_beside, nearest

    complaints = error.errors()
    first = next((c for c in complaints if c["type"] == "extra_forbidden"), complaints[0])
    where = tuple(part for part in first["loc"] if part != "[key]")
    place: dict[str, Value] = {"line": line_of(root, where), "key": written(where)}
    if first["type"] == "extra_forbidden":
        known = keys_beside(Fleet, where[:-1])
        close = nearest(str(where[-1]), known)
        return Rejected(
            "fleet.unknown-key", source, **place, nearest=close or "-", known=", ".join(known)
        )
    if first["type"] == "missing":
        return Rejected("fleet.missing-key", source, **place)
    return Rejected("fleet.value", source, **place, **why(first))


def kept(home: Home) -> dict[str, Any] | None:
    """Return the fleet that a home was made with; None for a home of real nodes."""
    try:
        body = json.loads(home.fleet.read_bytes())
        refuse_newer(home.fleet, body)
        return dict(body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Corrupt("fleet.damaged", str(home.fleet), cause=str(error)) from error


def keep(home: Home, source: str) -> None:
    """Make a new home one of this fleet; raises where it is of another, or of real nodes."""
    body, known = read(source), kept(home)
    if known is None:
        if any(path.exists() for path in (home.state, home.database, home.first_run)):
            raise Rejected("up.not-a-fleet", str(home.path), fleet=source)
        part = home.fleet.with_name(home.fleet.name + ".new")
        part.write_text(json.dumps(marked({FILE: Path(source).name, **body})), encoding="utf-8")
        part.replace(home.fleet)
    elif {k: v for k, v in known.items() if k not in {FILE, MARK}} != body:
        raise Rejected("up.other-fleet", str(home.path), fleet=source, kept=str(known.get(FILE)))


def show(home: Home) -> None:
    """Say what a home simulates, where it does; nothing for one of real nodes."""
    if fleet := kept(home):
        tell("up.simulated", **_summary(fleet))
        table(POOLS, list(_pools(fleet["nodes"])))
        say()


def summary(home: Home) -> dict[str, Any] | None:
    """Return what a home simulates, in numbers; None for one of real nodes."""
    fleet = kept(home)
    return None if fleet is None else _summary(fleet)


def _summary(fleet: Mapping[str, Any]) -> dict[str, Any]:
    nodes = fleet["nodes"]
    return {
        "file": fleet[FILE],
        "sites": len({node["site"] for node in nodes}),
        "nodes": len(nodes),
        "accelerators": sum(len(node["accelerators"]) for node in nodes),
    }


def _pools(nodes: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    """Give a row a pool."""
    pools: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for node in nodes:
        pools.setdefault((node["site"], node["pool"]), []).append(node)
    for (site, pool), own in pools.items():
        kinds = Counter(device["kind"] for node in own for device in node["accelerators"])
        yield (
            site, pool, len(own), counted(kinds), f"{sum(node['cores'] for node in own):g}",
            size(sum(node["memory_bytes"] for node in own)),
        )  # fmt: skip


def counted(kinds: Mapping[str, int]) -> str:
    """Write accelerators by kind.

    >>> counted({"nvidia/h100": 16, "cpu": 2})
    '2 cpu, 16 nvidia/h100'
    """
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
