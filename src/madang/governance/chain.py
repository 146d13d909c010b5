"""Are these the records that were written, all of them, in this order? Pure.

What is found: a record that was changed, one that is missing, one that was put in between, two
that changed places, an end that was cut off, and a whole older state put back (six of six).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from madang.errors import Value
from madang.governance.heads import Head
from madang.resources.event import AuditRecord

FAULTS_MAX = 20
"""More would say nothing new: after the first, everything behind it is in doubt."""
KEY_CHANGED = "audit.key-changed"
"""The code of the record that another key signs heads from here on."""


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
    keys: tuple[tuple[int, str], ...] = ()
    """From which record on which key signs, the first with 1."""

    @property
    def holds(self) -> bool:
        """Tell whether nothing was found."""
        return not self.faults


def verify(
    records: Iterable[AuditRecord], heads: Iterable[Head], store: str, keys: Sequence[str]
) -> Proof:
    """Hold the records, oldest first from the very first, against the heads of the second place.

    `store` is what the state says it is; `keys` the public keys that the auditor was given, in the
    order in which they signed. Both are read side by side, once: memory does not grow with them.
    """
    look = _Look(store, tuple(keys))
    signed = look.genuine(heads)
    head = next(signed, None)
    for record in records:
        look.see(record)
        while head is not None and head.seq <= record.seq:
            look.hold(head, record)
            head = next(signed, None)
        if len(look.faults) >= FAULTS_MAX:
            break
    while head is not None and len(look.faults) < FAULTS_MAX:
        look.hold(head, None)
        head = next(signed, None)
    return look.proof()


class _Look:
    """What was seen so far, of the records and of the heads."""

    def __init__(self, store: str, keys: tuple[str, ...]) -> None:
        self.faults: list[Fault] = []
        self._store = store
        self._keys = keys
        self._records = self._heads = 0
        self._last, self._digest = 0, ""
        self._newest = self._vouched = 0
        self._signs: list[tuple[int, str]] = []
        self._changes: dict[str, int] = {}

    def genuine(self, heads: Iterable[Head]) -> Iterator[Head]:
        """Yield the heads that their own key has signed, and of this state."""
        for head in heads:
            self._heads += 1
            if not head.is_genuine():
                self._find("audit.forged-head", seq=head.seq)
            elif head.store != self._store:
                self._find("audit.other-state", store=self._store, head=head.store)
            else:
                yield head

    def see(self, record: AuditRecord) -> None:
        """Look whether a record follows from the one before."""
        if record.seq != self._last + 1:
            self._find("audit.gap", before=self._last, seq=record.seq)
        elif record.sealed(self._digest).digest != record.digest:
            self._find("audit.changed", seq=record.seq)
        if record.code == KEY_CHANGED:
            self._changes[str(record.values.get("after", ""))] = record.seq
        self._records += 1
        self._last, self._digest = record.seq, record.digest

    def hold(self, head: Head, record: AuditRecord | None) -> None:
        """Hold a head against the record that it was signed for; None: there is none."""
        if not self._is_known(head):
            return
        if head.seq < self._newest:
            self._find("audit.put-back", seq=self._newest, head=head.seq)
        if record is not None and record.seq == head.seq:
            if record.digest != head.digest:  # a later head takes no earlier one back
                self._find("audit.rewritten", seq=head.seq)
            else:
                self._vouched = max(self._vouched, head.seq)
        self._newest = max(self._newest, head.seq)

    def _is_known(self, head: Head) -> bool:
        """Tell whether a key that we were given has signed it, and none that signs no longer."""
        began = self._changes.get(head.key, self._vouched + 1)
        signing = self._signs[-1][1] if self._signs else ""
        if head.key == signing:
            return True
        if head.key not in self._keys:
            code = "audit.other-key" if head.key in self._changes else "audit.forged-head"
            self._find(code, seq=began if head.key in self._changes else head.seq, key=head.key)
            return False
        if signing and self._keys.index(head.key) < self._keys.index(signing):
            self._find("audit.old-key", seq=head.seq, key=head.key)
            return False
        self._signs.append((began if signing else 1, head.key))
        return True

    def _find(self, code: str, **values: Value) -> None:
        fault = Fault(code, values)
        if fault not in self.faults:
            self.faults.append(fault)

    def proof(self) -> Proof:
        """Return what came of it."""
        if self._last and not self._heads:
            self._find("audit.no-heads")
        if self._newest > self._last:
            self._find("audit.cut-off", seq=self._newest, last=self._last)
        counts = (self._records, self._heads, self._last, self._vouched)
        return Proof(*counts, tuple(self.faults[:FAULTS_MAX]), tuple(self._signs))
