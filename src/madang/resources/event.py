"""event: something that happened, who did it, and to what; and the record of it that counts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from madang.errors import Value
from madang.resources.resource import Frozen


class Event(Frozen):
    """One line of history. Written with the change it tells of, in one transaction."""

    seq: int = 0
    """Given by the store."""
    at: float
    """Unix seconds."""
    actor: str
    code: str
    kind: str
    project: str = ""
    name: str
    uid: str = ""
    values: dict[str, Value] = {}


class AuditRecord(Frozen):
    """One change that somebody made, or one privileged act, in a chain that can't be cut unseen.

    `digest` is the SHA-256 of the record before it and of everything else in this one, so each
    digest stands for all of history up to it. Written in the transaction of what it tells of.
    """

    seq: int
    """1, 2, 3, … without a gap."""
    at: float
    """Unix seconds."""
    actor: str
    by: str
    """The uid of the key; empty for a part of Madang."""
    code: str
    kind: str
    project: str
    name: str
    uid: str
    values: dict[str, Value] = {}
    before: dict[str, Any] | None
    """The resource as it was; None: it was not there, or nothing was written."""
    after: dict[str, Any] | None
    """The resource as it is; None: it is gone, or nothing was written."""
    digest: str = ""
    """In hex; empty until it is sealed."""

    def sealed(self, previous: str) -> AuditRecord:
        """Return it with the digest it must have behind a record with that digest."""
        body = self.model_dump(mode="json", exclude={"digest"})
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()
        return self.model_copy(update={"digest": digest})
