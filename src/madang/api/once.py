"""Idempotency-Key: read from a request, and told in its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response

from madang.api.desk import Desk
from madang.control.once import Answer, Ask
from madang.errors import Rejected
from madang.resources.rights import Principal

T = TypeVar("T")

HEADER = "idempotency-key"
REPLAYED = {"idempotency-replayed": "true"}
KEY_CHARS_MAX = 255


async def asking(request: Request) -> Ask:
    """Return what the request says of itself; raises `Rejected` for a key that is none."""
    keys = request.headers.getlist(HEADER)
    if not keys:
        return Ask()
    key = keys[0]
    if (
        len(keys) > 1
        or not 0 < len(key) <= KEY_CHARS_MAX
        or not (key.isascii() and key.isprintable())
    ):
        raise Rejected("request.bad-key", limit=KEY_CHARS_MAX)
    head = f"{request.method} {request.url.path}?{request.url.query}\0".encode()
    return Ask(key, hashlib.sha256(head + await request.body()).hexdigest())


Asking = Annotated[Ask, Depends(asking)]


async def once(
    desk: Desk,
    who: Principal,
    ask: Ask,
    act: Callable[[], Awaitable[T]],
    show: Callable[[T], Mapping[str, Any]],
) -> Response:
    """Answer a request that changes something, however often it is sent."""
    return answered(await desk.once.answer(who, ask, act, show))


def answered(answer: Answer) -> Response:
    """Send an answer as it is."""
    headers = REPLAYED if answer.again else None
    return Response(answer.content, media_type="application/json", headers=headers)
