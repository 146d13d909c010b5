"""A fleet file: the sites, pools and nodes that are simulated, and how their accelerators behave.

    accelerators:
      nvidia/h100: {memory: 80GB, start: 20s, first_token: 40ms, token: 8ms, fails: 0.01}
    sites:
      - name: seoul
        grade: S
        pools:
          - name: training
            nodes:
              - {name: h100, count: 40, rack: r1, cores: 128, memory: 2TB,
                 accelerators: {nvidia/h100: 8}}

A group of `count` nodes is named `h100-01` to `h100-40`; without a count it is one node of that
name. The kind `cpu` offers the node's own memory, to several replicas at once; any other does so
where it has a `guarantee`. Devices of a kind with a `group` are given only so many together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from madang.errors import Unfit
from madang.resources.place import Grade, Guarantee
from madang.resources.power import Watts
from madang.resources.quantity import Duration, Size
from madang.resources.resource import Frozen, Name

NODES_MAX = 10_000
GROUP_NAME_BYTES_MAX = 40
"""A number and the name of a device still fit behind it."""
CPU = "cpu"
SIMULATED = "simulated"
"""The label that every node of a fleet file bears."""


def _check_kind(kind: str) -> str:
    maker, slash, model = kind.partition("/")
    if kind != CPU and not (maker and slash and model):
        raise Unfit("value.fleet-kind")
    return kind


Kind = Annotated[
    str, Field(max_length=64, pattern=r"^[a-z0-9/._-]*$"), AfterValidator(_check_kind)
]  # fmt: skip
Label = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9._-]*$")]
Count = Annotated[int, Field(ge=1, le=64, strict=True)]


class KindSpec(Frozen):
    """What an accelerator of one kind has, and how a replica on it behaves."""

    memory: Size | None = None
    """Decimal, as on the card's box; for `cpu` the node says it."""
    guarantee: Guarantee | None = None
    """What those have that share one by memory; None: it is given whole (`cpu` is shared)."""
    group: Count = 1
    """So many of a node may not be split: each replica gets all of a group, or none."""
    start: Duration = 1.0
    """From the order to start to the first answer, in place of what the model's script says."""
    first_token: Duration = 0.0
    token: Duration = 0.001
    watts: Watts | None = None
    """What it draws, in place of what is published of the kind."""
    fails: float = Field(default=0.0, ge=0, le=1)
    """Share of starts that end in an error; which ones follows from the seed."""


class Absence(Frozen):
    """A node that vanishes once, and returns."""

    after: Duration
    """Counted from the start of the fleet."""
    lasts: Duration
    keeps: bool = False
    """True: only the way to it is lost. False: it starts again, and nothing runs on it."""


class Ailment(Frozen):
    """An accelerator that falls ill once, and is well again if that lasts only so long."""

    after: Duration
    """Counted from the start of the fleet."""
    accelerator: str = Field(max_length=16)
    """As it is called on its node: `gpu0`."""
    lasts: Duration | None = None
    xid: int | None = Field(default=None, ge=1, le=1000, strict=True)
    """That its node's kernel logs once."""
    gone: bool = False
    """Its maker's tool lists it no more."""
    hot: bool = False
    halted: bool = False
    uncorrectable: int = Field(default=0, ge=0, le=1_000_000, strict=True)
    remap: Literal["", "pending", "failed"] = ""
    recovery: Literal["", "reset", "reboot", "drain"] = ""
    tool: Literal["", "hung", "failed"] = ""
    """How the tool of its maker answers for all that the node has of it."""


class NodeGroup(Frozen):
    """Some nodes of one shape."""

    name: Name
    count: int | None = Field(default=None, ge=1, le=NODES_MAX, strict=True)
    zone: Label = ""
    rack: Label = ""
    cores: float = Field(gt=0, le=4096)
    memory: Size
    accelerators: dict[Kind, Count] = {}
    vanishes: tuple[Absence, ...] = ()
    ails: tuple[Ailment, ...] = ()

    def names(self) -> Iterator[str]:
        """Give the name of each node."""
        if self.count is None:
            yield self.name
            return
        width = len(str(self.count))
        for number in range(1, self.count + 1):
            yield f"{self.name}-{number:0{width}}"


