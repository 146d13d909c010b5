"""Where a gateway listens: on a port of its own, or on one that its processes share.

Processes share a port by SO_REUSEPORT, which the kernel grants to every process of the same user.
So whoever listens looks then who else does: among those of one gateway nobody else may be.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from madang.errors import Unavailable
from madang.gateway.columns import Columns
from madang.holders import holder_of, noted

BACKLOG = 1024
"""Connections that wait to be accepted."""


class Place(NamedTuple):
    """An address and a port; 0: any that is free."""

    host: str
    port: int


def listen(place: Place, columns: Columns | None = None) -> socket.socket:
    """Listen there, with the other processes of `columns` or alone; raises `Unavailable`."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        listener = socket.create_server(
            place, family=family, backlog=BACKLOG, reuse_port=columns is not None
        )
    except OSError as error:
        raise _taken(place, error.strerror or str(error), holder_of(*place)) from error
    port = listener.getsockname()[1]
    if columns and (holder := holder_of(place.host, port, known=columns.pids())):
        listener.close()
        raise _taken(place, "Address already in use", holder)
    return listener


def _taken(place: Place, cause: str, holder: str) -> Unavailable:
    where = f"{place.host}:{place.port}"
    return Unavailable("gateway.port", where, cause=cause, holder=noted(holder))
