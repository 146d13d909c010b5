"""organization, project, user, key: who belongs where, and what they hold."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from madang.errors import Unfit
from madang.resources.idle import MonthUse
from madang.resources.resource import (
    Frozen,
    Place,
    ProjectName,
    Ref,
    Resource,
    Title,
    canonical,
    check_name,
    check_place,
)
from madang.resources.rights import Grant, Principal, Right, Role, held
from madang.resources.serving import UNBOUND, Serving

KEY_MODELS_MAX = 100
SITE = "site"
"""How people write the whole site where a place is wanted."""


def _check_model_name(written: str) -> str:
    *place, name = written.split("/")
    if len(place) not in {0, 2}:
        raise Unfit("value.model-name", written=written)
    check_place("/".join(place))
    check_name(name)
    return written


ModelName = Annotated[str, BeforeValidator(canonical), AfterValidator(_check_model_name)]
"""A model as applications call it: its name, or organization/project/name."""


class Empty(Frozen):
    """A spec or status with nothing in it yet."""


class TitleSpec(Frozen):
    """What people call it."""

    title: Title = ""


class Organization(Resource[TitleSpec, Empty]):
    """A legal body: it owns projects and users. It is stored inside itself."""

    kind: ClassVar[str] = "organization"


class ProjectStatus(Frozen):
    """What the jobs of a project have spent; the hours are told whenever somebody looks."""

    run_s: float = 0.0
    """Of jobs that are kept no more: for how long they had accelerators, the seconds of each;"""
    lost_s: float = 0.0
    """and how much of that was work that had to be done again, or was none."""
    used: tuple[MonthUse, ...] = ()
    """What all that ran there has had and used, by month and kind of accelerator."""
    accelerator_h: float = 0.0
    """Of all its jobs, in hours, those included that run;"""
    lost_h: float = 0.0
    """and how much of that was lost."""
    goodput: float | None = None
    """The other part; None: no job of it has run yet."""


class Isolation(StrEnum):
    """What a project demands for its jobs; where they can't have it they don't run."""

    NONE = "none"
    """A sandbox where one can be made."""
    SANDBOX = "sandbox"
    PRIVATE_NETWORK = "private-network"
    """And in it a network of their own, which no gang over several nodes has."""


class ProjectSpec(TitleSpec):
    """What people call it, and what its jobs must have."""

    isolation: Isolation = Isolation.NONE

    def bars(self, nodes: int, *, encloses: bool) -> str:
        """Return which demand a job of so many nodes would not have met, by code; empty: none."""
        if self.isolation is not Isolation.NONE and not encloses:
            return "job.demands-sandbox"
        if self.isolation is Isolation.PRIVATE_NETWORK and nodes > 1:
            return "job.demands-private-network"
        return ""


def tenant(place: str) -> tuple[type[Organization | Project], Ref]:
    """Return by which kind and reference a tenant is found: `organization` or its `/project`."""
    return (Project if "/" in place else Organization), Ref(place, place.rpartition("/")[2])


class Project(Resource[ProjectSpec, ProjectStatus]):
    """Where a team's services, models and keys live; its name is `organization/project`.

    A project is stored inside itself: its `project` is its full name, its `name` the last part.
    """

    kind: ClassVar[str] = "project"


class UserSpec(TitleSpec):
    """What a person holds: a role at each place, as `acme/lab: member`."""

    roles: dict[Place, Role] = Field(default_factory=dict, max_length=100)
    """By organization, `organization/project`, or `site`."""

    def grants(self) -> tuple[Grant, ...]:
        """Return the roles as grants."""
        return tuple(
            Grant(role=role, where="" if place == SITE else place)
            for place, role in self.roles.items()
        )


class User(Resource[UserSpec, Empty]):
    """A person of an organization; `project` is the organization's name.

    A user's keys are worth no more than what the user holds at the moment they are used.
    """

    kind: ClassVar[str] = "user"


class KeySpec(Frozen):
    """A key is known by the digest of its secret only."""

    role: Role
    digest: str
    """SHA-256 of the whole key, in hex. 256 random bits need no slow hash."""
    home: ProjectName
    """The project in which names are looked up."""
    where: Place
    """Its rights hold here and below; empty: on the whole site."""
    scopes: tuple[Right, ...] = ()
    """The rights it is narrowed to; none: all that the role has."""
    user: str = ""
    """`organization/name` of its owner; empty: it belongs to its project."""
    expires_at: float | None = None
    models: Annotated[tuple[ModelName, ...], Field(max_length=KEY_MODELS_MAX)] = ()
    """The models that it may call: `bot` of its project, or `acme/lab/bot`; none: all it sees."""
    former: str = ""
    """The digest that it had before it was rotated;"""
    former_until: float = 0.0
    """so long, in Unix seconds, that one opens what it opens."""
    limits: Serving = UNBOUND
    """What may be asked of models with it, beside the limits of its project."""
    makers: tuple[str, ...] = ()
    """The uids of the key that made it, last, and of those that made that one, oldest first.

    Those that were alive then; none: control made it, or an older Madang.
    """

    @property
    def grant(self) -> Grant:
        """What it would allow without an owner."""
        return Grant(role=self.role, where=self.where, scopes=frozenset(self.scopes))


class Key(Resource[KeySpec, Empty]):
    """An api key."""

    kind: ClassVar[str] = "key"

    def shown(self) -> dict[str, Any]:
        """Return it as JSON, without even the digest of its secret."""
        body = super().shown()
        body["spec"].pop("digest")
        body["spec"].pop("former", None)
        return body


def principal_of(key: Key, owner: User | None) -> Principal | None:
    """Return who calls with this key; None: it opens nothing (any more)."""
    rights = key.spec.grant.rights
    if key.spec.user:
        rights = held(key.spec.grant, owner.spec.grants() if owner else ())
    if not rights:
        return None
    return Principal(
        actor=f"key/{key.name}",
        role=key.spec.role,
        where=key.spec.where,
        project=key.spec.home,
        rights=rights,
        uid=key.uid,
        user=key.spec.user,
        expires_at=key.spec.expires_at,
    )
