"""The way to the engines: one pool of connections, no second opinion on anything."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)

from madang.errors import is_our_lack
from madang.threads import Lacks
from madang.traffic.exchange import Fault

KEEP_ALIVE_S = 2.0
"""Idle connections are closed before common engines close them (5 s)."""
WHOLE_BODY_BYTES_MAX = 1 << 20
"""A larger body is written piece by piece."""
_OWN_HEADERS = ("User-Agent", "Accept", "Accept-Encoding")

DROPPED = (ClientError, OSError)
"""What reading an answer raises when its engine is gone."""


class Engines:
    """Connections to every engine; open it inside the loop that uses it."""

    def __init__(self, connect_s: float, lacks: Lacks) -> None:
        self._lacks = lacks
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=ClientTimeout(total=None, sock_connect=connect_s),
            cookie_jar=DummyCookieJar(),
            skip_auto_headers=_OWN_HEADERS,
            auto_decompress=False,
        )

    async def post(
        self, url: str, token: str, request_id: str, body: bytes
    ) -> ClientResponse | Fault:
        """Send a request and wait for the head of the answer."""
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "X-Request-Id": request_id,
        }
        data = body if len(body) <= WHOLE_BODY_BYTES_MAX else BytesIO(body)
        try:
            return await self._session.post(url, data=data, headers=headers, allow_redirects=False)
        except ClientConnectorError as error:
            return self._lacking(error.os_error) or "refused"
        except ConnectionTimeoutError:
            return "refused"
        except ClientResponseError:  # what came is no HTTP, or has no end
            return "garbled"
        except (*DROPPED, MemoryError) as error:
            return self._lacking(error) or "lost"

    def _lacking(self, error: BaseException) -> Literal["short", ""]:
        """Tell whether it was our own lack, and note that."""
        if not is_our_lack(error):
            return ""
        self._lacks.note(error)
        return "short"

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()
