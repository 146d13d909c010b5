"""What of control a gateway talks to, without a store: leases by the real rule, usage counted.

`python bench/lender.py HOME`: serves the socket of that home until it is told to stop, then prints
what it has lent and counted. Tables are never newer than the one on the gateway's disk.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send

from madang.control.leases import limits_of
from madang.settings import CONTROL_SOCKET, Home
from madang.traffic.leases import Asked, Books, charge, lend
from madang.traffic.table import Pull, RouteTable, Usage

Told = tuple[int, bytes]


class Lender:
    """The books of one table's limits."""

    def __init__(self, home: Home) -> None:
        self._limits = limits_of(msgspec.json.decode(home.table.read_bytes(), type=RouteTable))
        self._books: Books = {}
        self.seen: Counter[str] = Counter()
        self.paths: dict[str, Callable[[bytes, str], Awaitable[Told]]] = {
            "/internal/routes": self._routes, "/internal/leases": self._leases,
            "/internal/usage": self._usage,
        }  # fmt: skip

    async def _routes(self, body: bytes, _where: str) -> Told:
        await asyncio.sleep(msgspec.json.decode(body, type=Pull).wait_s)
        return 204, b""

    async def _leases(self, body: bytes, _where: str) -> Told:
        asked = msgspec.json.decode(body, type=Asked)
        self.seen["leases"] += len(asked.wants)
        limits = ((each, self._limits.get((each.owner, each.what), 0)) for each in asked.wants)
        lent = [lend(self._books, asked, want, limit) for want, limit in limits]
        return 200, msgspec.json.encode(lent)

    async def _usage(self, body: bytes, where: str) -> Told:
        records = msgspec.json.decode(body, type=list[Usage])
        self.seen["usage"] += len(records)
        charge(self._books, records)
        return 200, msgspec.json.encode({"cursor": int(parse_qs(where)["end"][0])})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        where = scope["query_string"].decode()
        status, content = await self.paths[scope["path"]](body, where)
        size = [] if status == 204 else [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": size})
        await send({"type": "http.response.body", "body": content})


def main() -> None:
    """Serve until told to stop."""
    home = Home(Path(sys.argv[1]))
    home.sockets.mkdir(parents=True, exist_ok=True)
    lender = Lender(home)
    where = str(home.sockets / CONTROL_SOCKET)
    config = uvicorn.Config(lender, uds=where, log_level="error", lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    server.run()
    print(json.dumps(dict(lender.seen)))


if __name__ == "__main__":
    main()
