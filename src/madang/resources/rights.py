"""Who is calling, what they may do and where: every call into the platform takes a `Principal`.

A *place* is where rights hold: the whole site (empty), an organization, or one project.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from madang.resources.resource import Frozen, Place, ProjectName


class Right(StrEnum):
    """One thing that can be allowed; also the scopes that a key may be narrowed to."""

    READ = "read"
    """See what there is, with its logs and reasons."""
    WRITE = "write"
    """Apply and delete services and what belongs to them."""
    INFER = "infer"
    """Call endpoints through the gateway."""
    KEYS = "keys"
    """Make and revoke api keys, never with more rights than one's own."""
    MANAGE = "manage"
    """Organizations, projects and users."""
    OPERATE = "operate"
    """The site itself: nodes, Madang's own processes, files on the server, backups."""
    AUDIT = "audit"
    """Read the audit records."""


class Role(StrEnum):
    """A named set of rights, from most to least."""

    OPERATOR = "operator"
    """Everything, where it holds: the site, an organization, a project."""
    MEMBER = "member"
    """Reads and writes, calls endpoints, makes keys."""
    VIEWER = "viewer"
    """Reads."""
    AUDITOR = "auditor"
    """Reads everything with its audit records, and changes nothing."""


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.OPERATOR: frozenset(Right),
    Role.MEMBER: frozenset({Right.READ, Right.WRITE, Right.INFER, Right.KEYS}),
    Role.VIEWER: frozenset({Right.READ}),
    Role.AUDITOR: frozenset({Right.READ, Right.AUDIT}),
}


def within(place: str, where: str) -> bool:
    """Tell whether a place is `where`, or a part of it.

    >>> within("acme/lab", "acme"), within("acme2/lab", "acme"), within("", "acme")
    (True, False, False)
    """
    return not where or place == where or place.startswith(f"{where}/")


class Grant(Frozen):
    """A role at a place, narrowed to some scopes; no scopes: all that the role has."""

    role: Role
    where: Place = ""
    scopes: frozenset[Right] = frozenset()

    @property
    def rights(self) -> frozenset[Right]:
        """What it allows."""
        held = RIGHTS[self.role]
        return held & self.scopes if self.scopes else held


class Principal(Frozen):
    """Who is calling."""

    actor: str
    """For events: `key/NAME`, or the name of a part of Madang."""
    role: Role
    where: Place = ""
    """The rights hold here and below."""
    project: ProjectName = ""
    """Where names are looked up unless a project is given."""
    rights: frozenset[Right] = frozenset(Right)
    uid: str = ""
    """Of the key; empty for a part of Madang."""
    user: str = ""
    """`organization/name` of the key's owner; empty: it belongs to its project."""
    expires_at: float | None = None
    """Unix seconds; None: the key is good until it is revoked."""
    audited: bool = True
    """Whether its changes go into the audit records; only the loop's own bookkeeping does not."""

    @property
    def name(self) -> str:
        """By which reviews and decisions name this caller: the user, or else the key."""
        return self.user or self.actor

    def sees(self, place: str) -> bool:
        """Tell whether things at that place exist for this caller.

        >>> Principal(actor="key/a", role=Role.MEMBER, where="a/b").sees("a/c")
        False
        """
        return within(place, self.where)

    def may(self, right: Right, place: str) -> bool:
        """Tell whether this caller has that right at that place."""
        return right in self.rights and within(place, self.where)

    def covers(self, grant: Grant) -> bool:
        """Tell whether this caller may hand that out: nobody gives what they don't have."""
        return grant.rights <= self.rights and within(grant.where, self.where)


def held(grant: Grant, owners: Iterable[Grant]) -> frozenset[Right]:
    """Return what is left of a key's grant when its owner holds these: the rights of both."""
    reaching = (each.rights for each in owners if within(grant.where, each.where))
    return grant.rights & frozenset[Right]().union(*reaching)


CONTROL = Principal(actor="control", role=Role.OPERATOR, audited=False)
"""The loop: its decisions are events, not audit records."""
SETUP = Principal(actor="control", role=Role.OPERATOR)
"""Control making the first objects of a home, the operator's key among them."""
GATE = Principal(actor="gate", role=Role.OPERATOR)
"""The gate, whose verdicts are evidence."""
GATEWAY = Principal(actor="gateway", role=Role.OPERATOR, audited=False)
"""The gateways, for what they measured."""
OWNER = Principal(actor="owner", role=Role.OPERATOR)
"""Whoever can write the files of a home that is stopped: backups, restores, repairs."""
