"""A new secret for a key that goes on: the one before it opens as much, for a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from madang.control.authority import allow, allow_grant, allow_lifetime, allow_owner, allow_write
from madang.control.first import ADMIN_UID, write_private
from madang.control.keys import Keys, Wanted, digest, owner_ref
from madang.control.steering import Deed, Done
from madang.errors import Unavailable
from madang.resources.resource import AnyResource, Ref
from madang.resources.rights import CONTROL, Principal, Right
from madang.resources.tenancy import Key, User

OVERLAP_S_MAX = 30 * 86_400.0
"""For so long at most two secrets open the same."""


@dataclass(frozen=True, slots=True)
class Means:
    """How a secret is made, and where that of the first operator's key is written."""

    secret_of: Callable[[str], str]
    admin_key: Path


def rotating(who: Principal, ref: Ref, keys: Keys, overlap_s: float, means: Means) -> Deed:
    """Rotate the key of that name; its secret follows from `rotation_of`.

    That of the first operator is in a file of the home: the new one is there before it opens
    anything, and should we end between the two, the next start takes it from the file. Whoever
    rotates a key learns a secret of it, so it takes all that making such a key would. One that
    was rotated a moment ago lets go of the secret before that one at once. Raises `Unavailable`
    where the file can't be written.
    """
    subject, now = f"key/{ref.name}", keys.world.clock.now()
    allow_write(who, "key", ref.project, subject)

    def deed(found: AnyResource) -> Done:
        assert isinstance(found, Key)
        allow_grant(who, found.spec.grant, subject)
        if who.user and found.spec.user != who.user:
            allow(who, Right.MANAGE, found.project, subject)  # it would outlive what the user holds
        if found.spec.user and who.uid != found.uid:
            owner = keys.world.get(CONTROL, User, owner_ref(found.spec.user))
            allow_owner(who, owner, found.spec.user, found.spec.grant)
        expires_at = found.spec.expires_at
        allow_lifetime(who, None if expires_at is None else expires_at - now, now, subject)
        made = Wanted(
            found.ref, found.spec.grant, found.spec.user, limits=found.spec.limits,
            models=found.spec.models,
        )  # fmt: skip
        made = keys.narrowed(who, made, subject, found)
        secret = means.secret_of(rotation_of(found.uid, found.generation + 1))
        if found.uid == ADMIN_UID:
            _keep(means.admin_key, secret, subject)
        changed = {
            "digest": digest(secret),
            "former": found.spec.digest,
            "former_until": now + overlap_s,
            "makers": made.makers,
            "limits": made.limits,
            "models": made.models,
        }
        spec = found.spec.model_copy(update=changed)
        told = {"spec": spec, "generation": found.generation + 1}
        rotated = found.model_copy(update=told)
        return Done((rotated,), ((rotated, "key.rotated", {}),))

    return deed


def _keep(path: Path, secret: str, subject: str) -> None:
    try:
        write_private(path, secret + "\n")
    except OSError as error:
        cause = error.strerror or str(error)
        raise Unavailable("key.unwritten", subject, path=str(path), cause=cause) from error


def rotation_of(uid: str, generation: int) -> str:
    """Return what the secret of a key follows from, as it is from that generation on."""
    return f"{uid}/{generation}"