class FleetPool(Frozen):
    """Nodes that are planned together."""

    name: Name
    nodes: tuple[NodeGroup, ...]


class FleetSite(Frozen):
    """A place with its own law and network."""

    name: Name
    grade: Grade = Grade.OPEN
    """The highest grade of data that it may hold, when it is made; people may change it then."""
    pools: tuple[FleetPool, ...]


class Fleet(Frozen):
    """All that is simulated."""

    seed: int = Field(default=0, ge=0, le=2**53, strict=True)
    accelerators: dict[Kind, KindSpec] = {}
    sites: tuple[FleetSite, ...]


Where = tuple[str | int, ...]
"""The keys and numbers that lead to a place of the file."""


def written(where: Where) -> str:
    """Write a place as people read it.

    >>> written(("sites", 0, "pools", 1, "name"))
    'sites[1].pools[2].name'
    """
    parts = (f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in where)
    return "".join(parts).removeprefix(".")


def line_of(root: Any, where: Where) -> int:
    """Return the line of a place, or of the innermost place around it that is written.

    `root` is the file as nodes of YAML, each with its mark.
    """
    node, line = root, root.start_mark.line if root else 0
    for part in where:
        inside = node.value if node and isinstance(node.value, list) else []
        pairs = [pair if isinstance(pair, tuple) else (pair, pair) for pair in inside]
        found = pairs[part : part + 1] if isinstance(part, int) else None
        if found is None:
            found = [pair for pair in pairs if str(pair[0].value) == part]
        if not found:
            break
        line, node = found[0][0].start_mark.line, found[0][1]
    return int(line) + 1


def groups(fleet: Fleet) -> Iterator[tuple[Where, str, str, NodeGroup]]:
    """Give every group of nodes: where it stands in the file, its site, its pool, itself."""
    for s, site in enumerate(fleet.sites):
        for p, pool in enumerate(site.pools):
            for n, group in enumerate(pool.nodes):
                yield ("sites", s, "pools", p, "nodes", n), site.name, pool.name, group


def faults(fleet: Fleet) -> Iterator[tuple[Where, Unfit]]:
    """Give what its parts can't tell by themselves: names used twice, kinds that nobody knows."""
    for kind, spec in fleet.accelerators.items():
        if spec.memory is None and kind != CPU:
            yield ("accelerators", kind), Unfit("value.fleet-memory", kind=kind)
        if spec.group > 1 and (spec.guarantee is not None or kind == CPU):
            yield ("accelerators", kind, "group"), Unfit("value.fleet-group-shared", kind=kind)
    yield from _twice(fleet)
    for where, _, _, group in groups(fleet):
        for kind, count in group.accelerators.items():
            spec = fleet.accelerators.get(kind, KindSpec())
            if kind not in fleet.accelerators and kind != CPU:
                yield (*where, "accelerators", kind), Unfit("value.fleet-unknown", kind=kind)
            if count % spec.group:
                yield (
                    (*where, "accelerators", kind),
                    Unfit("value.fleet-group", kind=kind, count=count, group=spec.group),
                )
        yield from _unknown_devices(where, group, fleet)
        if len(group.name.encode()) > GROUP_NAME_BYTES_MAX:
            yield (*where, "name"), Unfit("value.name-long", limit=GROUP_NAME_BYTES_MAX)
    count = sum(group.count or 1 for *_, group in groups(fleet))
    if not 1 <= count <= NODES_MAX:
        yield ("sites",), Unfit("value.fleet-size", count=count, limit=NODES_MAX)


def _unknown_devices(where: Where, group: NodeGroup, fleet: Fleet) -> Iterator[tuple[Where, Unfit]]:
    """Give ailments of what a node does not have."""
    named = {each["name"] for each in _named(_devices(group, fleet.accelerators))}
    for number, ailment in enumerate(group.ails):
        if ailment.accelerator not in named:
            wrong = Unfit("value.fleet-device", name=ailment.accelerator)
            yield (*where, "ails", number, "accelerator"), wrong


