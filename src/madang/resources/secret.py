"""secret: a text that jobs are given by name, and that nobody is ever told again."""

from __future__ import annotations

from typing import ClassVar

from madang.resources.resource import Frozen, Ref, Resource
from madang.resources.tenancy import Empty


class SecretStatus(Frozen):
    """When its text was set; the text itself is no part of any resource."""

    version: int = 1
    """How often it was set."""
    set_at: float = 0.0
    """Unix seconds."""


class Secret(Resource[Empty, SecretStatus]):
    """A text under a name."""

    kind: ClassVar[str] = "secret"


def renewed(before: Secret | None, ref: Ref, uid: str, now: float) -> Secret:
    """Return a secret whose text is set now; `uid` is used if it is new."""
    version = before.status.version + 1 if before else 1
    status = SecretStatus(version=version, set_at=now)
    new = Secret(
        project=ref.project, name=ref.name, uid=uid, created_at=now, spec=Empty(), status=status
    )
    return before.model_copy(update={"status": status}) if before else new
