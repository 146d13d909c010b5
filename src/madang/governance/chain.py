"""Are these the records that were written, all of them, in this order? Pure.

What is found: a record that was changed, one that is missing, one that was put in between, two
that changed places, an end that was cut off, and a whole older state put back (six of six).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from madang.errors import Value
from madang.governance.heads import Head
from madang.resources.event import AuditRecord

FAULTS_MAX = 20
"""More would say nothing new: after the first, everything behind it is in doubt."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that does not fit: a code of `messages`, and the values of its sentence."""

    code: str
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of looking at every record and every head."""

    records: int
    heads: int
    last: int
    """The sequence number of the newest record."""
    vouched: int
    """Records up to this one are vouched for by a head."""
    faults: tuple[Fault, ...]

    @property
    def holds(self) -> bool:
        """Tell whether nothing was found."""
        return not self.faults


def verify(records: Iterable[AuditRecord], heads: Sequence[Head], store: str, key: str) -> Proof:
    """Hold the records, oldest first from the very first, against the heads of the second place.

    `store` is what the state says it is; `key` the public key that the auditor was given.
    """
    faults: list[Fault] = []
    due: dict[int, set[str]] = {}
    for head in heads:  # all that were signed for a record: a later head takes no earlier one back
        due.setdefault(head.seq, set()).add(head.digest)
    count, last, digest = 0, 0, ""
    for record in records:
        faults += _record_faults(record, last, digest)
        if due.get(record.seq, {record.digest}) != {record.digest}:
            faults.append(Fault("audit.rewritten", {"seq": record.seq}))
        count, last, digest = count + 1, record.seq, record.digest
        if len(faults) >= FAULTS_MAX:
            break
    faults += _head_faults(heads, store, key, last)
    vouched = max((head.seq for head in heads if head.seq <= last), default=0)
    return Proof(count, len(heads), last, vouched, tuple(faults[:FAULTS_MAX]))


def _record_faults(record: AuditRecord, before: int, digest: str) -> list[Fault]:
    if record.seq != before + 1:
        return [Fault("audit.gap", {"before": before, "seq": record.seq})]
    if record.sealed(digest).digest != record.digest:
        return [Fault("audit.changed", {"seq": record.seq})]
    return []


def _head_faults(heads: Sequence[Head], store: str, key: str, last: int) -> list[Fault]:
    if not heads:
        return [Fault("audit.no-heads")] if last else []
    faults = []
    newest = heads[0]
    for head in heads:
        if head.key != key or not head.is_genuine():
            faults.append(Fault("audit.forged-head", {"seq": head.seq}))
        elif head.store != store:
            faults.append(Fault("audit.other-state", {"store": store, "head": head.store}))
        elif head.seq < newest.seq:
            faults.append(Fault("audit.put-back", {"seq": newest.seq, "head": head.seq}))
        newest = max(newest, head, key=lambda each: each.seq)
    if newest.seq > last:
        faults.append(Fault("audit.cut-off", {"seq": newest.seq, "last": last}))
    return faults
