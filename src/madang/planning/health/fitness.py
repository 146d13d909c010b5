"""How an accelerator is, by what it shows: ok, degraded or fatal, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from madang.errors import Value
from madang.planning.health.xids import Level, meaning
from madang.planning.snapshot import Snapshot
from madang.resources.place import Accelerator, AcceleratorPhase, AcceleratorStatus
from madang.resources.resource import Reason
from madang.symptoms import HUNG, Symptoms, Watch


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with an accelerator, or nothing."""

    level: Level
    reason: Reason | None = None


WELL = Finding(Level.OK)


def watch_of(accelerator: Accelerator, snapshot: Snapshot) -> Watch | None:
    """Return what is told of it now; None: nobody watches it, or nobody sees who does."""
    watch = snapshot.seen.watches.get(accelerator.spec.node)
    if watch is None or accelerator.spec.node not in snapshot.seen.nodes:
        return None
    return watch if maker_of(accelerator) in watch.tools else None


def maker_of(accelerator: Accelerator) -> str:
    """Return by what the tool that tells of it is known."""
    return accelerator.spec.accelerator.partition("/")[0]


def examine(accelerator: Accelerator, watch: Watch) -> Finding:
    """Return the worst of what it shows and was not heeded yet; of equals the first."""
    worst = WELL
    for found in _findings(accelerator, watch):
        if found.level.height > worst.level.height:
            worst = found
    return worst


def _findings(accelerator: Accelerator, watch: Watch) -> Iterator[Finding]:
    device, maker = accelerator.spec.device, maker_of(accelerator)
    shown = watch.devices.get(device, Symptoms())
    serial = shown.serial or accelerator.status.serial or "?"
    said: dict[str, Value] = {"serial": serial, "node": accelerator.spec.node}
    for number in fresh_xids(accelerator.status, shown, watch):
        known = meaning(number)
        if known:
            yield _found(known.level, known.code, said, xid=number)
    cause = watch.tools[maker]
    if cause:
        code = "accelerator.tool-hung" if cause == HUNG else "accelerator.tool-failed"
        yield _found(Level.DEGRADED, code, said, maker=maker, cause=cause)
    elif device not in watch.devices:
        yield _found(Level.FATAL, "accelerator.gone", said, maker=maker)
    else:
        yield from _states(accelerator.status, shown, said)


def fresh_xids(status: AcceleratorStatus, shown: Symptoms, watch: Watch) -> Iterator[int]:
    """Return the numbers in the kernel's log that were not heeded yet, oldest first."""
    heeded = status.heeded if status.boot == watch.boot else -1
    yield from (number for number, mark in shown.xids if mark > heeded)


def _states(
    status: AcceleratorStatus, shown: Symptoms, said: dict[str, Value]
) -> Iterator[Finding]:
    """Judge how it is now."""
    if shown.is_halted:
        yield _found(Level.FATAL, "accelerator.halted", said)
    if shown.recovery in {"reset", "reboot"}:
        yield _found(Level.FATAL, "accelerator.asks-for", said, action=shown.recovery)
    if shown.remap == "failed":
        yield _found(Level.FATAL, "accelerator.remap-failed", said)
    if shown.uncorrectable > status.uncorrectable:
        level = Level.FATAL if _had_errors(status) else Level.DEGRADED
        grown = shown.uncorrectable - status.uncorrectable
        yield _found(level, "accelerator.uncorrectable", said, count=grown)
    if shown.remap == "pending":
        yield _found(Level.DEGRADED, "accelerator.remap-pending", said)
    if shown.recovery == "drain":
        yield _found(Level.DEGRADED, "accelerator.asks-for", said, action="reset")
    if shown.is_hot:
        yield _found(Level.DEGRADED, "accelerator.hot", said)


def _had_errors(status: AcceleratorStatus) -> bool:
    """Tell whether it is out already for errors of its memory, and now has more."""
    reason = status.reason
    is_out = status.phase is not AcceleratorPhase.OK
    return is_out and reason is not None and reason.code == "accelerator.uncorrectable"


def _found(level: Level, code: str, said: dict[str, Value], **values: Value) -> Finding:
    return Finding(level, Reason(code=code, values={**said, **values}))
