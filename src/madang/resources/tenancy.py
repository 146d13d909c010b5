"""organization, project, key: who may do what, and where it belongs."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from madang.resources.resource import Frozen, ProjectName, Resource


class Role(StrEnum):
    """What a key may do, from most to least."""

    OPERATOR = "operator"
    """Everything, in every project."""
    MEMBER = "member"
    """Reads and writes in its own project, and calls its endpoints."""
    VIEWER = "viewer"
    """Reads in its own project."""
    AUDITOR = "auditor"
    """Reads everything, in every project, and changes nothing."""


class Empty(Frozen):
    """A spec or status with nothing in it yet."""


class TitleSpec(Frozen):
    """What people call it."""

    title: str = Field(default="", max_length=256)


class Organization(Resource[TitleSpec, Empty]):
    """A legal body: it owns projects."""

    kind: ClassVar[str] = "organization"
    scoped: ClassVar[bool] = False


class Project(Resource[TitleSpec, Empty]):
    """Where a team's services, models and keys live; its name is `organization/project`.

    A project is stored inside itself: its `project` is its full name, its `name` the last part.
    """

    kind: ClassVar[str] = "project"


class KeySpec(Frozen):
    """A key is known by the digest of its secret only."""

    role: Role = Role.MEMBER
    digest: str
    """SHA-256 of the whole key, in hex. 256 random bits need no slow hash."""
    home: ProjectName
    """The project in which names are looked up."""
    expires_at: float | None = None


class Key(Resource[KeySpec, Empty]):
    """An api key."""

    kind: ClassVar[str] = "key"


class Principal(Frozen):
    """Who is calling: every call into the platform takes one."""

    actor: str
    """For events: `key/NAME`, or the name of a part of Madang."""
    role: Role
    project: ProjectName = ""

    def sees(self, project: str) -> bool:
        """Tell whether objects of that project exist for this caller.

        >>> Principal(actor="key/a", role=Role.MEMBER, project="a/b").sees("a/c")
        False
        """
        return self.role in {Role.OPERATOR, Role.AUDITOR} or project == self.project

    def may_write(self, project: str) -> bool:
        """Tell whether this caller may change objects of that project."""
        if self.role is Role.OPERATOR:
            return True
        return self.role is Role.MEMBER and project == self.project != ""
