"""What could be wrong with this Madang, looked at one by one; findings, not guesses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence

from madang.control.backups import Backups, last
from madang.control.gateways import Gateways
from madang.control.notary import Notary
from madang.control.world import World
from madang.errors import MadangError, Value
from madang.planning.snapshot import Seen
from madang.ports import Blobs, Clock
from madang.resources.fleet import SIMULATED
from madang.resources.place import Accelerator, AcceleratorPhase, Node
from madang.resources.quantity import written_size
from madang.resources.resource import AnyResource, Frozen, Reason
from madang.resources.rights import CONTROL
from madang.resources.service import Service, ServicePhase
from madang.settings import Home

DAY_S = 86400.0
KEY_NEWS_S = 7 * DAY_S
"""So long doctor says that another key signs than before: auditors must be told."""
ACCELERATORS_TOLD_MAX = 20
"""Of more that are ill the others are only seen with `madang get accelerator`."""
NODES_TOLD_MAX = 20
"""Of more nodes only those are named that are out of sight."""
FREE_BYTES_MIN = 1_000_000_000
"""Less than this on the home's disk is called short."""
READ_S = 10.0
"""So long files are read whose times alone tell too little; whoever asks waits no more than 30."""


class Finding(Frozen):
    """One thing that was looked at."""

    code: str
    ok: bool
    subject: str = ""
    values: dict[str, Value] = {}
    because: Reason | None = None
    """What keeps it from being well, where that has its own sentence."""


def examine(
    world: World, seen: Seen, gateways: Gateways, notary: Notary, backups: Backups
) -> list[Finding]:
    """Look at everything but model files; what is well is reported too."""
    return [
        *_nodes(world, seen),
        *_accelerators(world, seen),
        _sandbox(world),
        *_gateway(gateways),
        *_engines(world),
        *_disk(backups.home),
        *_modes(backups.home),
        *_backups(backups),
        *_audit(notary, world.clock.now()),
        *_services(world),
    ]


def _sandbox(world: World) -> Finding:
    if world.encloses:
        return Finding(code="doctor.sandbox", ok=True)
    cause = (world.unenclosed or "-").splitlines()[-1]
    return Finding(code="doctor.no-sandbox", ok=True, values={"cause": cause})


async def examine_store(world: World) -> list[Finding]:
    """Ask the store how it is; one that does not answer is a finding too."""
    try:
        health = await world.store.health()
    except MadangError as error:
        return [Finding(code=error.code, ok=False, subject=error.subject, values=error.values)]
    values: dict[str, Value] = {"product": health.product, "version": health.version}
    well = Finding(code="doctor.store-well", ok=True, subject=health.place, values=values)
    unsafe = (
        Finding(code="doctor.store-unsafe", ok=False, subject=health.place, values={"name": name})
        for name in health.unsafe
    )
    return [well, *unsafe]


def examine_models(models: Sequence[AnyResource], blobs: Blobs, clock: Clock) -> list[Finding]:
    """Look whether the files that models were imported from are still what they were.

    Those that may be, and can only be told by what is in them, are read: `READ_S` for all together.
    Blocks: a disk far away may take its time.
    """
    until_s = clock.monotonic() + READ_S

    def may_read() -> bool:
        return clock.monotonic() < until_s

    return [finding for model in models for finding in _versions(model, blobs, may_read)]


def _versions(model: AnyResource, blobs: Blobs, may_read: Callable[[], bool]) -> Iterator[Finding]:
    for version in model.status.versions:
        subject = f"model/{model.name}@{version.number}"
        try:
            blobs.check(version.digest, may_read)
        except MadangError as error:
            values = {**error.values, "subject": subject}
            yield Finding(code=error.code, ok=False, subject=subject, values=values)


def _nodes(world: World, seen: Seen) -> Iterator[Finding]:
    nodes = [node for node in world.list(CONTROL, "node").values() if isinstance(node, Node)]
    for node in nodes:
        if node.name not in seen.nodes:
            yield Finding(code="doctor.node-lost", ok=False, subject=f"node/{node.name}")
        elif len(nodes) <= NODES_TOLD_MAX:
            yield Finding(code="doctor.node-seen", ok=True, subject=f"node/{node.name}")
    if len(nodes) > NODES_TOLD_MAX:
        count = sum(node.name in seen.nodes for node in nodes)
        yield Finding(code="doctor.nodes-seen", ok=True, values={"count": count})
    if simulated := sum(SIMULATED in node.spec.labels for node in nodes):
        yield Finding(code="doctor.simulated", ok=True, values={"count": simulated})


def _accelerators(world: World, seen: Seen) -> Iterator[Finding]:
    """Say which are ill and why, and what can't be known of any."""
    ill, held, watched = 0, 0, 0
    for each in world.list(CONTROL, "accelerator").values():
        assert isinstance(each, Accelerator)
        status, is_watched = each.status, each.spec.node in seen.watches
        watched += is_watched and each.spec.accelerator != "cpu"
        held += status.phase is AcceleratorPhase.SUSPECT
        if status.phase is AcceleratorPhase.OK:
            continue
        ill += 1
        if ill <= ACCELERATORS_TOLD_MAX and status.reason:
            told: dict[str, Value] = {"phase": status.phase}
            subject = f"accelerator/{each.name}"
            yield Finding(
                code="doctor.accelerator-ill", ok=False, subject=subject, values=told,
                because=status.reason,
            )  # fmt: skip
    if held:
        yield Finding(code="doctor.fencing-held", ok=False, values={"count": held})
    if watched and not ill:
        yield Finding(code="doctor.accelerators-well", ok=True, values={"count": watched})
    for node, watch in sorted(seen.watches.items()):
        for cause in watch.unread:
            blind = {"cause": cause}
            yield Finding(
                code="doctor.watch-blind", ok=False, subject=f"node/{node}", values=blind
            )  # fmt: skip


