"""What every kind has in common: identity, versions, spec and status.

People write the spec; only control writes the status.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from madang.errors import Unfit, Value
from madang.plain import described, is_plain

NAME_BYTES_MAX = 63


class Frozen(BaseModel):
    """A closed, immutable value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical(name: object) -> object:
    """Give a name its one canonical form (NFC), so that look-alikes in other forms meet."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


_NAME_ASCII = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def check_name(name: str) -> str:
    """Return a name that is one; raises `Unfit`."""
    odd = next((c for c in name if c not in _NAME_ASCII and not "가" <= c <= "힣"), "")
    if odd or not name or name.startswith("-") or name.endswith("-"):
        raise Unfit("value.name-odd", odd=described(odd)) if odd else Unfit("value.name")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise Unfit("value.name-long", limit=NAME_BYTES_MAX)
    return name


Name = Annotated[str, BeforeValidator(canonical), Field(min_length=1), AfterValidator(check_name)]
"""Lowercase letters, digits, Hangul and inner hyphens; at most 63 bytes; NFC."""


def _check_title(title: str) -> str:
    if not is_plain(title) or "\n" in title:
        raise Unfit("value.title")
    return title


Title = Annotated[
    str, BeforeValidator(canonical), Field(max_length=256), AfterValidator(_check_title)
]
"""Free text of one line, NFC; nothing in it acts on a terminal."""


def _check_project(project: str) -> str:
    if project and project.count("/") != 1:
        raise Unfit("value.project")
    return check_place(project)


def check_place(place: str) -> str:
    """Return a place that is one; raises `Unfit`."""
    parts = place.split("/") if place else []
    if len(parts) > 2:
        raise Unfit("value.place")
    for part in parts:
        check_name(part)
    return place


ProjectName = Annotated[str, BeforeValidator(canonical), AfterValidator(_check_project)]
"""`organization/project`; empty for what belongs to the whole site."""

Place = Annotated[str, BeforeValidator(canonical), AfterValidator(check_place)]
"""`organization` or `organization/project`; empty for the whole site."""


class Ref(NamedTuple):
    """How a resource is found: its project (empty for the site's own) and its name."""

    project: str
    name: str


class Reason(Frozen):
    """Why something is as it is: a stable code and the values of its sentence."""

    code: str
    values: dict[str, Value] = {}


SpecT = TypeVar("SpecT", bound=Frozen)
StatusT = TypeVar("StatusT", bound=Frozen)


class Resource(Frozen, Generic[SpecT, StatusT]):
    """One object of the platform."""

    kind: ClassVar[str]
    scoped: ClassVar[bool] = True
    """True: lives in a project. False: belongs to the whole site."""

    project: Place = ""
    """Where it lives. For an organization and its users that is the organization alone."""
    name: Name
    uid: str
    generation: int = 1
    """Counts changes of the spec."""
    resource_version: int = 0
    """Revision of the store that wrote this; 0: not stored yet."""
    created_at: float = 0.0
    """Unix seconds."""
    deleted_at: float | None = None
    """Set: it is being taken down."""
    spec: SpecT
    status: StatusT

    @property
    def ref(self) -> Ref:
        """Project and name."""
        return Ref(self.project, self.name)

    def shown(self) -> dict[str, Any]:
        """Return it as JSON, as far as anybody may see it."""
        return {"kind": self.kind, **self.model_dump(mode="json")}

    def with_status(self, **changes: Any) -> Any:
        """Return a copy with these status fields changed."""
        return self.model_copy(update={"status": self.status.model_copy(update=changes)})


AnyResource = Resource[Any, Any]


class Condition(Frozen):
    """What anything carries that is not yet where its spec wants it."""

    reason: Reason | None = None
    blocked_by: str = ""
    """kind/name of what it waits for."""
    since: float = 0.0
    """Unix seconds since when `reason` holds."""
    next_try: float | None = None
    """Unix seconds of the next attempt by itself."""
    smallest_fix: Reason | None = None
    """The smallest change, checked, that would make it go on."""
