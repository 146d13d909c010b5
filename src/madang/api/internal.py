"""What gateways call, over control's UNIX socket: the next route table, and what was used."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from madang.control.gateways import Gateways
from madang.control.leases import Leases
from madang.control.world import World
from madang.errors import Unavailable
from madang.resources.bill import Span
from madang.resources.rights import GATEWAY
from madang.traffic.leases import Asked
from madang.traffic.table import Pull, Usage

BODY_BYTES_MAX = 8 << 20

log = logging.getLogger("madang.api")

Answer = tuple[int, bytes]
Path = Callable[[bytes, bytes], Awaitable[Answer]]
_WHERE = re.compile(
    rb"segment=([a-zA-Z0-9._-]{1,200})&start=([0-9]{1,18})&end=([0-9]{1,18})", re.ASCII
)


def build(world: World, gateways: Gateways) -> ASGIApp:
    """Return the application; the socket's mode decides who may call it."""

    async def routes(body: bytes, _where: bytes) -> Answer:
        table = await gateways.pull(msgspec.json.decode(body, type=Pull))
        return (204, b"") if table is None else (200, msgspec.json.encode(table))

    async def usage(body: bytes, where: bytes) -> Answer:
        records = msgspec.json.decode(body, type=list[Usage])
        span = _span(where)
        cursor = await world.store.usage_mark(GATEWAY, span.segment) if span else 0
        if span is None or span.start >= cursor:
            await world.record_usage(GATEWAY, records, span)
            cursor = span.end if span else 0
        return 200, msgspec.json.encode({"cursor": cursor})

    async def lend(body: bytes, _where: bytes) -> Answer:
        return 200, msgspec.json.encode(await leases.lend(msgspec.json.decode(body, type=Asked)))

    leases = Leases(world, gateways)
    paths = {
        "/internal/routes": routes, "/internal/usage": usage, "/internal/leases": lend,
    }  # fmt: skip

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        path, where = paths.get(scope["path"]), scope.get("query_string", b"")
        status, content = await _answer(path, where, receive)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


def _span(where: bytes) -> Span | None:
    """Return from which part of which file records are; None: the gateway is an older one."""
    found = _WHERE.fullmatch(where)
    if found is None or not int(found[2]) < int(found[3]):
        return None
    return Span(found[1].decode(), int(found[2]), int(found[3]))


async def _answer(path: Path | None, where: bytes, receive: Receive) -> Answer:
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False) and sum(map(len, pieces)) <= BODY_BYTES_MAX
    if path is None:
        return 404, b"{}"
    try:
        return await path(b"".join(pieces), where)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return 400, msgspec.json.encode({"error": str(error)})
    except Unavailable as error:  # they try again, with what they have on disk
        log.warning("a gateway is not heard: %s", error)
        return 503, msgspec.json.encode({"error": error.code})
