"""event: something that happened, who did it, and to what."""

from __future__ import annotations

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
