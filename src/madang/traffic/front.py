"""For whom a request is meant, and from which page it comes: what keeps strangers' browsers out.

A page anywhere may have a browser send requests to this machine, and any name may be made to
resolve to it. A browser always says which name it was given (Host) and which page asked (Origin);
neither can be changed by the page. Both servers ask here, for every path and every method.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from msgspec import Struct

Stranger = Literal["", "host", "origin"]
Server = tuple[str, int | None] | None
"""Address and port at which a connection came in, as the kernel has it."""

_SCHEMES = (b"http://", b"https://")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_PORTS_CACHED = 64


class Front(Struct, frozen=True):
    """The names by which a server is called."""

    names: frozenset[str] = frozenset()
    """Beside loopback and the address that was reached: `NAME` with any port, or `NAME:PORT`."""

    def stranger(self, headers: Iterable[tuple[bytes, bytes]], server: Server) -> Stranger:
        """Name the header that doesn't fit; empty: the request is meant for us.

        A request without Host, or with two, is meant for nobody. One without Origin comes from no
        page, or from one of ours.

        >>> Front().stranger([(b"host", b"127.0.0.1:7070")], ("127.0.0.1", 7070))
        ''
        >>> Front().stranger([(b"host", b"evil.example:7070")], ("127.0.0.1", 7070))
        'host'
        """
        host: bytes | None = None
        origins: tuple[bytes, ...] = ()
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    return "host"
                host = value.lower()
            elif name == b"origin":
                origins += (value.lower(),)
        if host is None or not (host in _reached(server) or self._is_named(host)):
            return "host"
        if not origins:
            return ""
        return "" if all(self._is_our_page(origin, server) for origin in origins) else "origin"

    def _is_our_page(self, origin: bytes, server: Server) -> bool:
        authority = next((origin[len(s) :] for s in _SCHEMES if origin.startswith(s)), b"")
        return authority in _reached(server) or self._is_named(authority)

    def _is_named(self, authority: bytes) -> bool:
        name, colon, port = authority.decode("latin-1").rpartition(":")
        given = {authority.decode("latin-1")} | ({name} if colon and port.isdigit() else set())
        return bool(given & self.names)


@lru_cache(_PORTS_CACHED)
def _reached(server: Server) -> frozenset[bytes]:
    """Return what a client may call the socket that it has reached."""
    address, port = server or ("", None)
    names = {*_LOOPBACK, f"[{address}]" if ":" in address else address} - {""}
    said = {f"{name}:{port}" for name in names}
    if port in {80, None}:
        said |= names
    return frozenset(name.encode() for name in said)
