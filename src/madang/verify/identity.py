"""Who answers there: asked of every replica before it gets its first request."""

from __future__ import annotations

import json

from madang.errors import Unavailable
from madang.planning.snapshot import Probed
from madang.verify.subject import Failed, Gone, Short, Subject


def who_answers(subject: Subject) -> Probed | None:
    """Return whether it is the one it should be; None while nobody answers.

    Raises `Unavailable` when it could not be asked, for want of descriptors or memory of our own.
    A health check alone would take any process on that port for ours, an old engine included.
    """
    try:
        status, body = subject.get("/v1/models")
    except Short as error:
        raise Unavailable("control.short", cause=str(error)) from error
    except (Gone, Failed):
        return None
    if status == 503:
        return None
    if status != 200:
        return Probed(healthy=False, detail=f"HTTP {status} for its own key")
    names = model_names(body)
    if subject.uid not in names:
        return Probed(healthy=False, detail=f"it answers as {', '.join(names[:4]) or 'nobody'}")
    return Probed(healthy=True)


def model_names(body: bytes) -> list[str]:
    """Read the names from a `/v1/models` answer; empty for anything else."""
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
