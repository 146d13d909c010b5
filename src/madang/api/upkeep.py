"""Routes of the days after: a backup of the whole home, and everything that was declared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from madang.api.desk import AtDesk, Operator, Project, Reader
from madang.api.once import Asking, once
from madang.control.backups import Outcome
from madang.resources.kinds import WRITABLE
from madang.resources.manifest import written

router = APIRouter(prefix="/api/v1")


@router.post("/backup")
async def take_backup(who: Operator, desk: AtDesk) -> StreamingResponse:
    """Return the whole home in one file, all keys in it; not the model files."""
    desk.notary.require()
    pieces = desk.backups.take(who)
    first = await anext(pieces)  # what is refused is refused with a status

    async def stream() -> AsyncIterator[bytes]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                desk.check(who)
                yield piece

    return StreamingResponse(stream(), media_type="application/octet-stream")


@router.post("/backup/outcome")
async def note_backup(who: Operator, desk: AtDesk, outcome: Outcome, ask: Asking) -> Response:
    """Write down that a backup was kept, or tried."""
    return await once(desk, who, ask, lambda: desk.backups.note(who, outcome), lambda _none: {})


@router.get("/declared")
async def declared(who: Reader, desk: AtDesk, project: Project = None) -> dict[str, Any]:
    """Return every object that people have declared, as the document that `apply` takes."""
    found = [r for kind in WRITABLE for r in desk.intake.list(who, kind, project)]
    items = [
        {"kind": r.kind, "project": r.project, "name": r.name, "document": written(r)}
        for r in found
        if r.deleted_at is None
    ]
    return {"revision": desk.world.revision, "items": items}
