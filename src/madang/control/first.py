"""The first objects of a new home: one of each place, one project, one operator's key."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madang.control.keys import Keys, Wanted, digest, is_secret, make_key, new_secret
from madang.control.world import World
from madang.planning.snapshot import LOST
from madang.ports import Blobs, Found, Random
from madang.resources.event import Event
from madang.resources.place import (
    Accelerator,
    AcceleratorSpec,
    AcceleratorStatus,
    Grade,
    Node,
    NodePhase,
    NodeSpec,
    NodeStatus,
    Pool,
    PoolSpec,
    PoolStatus,
    Site,
    SiteSpec,
)
from madang.resources.power import published
from madang.resources.resource import AnyResource, Ref
from madang.resources.rights import SETUP, Grant, Role
from madang.resources.tenancy import (
    Empty,
    Key,
    Organization,
    Project,
    ProjectSpec,
    ProjectStatus,
    TitleSpec,
)

ORGANIZATION = "local"
PROJECT = "local/main"
SITE = "local"
POOL = "default"
ADMIN = "admin"
ADMIN_UID = "key-admin"
"""Of the key that is made here; one that a person has made under that name has another."""
SITE_OPERATOR = Grant(role=Role.OPERATOR)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the probes found on one node."""

    node: str
    found: Sequence[Found]
    site: str = SITE
    pool: str = POOL
    grade: Grade = Grade.OPEN
    """Of its site, should the site have to be made."""
    labels: Mapping[str, str] = field(default_factory=dict)
    cores: float = 0.0
    """That replicas may use; 0: as its processor says, like the memory."""
    memory_bytes: int = 0

    def status(self, now: float, *, encloses: bool = False) -> NodeStatus:
        """Return what is said of the node before it was seen."""
        cores = max((float(f.attributes.get("cores", 0)) for f in self.found), default=1.0)
        memory = max((f.memory_bytes for f in self.found if f.kind == "cpu"), default=0)
        return NodeStatus(
            phase=NodePhase.LOST, since=now, cores=self.cores or cores,
            memory_bytes=self.memory_bytes or memory, encloses=encloses,
        )  # fmt: skip


async def prepare(
    world: World, hardware: Sequence[Hardware], admin_key: Path, random: Random
) -> None:
    """Make what is missing, and bring the nodes' accelerators up to date. Safe to repeat."""
    now, nodes = world.clock.now(), {each.node for each in hardware}
    places = (*_tenants(now), *_places(world, hardware, now))
    parts = (part for each in hardware for part in _node(each, now, world.encloses))
    wanted = {(r.kind, r.ref): r for r in (*places, *parts)}
    made = [r for key, r in wanted.items() if key[1] not in world.list(SETUP, key[0])]
    changed = list(_refreshed(world, wanted))
    gone = [
        accelerator
        for ref, accelerator in world.list(SETUP, "accelerator").items()
        if accelerator.spec.node in nodes
        and ("accelerator", ref) not in wanted
        and accelerator.status.phase not in LOST
    ]
    admin = _admin(world, admin_key, random, now)
    if admin and admin.resource_version:
        changed.append(admin)
    elif admin:
        made.append(admin)
    if made or changed or gone:
        done = {"created": made, "updated": changed, "deleted": gone}
        events = [
            Event(
                at=now, actor="control", code=f"{r.kind}.{what}", kind=r.kind,
                project=r.project, name=r.name, uid=r.uid,
            )
            for what, each in done.items()
            for r in each
        ]  # fmt: skip
        await world.commit(SETUP, [*made, *changed], gone, events)


def _tenants(now: float) -> Iterable[AnyResource]:
    title = TitleSpec(title="")
    yield Organization(
        project=ORGANIZATION,
        name=ORGANIZATION,
        uid="organization-local",
        created_at=now,
        spec=title,
        status=Empty(),
    )
    yield Project(
        project=PROJECT,
        name=PROJECT.partition("/")[2],
        uid="project-local-main",
        created_at=now,
        spec=ProjectSpec(),
        status=ProjectStatus(),
    )


def _places(world: World, hardware: Sequence[Hardware], now: float) -> Iterable[AnyResource]:
    """Return the pools of these nodes, and their sites: made once, and then left to operators.

    A pool that an operator has moved lies at another site, and its first one may be gone.
    """
    for each in hardware:
        site, spec = each.site, PoolSpec(site=each.site)
        known = world.get(SETUP, Pool, Ref("", each.pool))
        if known is None or known.spec.site == site:
            yield Site(
                name=site, uid=f"site-{site}", created_at=now,
                spec=SiteSpec(grade=each.grade), status=Empty(),
            )  # fmt: skip
        yield Pool(
            name=each.pool, uid=f"pool-{each.pool}", created_at=now, spec=spec, status=PoolStatus()
        )


