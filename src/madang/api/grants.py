"""Grants and rounds: what people do about them, and the calls that everybody may read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from fastapi import APIRouter, Response

from madang.api.desk import AtDesk, Caller, Desk, Operator, Project, Reader, ref_of
from madang.api.once import Asking, once
from madang.control.granting import Asked, granting
from madang.control.once import Ask
from madang.control.rounding import RoundAsked, rounding
from madang.errors import NotFound
from madang.planning.rounds.calls import Outcome, outcome
from madang.planning.snapshot import Snapshot
from madang.resources.resource import AnyResource, Name, Ref
from madang.resources.rights import CONTROL, Principal
from madang.resources.round import Round

router = APIRouter(prefix="/api/v1")


@router.post("/grant/{name}/act")
async def act_on_grant(
    who: Caller, desk: AtDesk, name: str, asked: Asked, ask: Asking, project: Project = None
) -> Response:
    """Review a grant, approve, refuse, renew or reclaim it, give it back, or appeal."""
    ref = ref_of(who, "grant", name, project)

    async def act() -> Sequence[AnyResource]:
        return await desk.intake.act(who, "grant", ref, granting(who, asked, desk.world))

    return await once(desk, who, ask, act, lambda stored: stored[0].shown())


@router.post("/round/{name}/act")
async def act_on_round(
    who: Operator, desk: AtDesk, name: Name, asked: RoundAsked, ask: Asking
) -> Response:  # fmt: skip
    """Close a round, award it, give on what came back, or lend what is idle; or try that."""
    ref, dry_run = Ref("", name), asked.dry_run
    deed = rounding(who, asked, lambda: _now(desk))

    async def act() -> Sequence[AnyResource]:
        return await desk.intake.act(who, "round", ref, deed, dry_run=dry_run)

    def show(changed: Sequence[AnyResource]) -> dict[str, Any]:
        found = cast("Round", changed[0])
        return outcome(found, _now(desk).after(changed), who.sees).model_dump(mode="json")

    return await once(desk, who, Ask() if dry_run else ask, act, show)


@router.get("/call")
async def calls(who: Reader, desk: AtDesk) -> dict[str, list[Outcome]]:
    """Return every round, with those requests that the caller may see."""
    return {"items": [_told(who, desk, name) for _, name in sorted(_now(desk).rounds)]}


@router.get("/call/{name}")
async def call(who: Reader, desk: AtDesk, name: Name) -> Outcome:
    """Return one round: the call and its sums for everybody, requests for whoever sees them."""
    return _told(who, desk, name)


def _told(who: Principal, desk: Desk, name: str) -> Outcome:
    now = _now(desk)
    found = now.rounds.get(Ref("", name))
    if found is None:
        raise NotFound("resource.missing", f"round/{name}", project="")
    return outcome(found, now, who.sees)


def _now(desk: Desk) -> Snapshot:
    return desk.world.snapshot(CONTROL, desk.observer.seen())