def _gateway(gateways: Gateways) -> Iterator[Finding]:
    serving = gateways.serving()
    behind = [name for name, is_newest in serving.items() if not is_newest]
    if not serving:
        yield Finding(code="doctor.no-gateway", ok=False)
    elif behind:
        yield Finding(code="doctor.gateway-behind", ok=False, subject=", ".join(behind))
    else:
        yield Finding(code="doctor.gateway-serving", ok=True, values={"count": len(serving)})
    for name, (lost, unwritten) in gateways.troubles().items():
        if unwritten:
            cause: dict[str, Value] = {"cause": unwritten}
            yield Finding(code="doctor.usage-unwritten", ok=False, subject=name, values=cause)
        if lost:
            count: dict[str, Value] = {"count": lost}
            yield Finding(code="doctor.usage-lost", ok=False, subject=name, values=count)


def _engines(world: World) -> Iterator[Finding]:
    for name, facts in sorted(world.engines.items()):
        there = facts.version != ""
        code = "doctor.engine-there" if there else "doctor.engine-missing"
        values: dict[str, Value] = {"version": facts.version}
        yield Finding(code=code, ok=there, subject=name, values=values)


def _disk(home: Home) -> Iterator[Finding]:
    free = shutil.disk_usage(home.path).free
    is_enough = free >= FREE_BYTES_MIN
    code = "doctor.disk-free" if is_enough else "doctor.disk-short"
    yield Finding(code=code, ok=is_enough, values={"free": written_size(free)})


def _modes(home: Home) -> Iterator[Finding]:
    for path in (home.admin_key, home.secret):
        if path.exists() and path.stat().st_mode & 0o077:
            yield Finding(code="doctor.key-readable", ok=False, values={"path": str(path)})


def _backups(backups: Backups) -> Iterator[Finding]:
    """Old is what nobody could rely on any more; a home that is younger than that has time."""
    world, age_s = backups.world, backups.age_s
    now, known = world.clock.now(), last(backups.home)
    days = round(age_s / DAY_S, 1)
    limit: dict[str, Value] = {"limit": int(days) if days.is_integer() else days}
    made_at = [each.created_at for each in world.list(CONTROL, "organization").values()]
    if now - min(made_at, default=now) < age_s and "drilled" not in known:
        yield Finding(code="doctor.backup-none", ok=True)
        return
    ages = {what: now - known.get(what, 0.0) for what in ("backed-up", "drilled")}
    if ages["backed-up"] > age_s:
        yield Finding(code="doctor.backup-old", ok=False, values=limit)
    elif ages["drilled"] > age_s:
        yield Finding(code="doctor.drill-old", ok=False, values=limit)
    else:
        told = {"days": ages["backed-up"] / DAY_S, "drill_days": ages["drilled"] / DAY_S}
        values: dict[str, Value] = {name: round(age, 1) for name, age in told.items()}
        yield Finding(code="doctor.backup-fresh", ok=True, values=values)


def _audit(notary: Notary, now: float) -> Iterator[Finding]:
    yield from _heads(notary)
    signing = notary.kept.keys()[1:]
    if signing:
        is_old = now - signing[-1].at > KEY_NEWS_S
        of: dict[str, Value] = {"seq": signing[-1].seq, "key": signing[-1].key}
        yield Finding(code="doctor.audit-rekeyed", ok=is_old, values=of)
    if notary.torn:
        yield Finding(code="doctor.audit-torn", ok=False, values={"seq": notary.torn})
    if notary.fault:
        values: dict[str, Value] = {"cause": str(notary.fault)}
        yield Finding(code="doctor.audit-unvouched", ok=False, values=values)
    elif not notary.torn:
        yield Finding(code="doctor.audit-vouched", ok=True)


def _heads(notary: Notary) -> Iterator[Finding]:
    """Look at the second place without touching it: is it there, writable, and far away."""
    path = notary.heads.path
    if notary.is_begun_anew or (notary.is_vouching and not path.exists()):
        yield Finding(code="doctor.heads-missing", ok=False, subject=str(path))
    where = next((each for each in (path, *path.parents) if each.exists()), path)
    if not os.access(where, os.W_OK):
        yield Finding(code="doctor.heads-unwritable", ok=False, subject=str(path))
    if where.stat().st_dev == notary.kept.home.path.stat().st_dev:
        yield Finding(code="doctor.heads-near", ok=True, subject=str(path))


def _services(world: World) -> Iterator[Finding]:
    for service in world.list(CONTROL, "service").values():
        assert isinstance(service, Service)
        subject = f"service/{service.name}"
        if service.status.phase is ServicePhase.READY:
            yield Finding(code="doctor.service-ready", ok=True, subject=subject)
        else:
            reason = service.status.reason
            values: dict[str, Value] = {
                "phase": service.status.phase, "reason": reason.code if reason else ""
            }  # fmt: skip
            yield Finding(
                code="doctor.service-unready", ok=False, subject=subject, values=values,
                because=reason,
            )  # fmt: skip