def _node(hardware: Hardware, now: float, encloses: bool) -> Iterable[AnyResource]:
    yield Node(
        name=hardware.node,
        uid=f"node-{hardware.node}",
        created_at=now,
        spec=NodeSpec(pool=hardware.pool, labels=dict(hardware.labels)),
        status=hardware.status(now, encloses=encloses),
    )
    for found in hardware.found:
        name = f"{hardware.node}-{found.name}"
        yield Accelerator(
            name=name,
            uid=f"accelerator-{name}",
            created_at=now,
            spec=AcceleratorSpec(
                node=hardware.node,
                accelerator=found.kind,
                memory_bytes=found.memory_bytes,
                shared=found.shared,
                guarantee=found.guarantee,
                group=found.group,
                device=found.device,
                watts=found.watts or published(found.kind),
                attributes=dict(found.attributes),
            ),
            status=AcceleratorStatus(),
        )


def _refreshed(
    world: World, wanted: Mapping[tuple[str, Ref], AnyResource]
) -> Iterable[AnyResource]:
    """Return known nodes and accelerators whose hardware has changed."""
    for (kind, ref), fresh in wanted.items():
        known = world.list(SETUP, kind).get(ref)
        if known is None or kind not in {"node", "accelerator"}:
            continue
        if isinstance(known, Node):
            said = ("cores", "memory_bytes", "encloses")
            seen = {key: getattr(fresh.status, key) for key in said}
            if any(getattr(known.status, key) != value for key, value in seen.items()):
                yield known.with_status(**seen)
        elif known.spec != (spec := _kept(known, fresh)):
            is_same = known.spec.device == spec.device
            status = known.status if is_same else fresh.status
            changed = {"spec": spec, "status": status, "generation": known.generation + 1}
            yield known.model_copy(update=changed)


def _kept(known: AnyResource, fresh: AnyResource) -> Any:
    """Return the spec as the probes see it now, with what people have written into it.

    What is known of the health of a device is that device's: another one begins anew.
    """
    is_same = known.spec.device == fresh.spec.device
    return fresh.spec.model_copy(update={"releases": known.spec.releases if is_same else 0})


def _admin(world: World, path: Path, random: Random, now: float) -> Key | None:
    """Return the operator's key if it must be made or made anew; None if all is well.

    Its secret goes into a file that only its owner can read, before the key is stored: should we
    end between the two, the next start takes the one from the file. A revoked key does not come
    back; but whoever owns the home is never locked out of it, so when there is no operator's key
    left, or the file of this one is lost or holds no secret, it gets a new one.
    """
    keys = Keys(world)
    known = world.get(SETUP, Key, Ref(PROJECT, ADMIN))
    is_new = not world.list(SETUP, "organization")
    is_ours = known is not None and known.uid == ADMIN_UID
    written = _read_secret(path)
    if known and is_ours and written and digest(written) == known.spec.digest:
        return None
    holders = map(keys.principal, keys.all())
    if not is_ours and any(who is not None and who.covers(SITE_OPERATOR) for who in holders):
        return None
    secret = written if is_new or is_ours else ""
    if not secret:
        secret = new_secret(random)
        write_private(path, secret + "\n")
    wanted = Wanted(Ref(PROJECT, ADMIN), SITE_OPERATOR)
    fresh = make_key(wanted, ADMIN_UID, secret, now)
    return known.model_copy(update={"spec": fresh.spec}) if known else fresh


def _read_secret(path: Path) -> str:
    """Return the secret in a key file; nothing where there is no file or no secret in it."""
    try:
        written = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return written if is_secret(written) else ""


def tidy(world: World, blobs: Blobs) -> None:
    """Let go of files that nothing names: their import was cut off, or their model deleted.

    For a start, while nobody imports.
    """
    models = world.list(SETUP, "model").values()
    kept = {version.digest for model in models for version in model.status.versions}
    blobs.keep_only(kept | {r.spec.digest for r in world.list(SETUP, "revision").values()})


def write_private(path: Path, text: str) -> None:
    """Write a file with mode 600, whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
