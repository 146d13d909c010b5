"""Api keys: made, kept as digests, and found again by their secret."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from madang.control.authority import allow_limits, allow_models
from madang.control.world import World
from madang.errors import Rejected
from madang.ports import Random
from madang.resources.resource import Ref
from madang.resources.rights import CONTROL, Grant, Principal
from madang.resources.serving import UNBOUND, Serving
from madang.resources.tenancy import Empty, Key, KeySpec, User, principal_of

KEY_BYTES = 32
MAKERS_MAX = 32
"""How long a line of keys that made each other may be."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key as somebody asks for it."""

    ref: Ref
    grant: Grant
    user: str = ""
    expires_s: float | None = None
    makers: tuple[str, ...] = ()
    limits: Serving = UNBOUND
    models: tuple[str, ...] = ()
    """The models that it may call, as it names them; none: all that it sees."""


def new_secret(random: Random) -> str:
    """Return a new key, as its owner will hold it."""
    return f"mdg_{random.token(KEY_BYTES)}"


def is_secret(text: str) -> bool:
    """Tell whether this has the form of a key's secret."""
    return re.fullmatch(rf"mdg_[0-9a-f]{{{2 * KEY_BYTES}}}", text) is not None


def digest(secret: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_key(wanted: Wanted, uid: str, secret: str, now: float) -> Key:
    """Return the key that was asked for."""
    spec = KeySpec(
        role=wanted.grant.role,
        digest=digest(secret),
        home=wanted.ref.project,
        where=wanted.grant.where,
        scopes=tuple(sorted(wanted.grant.scopes)),
        user=wanted.user,
        expires_at=None if wanted.expires_s is None else now + wanted.expires_s,
        makers=wanted.makers,
        limits=wanted.limits,
        models=wanted.models,
    )
    return Key(
        project=wanted.ref.project, name=wanted.ref.name, uid=uid, created_at=now, spec=spec,
        status=Empty(),
    )  # fmt: skip


def owner_ref(user: str) -> Ref:
    """Return where a user written `organization/name` is kept."""
    organization, _, name = user.partition("/")
    return Ref(organization, name)


class Keys:
    """Finds who calls by the secret of a key, in one look-up."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._source: object = None
        self._by_digest: dict[str, Key] = {}
        self._by_uid: dict[str, Key] = {}

    def all(self) -> list[Key]:
        """Return every key there is."""
        return [k for k in self.world.list(CONTROL, "key").values() if isinstance(k, Key)]

    def find(self, secret: str) -> Principal | None:
        """Return who calls with this secret; None for a key that is unknown, revoked or expired."""
        self._index()
        known = digest(secret)
        key = self._by_digest.get(known)
        if key and known != key.spec.digest and self.world.clock.now() >= key.spec.former_until:
            return None
        return self.principal(key) if key else None

    def honours(self, who: Principal) -> bool:
        """Tell whether whoever was let in may still go on, with all that they had."""
        self._index()
        key = self._by_uid.get(who.uid)
        return key is not None and self.principal(key) == who

    def makers(self, who: Principal) -> tuple[str, ...]:
        """Return the line of living keys that a key stands in which this caller makes."""
        self._index()
        key = self._by_uid.get(who.uid)
        if key is None:
            return ()
        return (*(uid for uid in key.spec.makers if uid in self._by_uid), key.uid)

    def narrowed(
        self, who: Principal, wanted: Wanted, subject: str, found: Key | None = None
    ) -> Wanted:
        """Return a key as this caller may make it, or make `found` anew: no wider than their own.

        It stands in the line of those that made it, so that it can be revoked with them.
        """
        self._index()
        own = self._by_uid.get(who.uid)
        before = found.spec.makers if found else ()
        line = dict.fromkeys((*before, *self.makers(who)))
        if found:
            line.pop(found.uid, None)
        if len(line) > MAKERS_MAX:
            raise Rejected("key.line-too-long", subject, limit=MAKERS_MAX)
        limits = allow_limits(wanted.limits, own.spec.limits if own else UNBOUND, subject)
        models = allow_models(wanted.models, own.spec.models if own else (), subject)
        return replace(wanted, makers=tuple(line), limits=limits, models=models)

    def _index(self) -> None:
        keys = self.world.list(CONTROL, "key")
        if keys is not self._source:
            every = self.all()
            self._by_digest = {key.spec.former: key for key in every if key.spec.former}
            self._by_digest |= {key.spec.digest: key for key in every}
            self._by_uid = {key.uid: key for key in self.all()}
            self._source = keys

    def principal(self, key: Key) -> Principal | None:
        """Return who calls with this key; None: it opens nothing (any more)."""
        if key.spec.expires_at is not None and self.world.clock.now() >= key.spec.expires_at:
            return None
        owner = self.world.get(CONTROL, User, owner_ref(key.spec.user)) if key.spec.user else None
        return principal_of(key, owner)
