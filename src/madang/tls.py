"""Connections to servers of Madang, plain or by TLS, for commands and whoever looks at parts."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import SplitResult


def dial(to: SplitResult, timeout_s: float, *, own: bool) -> HTTPConnection:
    """Return what asks a server; `own`: a gateway, whose certificate isn't read on this machine.

    It names what others call it, and on loopback plain HTTP would be no safer.
    """
    host = to.hostname or ""
    if to.scheme != "https":
        return HTTPConnection(host, to.port, timeout=timeout_s)
    context = _unchecked() if own and host.startswith("127.") else None
    return HTTPSConnection(host, to.port, timeout=timeout_s, context=context)


def _unchecked() -> ssl.SSLContext:
    """Return what reads TLS without asking whose it is, for a server of this machine itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
