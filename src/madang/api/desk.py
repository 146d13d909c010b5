"""What every route stands on: the parts of control, who is calling, and what they may call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, cast

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer

from madang.control.first import PROJECT
from madang.control.gateways import Gateways
from madang.control.intake import Intake, Keys
from madang.control.observe import Observer
from madang.control.world import World
from madang.errors import Forbidden, Rejected, Unauthorized
from madang.ports import Launcher
from madang.resources.kinds import KINDS
from madang.resources.resource import AnyResource, Ref
from madang.resources.tenancy import Principal, Role
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
    where: Callable[[], Mapping[str, str]]
    """`api` and `gateway` addresses."""


def desk_of(request: Request) -> Desk:
    """Return the desk of the application that serves this request."""
    return cast("Desk", request.app.state.desk)


AtDesk = Annotated[Desk, Depends(desk_of)]

_bearer = HTTPBearer(auto_error=False, description="An api key, as in HOME/admin.key")


async def caller(request: Request, _shown: Annotated[Any, Depends(_bearer)] = None) -> Principal:
    """Return who is calling; no source address is ever trusted."""
    return identify(request.headers.getlist("authorization"), desk_of(request).keys)


def identify(lines: list[str], keys: Keys) -> Principal:
    """Return whose key these Authorization headers hold; raises `Unauthorized`."""
    scheme, _, secret = lines[0].partition(" ") if len(lines) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not 0 < len(secret.encode()) <= KEY_BYTES_MAX:
        raise Unauthorized("key.needed")
    key = keys.find(secret.strip())
    if key is None:
        raise Unauthorized("key.unknown")
    return Principal(actor=f"key/{key.name}", role=key.spec.role, project=key.spec.home)


Caller = Annotated[Principal, Depends(caller)]


async def operator(who: Caller) -> Principal:
    """Return the caller if it is an operator."""
    if who.role is not Role.OPERATOR:
        raise Forbidden("role.operator-needed", who.actor, role=who.role.value)
    return who


Operator = Annotated[Principal, Depends(operator)]

Project = Annotated[
    str | None,
    Query(
        max_length=200, description=f"organization/project; by default the key's own ({PROJECT})"
    ),
]


def ref_of(who: Principal, kind: str, name: str, project: str | None) -> Ref:
    """Return how a resource is found: site-wide kinds have no project."""
    if len(name.encode()) > 128:
        raise Rejected("manifest.value", kind, key="name", cause="too long")
    if not KINDS[kind].scoped:
        return Ref("", name)
    if kind == "project":
        full = name if "/" in name else (project or who.project)
        return Ref(full, full.partition("/")[2])
    return Ref(project or who.project or PROJECT, name)


def shown(resource: AnyResource) -> dict[str, Any]:
    """Return a resource as JSON; a key without even its digest."""
    body: dict[str, Any] = {"kind": resource.kind, **resource.model_dump(mode="json")}
    if resource.kind == "key":
        body["spec"].pop("digest")
    return body