def _twice(fleet: Fleet) -> Iterator[tuple[Where, Unfit]]:
    """Give names of sites, pools and nodes that stand for two things of their kind."""
    known: set[tuple[str, str]] = set()
    named: list[tuple[Where, str, str]] = []
    for s, site in enumerate(fleet.sites):
        named.append((("sites", s, "name"), "site", site.name))
        for p, pool in enumerate(site.pools):
            named.append((("sites", s, "pools", p, "name"), "pool", pool.name))
    for where, _, _, group in groups(fleet):
        named += [((*where, "name"), "node", name) for name in group.names()]
    for where, kind, name in named:
        if (kind, name) in known:
            yield where, Unfit("value.fleet-twice", name=name)
        known.add((kind, name))


def plain(fleet: Fleet) -> dict[str, Any]:
    """Return what the simulation works by: JSON, every node by itself, times in seconds.

    The same file gives the same, and a file that says the same in other words too.
    """
    kinds = {
        kind: {"start_s": spec.start, "first_token_s": spec.first_token,
               "token_s": spec.token, "fails": spec.fails}
        for kind, spec in sorted(fleet.accelerators.items())
    }  # fmt: skip
    grades = {site.name: site.grade for site in fleet.sites}
    nodes = [
        _plain_node(name, site, pool, group, fleet.accelerators) | _grade(grades[site])
        for _, site, pool, group in groups(fleet)
        for name in group.names()
    ]
    return {"seed": fleet.seed, "kinds": kinds, "nodes": nodes}


def _plain_node(
    name: str, site: str, pool: str, group: NodeGroup, kinds: Mapping[str, KindSpec]
) -> dict[str, Any]:
    labels = {"zone": group.zone, "rack": group.rack, SIMULATED: "yes"}
    ails = [_plain_ailment(each) for each in group.ails]
    return {
        "name": name, "site": site, "pool": pool,
        "labels": {label: value for label, value in labels.items() if value},
        "cores": group.cores, "memory_bytes": group.memory,
        "accelerators": _named(_devices(group, kinds)),
        "vanishes": [
            {"after_s": each.after, "lasts_s": each.lasts, "keeps": each.keeps}
            for each in group.vanishes
        ],
    } | ({"ails": ails} if ails else {})  # fmt: skip


def _plain_ailment(each: Ailment) -> dict[str, Any]:
    """Return when which accelerator shows what."""
    shows = each.model_dump(exclude={"after", "lasts", "accelerator"}, exclude_defaults=True)
    when = {"after_s": each.after, "lasts_s": each.lasts, "accelerator": each.accelerator}
    return {**when, "shows": shows}


def _devices(group: NodeGroup, kinds: Mapping[str, KindSpec]) -> list[dict[str, Any]]:
    """Return what each node of a group has."""
    devices: list[dict[str, Any]] = []
    for kind, count in sorted(group.accelerators.items()):
        known = kinds.get(kind, KindSpec())
        memory = group.memory if known.memory is None else known.memory
        for number in range(count):
            device = {"kind": kind, "memory_bytes": memory}
            if known.guarantee is not None:
                device["guarantee"] = known.guarantee.value
            if known.watts is not None:
                device["watts"] = known.watts.model_dump()
            if known.group > 1:
                device["group"] = f"{kind}-{number // known.group}"
            devices.append(device)
    return devices


def _grade(grade: Grade) -> dict[str, Any]:
    """Return what a node says of its site's grade: nothing of the usual one.

    What is left out where it is as ever lets a home of an older Madang know its file again.
    """
    return {} if grade is Grade.OPEN else {"grade": grade.value}


_DEVICES = {CPU: "cpu", "nvidia": "gpu", "amd": "gpu"}
"""How devices of a maker are called on their node; any other's are `npu`."""


def _named(devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name the devices of one node: cpu0, gpu0, gpu1, npu0."""
    counts: dict[str, int] = {}
    named = []
    for device in devices:
        start = _DEVICES.get(device["kind"].partition("/")[0], "npu")
        counts[start] = counts.get(start, -1) + 1
        named.append({"name": f"{start}{counts[start]}", **device})
    return named
