"""What gateways call, over control's UNIX socket: the next route table, and what was used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from madang.control.gateways import Gateways
from madang.control.leases import Leases
from madang.control.world import World
from madang.resources.rights import GATEWAY
from madang.traffic.leases import Asked
from madang.traffic.table import Pull, Usage

BODY_BYTES_MAX = 8 << 20

Answer = tuple[int, bytes]


def build(world: World, gateways: Gateways) -> ASGIApp:
    """Return the application; the socket's mode decides who may call it."""

    async def routes(body: bytes) -> Answer:
        table = await gateways.pull(msgspec.json.decode(body, type=Pull))
        return (204, b"") if table is None else (200, msgspec.json.encode(table))

    async def usage(body: bytes) -> Answer:
        records = msgspec.json.decode(body, type=list[Usage])
        await world.record_usage(GATEWAY, records)
        return 200, b"{}"

    async def lend(body: bytes) -> Answer:
        return 200, msgspec.json.encode(await leases.lend(msgspec.json.decode(body, type=Asked)))

    leases = Leases(world, gateways)
    paths = {
        "/internal/routes": routes, "/internal/usage": usage, "/internal/leases": lend,
    }  # fmt: skip

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        status, content = await _answer(paths.get(scope["path"]), receive)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


async def _answer(path: Callable[[bytes], Awaitable[Answer]] | None, receive: Receive) -> Answer:
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False) and sum(map(len, pieces)) <= BODY_BYTES_MAX
    if path is None:
        return 404, b"{}"
    try:
        return await path(b"".join(pieces))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return 400, msgspec.json.encode({"error": str(error)})
