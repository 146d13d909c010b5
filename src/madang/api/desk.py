"""What every route stands on: the parts of control, who is calling, and what they may call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, cast

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer

from madang.control.backups import Backups
from madang.control.first import PROJECT
from madang.control.gateways import Gateways
from madang.control.intake import Intake
from madang.control.keys import Keys
from madang.control.notary import Notary
from madang.control.observe import Observer
from madang.control.once import Once
from madang.control.world import World
from madang.errors import Forbidden, Rejected, Unauthorized, Unfit
from madang.ports import Blobs, Launcher, Secrets
from madang.resources.kinds import KINDS
from madang.resources.manifest import nearest
from madang.resources.resource import Place, Ref, canonical, check_place
from madang.resources.rights import Principal, Right
from madang.settings import Home

KEY_BYTES_MAX = 256
WAIT_S_MAX = 30.0
"""Longest long poll."""

Kind = StrEnum("Kind", {name: name for name in KINDS})  # type: ignore[misc]
"""Every kind, for the documentation of the routes."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts of control that routes reach."""

    home: Home
    world: World
    intake: Intake
    observer: Observer
    gateways: Gateways
    keys: Keys
    launchers: Mapping[str, Launcher]
    blobs: Blobs
    where: Callable[[], Mapping[str, str]]
    """`api` and `gateway` addresses."""
    backups: Backups
    notary: Notary
    once: Once
    secrets: Secrets
    trials: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One estimate of when a job starts is made at a time: it takes up to a second."""

    def check(self, who: Principal) -> None:
        """Raise `Unauthorized` for a caller whose key was revoked while it was being served."""
        if not self.keys.honours(who):
            raise Unauthorized("key.unknown")


async def desk_of(request: Request) -> Desk:
    """Return the desk of the application that serves this request."""
    return cast("Desk", request.app.state.desk)


AtDesk = Annotated[Desk, Depends(desk_of)]

_bearer = HTTPBearer(auto_error=False, description="An api key, as in HOME/admin.key")


async def caller(request: Request, _shown: Annotated[Any, Depends(_bearer)] = None) -> Principal:
    """Return who is calling; no source address is ever trusted."""
    return identify(request.headers.getlist("authorization"), (await desk_of(request)).keys)


def identify(lines: list[str], keys: Keys) -> Principal:
    """Return whose key these Authorization headers hold; raises `Unauthorized`."""
    scheme, _, secret = lines[0].partition(" ") if len(lines) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not 0 < len(secret.encode()) <= KEY_BYTES_MAX:
        raise Unauthorized("key.needed")
    who = keys.find(secret.strip())
    if who is None:
        raise Unauthorized("key.unknown")
    return who


class Needs:
    """What a route asks of its caller: that right, and on the whole site if it says so.

    No right: any known key will do, since the route looks for a right itself, in
    `control.authority`, at the place of what it is about. A route without this ends the start.
    """

    def __init__(self, right: Right | None = None, site: bool = False) -> None:
        self.right = right
        self.site = site

    async def __call__(
        self, request: Request, who: Annotated[Principal, Depends(caller)]
    ) -> Principal:
        """Return the caller if it has what is needed, and says nothing that the route ignores."""
        refuse_unknown(request)
        if self.right and self.right not in who.rights:
            raise Forbidden("role.right-needed", who.actor, right=self.right, role=who.role)
        if self.site and not who.sees(""):
            raise Forbidden("role.site-needed", who.actor, where=who.where)
        return who


def refuse_unknown(request: Request) -> None:
    """Raise `Rejected` for a query parameter that the route does not know: queries are closed.

    What a route knows stands in its own signature.
    """
    known = sorted(each.alias for each in request.scope["route"].dependant.query_params)
    for name in request.query_params:
        if name not in known:
            raise Rejected(
                "api.unknown-parameter", key=name, nearest=nearest(name, known) or "-",
                known=", ".join(known) or "-",
            )  # fmt: skip


Caller = Annotated[Principal, Depends(Needs())]
Reader = Annotated[Principal, Depends(Needs(Right.READ))]
Operator = Annotated[Principal, Depends(Needs(Right.OPERATE, site=True))]
Auditor = Annotated[Principal, Depends(Needs(Right.AUDIT))]
SiteAuditor = Annotated[Principal, Depends(Needs(Right.AUDIT, site=True))]

Project = Annotated[
    Place | None, Query(description=f"organization/project; by default the key's own ({PROJECT})")
]


def ref_of(who: Principal, kind: str, name: str, project: str | None) -> Ref:
    """Return how a resource is found: site-wide kinds have no project. Raises `Rejected`."""
    name = _name_of(kind, name)
    if not KINDS[kind].scoped:
        return Ref("", name)
    if kind == "organization":
        return Ref(name, name)
    if kind == "quota":
        return Ref(name, name.rpartition("/")[2])
    if kind == "project":
        full = name if "/" in name else (project or who.project)
        return Ref(full, full.partition("/")[2])
    if kind == "user":
        organization, slash, own = name.partition("/")
        return Ref(organization, own) if slash else Ref(who.project.partition("/")[0], name)
    return Ref(project or who.project or PROJECT, name)


def _name_of(kind: str, written: str) -> str:
    """Return a name from a path in its canonical form; raises `Rejected`."""
    name = str(canonical(written))
    try:
        if "/" in name and kind not in {"project", "user", "quota"}:
            raise Unfit("value.name-slash")
        return check_place(name)
    except Unfit as error:
        raise Rejected("manifest.value", kind, key="name", **error.why()) from error
