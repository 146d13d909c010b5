"""The certificate that the gateway shows: loaded apart, tried by a handshake, and then swapped in.

The files are looked at every two seconds. A context that has served one kind of key goes on
showing its old certificate when the next has another kind, so each pair gets a context of its own,
and each connection the context of its moment. A pair that is no good is told, and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from madang.errors import Unavailable

if TYPE_CHECKING:
    from madang.ports import Clock

LOOK_S = 2.0
"""So often the files are looked at; what changed between two looks is still being written."""
PROOF_S = 10.0
"""Time for the handshake with oneself."""
PROOFS_MAX = 512
"""So often it is tried, of up to 16 processes, to come to this one."""
FILE_BYTES_MAX = 1 << 20
TURNS_MAX = 16
"""Of a handshake within memory; one of TLS 1.2 or 1.3 takes four at most."""
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL: one that is over is still the one that lies there."""
DAY_S = 86400.0
_LEAF = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

log = logging.getLogger("madang.gateway")

Stamp = tuple[tuple[int, ...], ...]
Place = tuple[str, int]


class Certificate(NamedTuple):
    """One pair of files as it was read."""

    context: ssl.SSLContext
    der: bytes
    """What a client gets to see."""
    ends_at: float
    """Unix seconds."""


def load(cert: Path, key: Path) -> Certificate:
    """Read a certificate with its chain, and its key, and try them by a handshake.

    Raises `Unavailable` for whatever could not be served with.
    """
    try:
        context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(cert, key, password=_no_password)
        with cert.open("rb") as file:
            leaf = _LEAF.search(file.read(FILE_BYTES_MAX))
        if leaf is None:
            raise ValueError("it holds no certificate")
        client = _shake(context, leaf[0].decode("ascii"))
        told, der = client.getpeercert(), client.getpeercert(binary_form=True)
        if not told or not der:
            raise ValueError("no certificate is shown")
        return Certificate(context, der, ssl.cert_time_to_seconds(str(told["notAfter"])))
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise Unavailable("gateway.tls-files", str(cert), key=str(key), cause=cause) from error


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _no_password() -> str:
    raise ValueError("the key asks for a password")


def _shake(context: ssl.SSLContext, leaf: str) -> ssl.SSLObject:
    """Shake hands within memory with a client that trusts this certificate alone."""
    trusting = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    trusting.check_hostname = False
    trusting.load_verify_locations(cadata=leaf)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    ends = client, context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(TURNS_MAX):
        through = [_is_through(end) for end in ends]
        if all(through):
            return client
    raise ValueError("the handshake does not end")


def _is_through(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


class Shown:
    """The certificate of now. Raises `Unavailable` where the files are no good to begin with."""

    def __init__(self, files: tuple[Path, Path], clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._tried = self._seen = self._stamp()
        self._now = load(*files)
        self._fault = ""
        self.guests: set[object] | None = None
        """Who has come to our own door, while that is to be known: its processes share a port."""
        self.tell: Callable[[Mapping[str, object]], None] = lambda _told: None
        """Called with what a health check is to say of it."""

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection is served with."""
        return self._now.context

    def begin(self, tell: Callable[[Mapping[str, object]], None]) -> None:
        """Tell of the certificate from now on."""
        self.tell = tell
        self._tell()

    async def watch(self, place: Place) -> None:
        """Look after the files for ever; `place` is where our own door is."""
        while True:
            await self._clock.sleep(LOOK_S)
            stamp = await asyncio.to_thread(self._stamp)
            if stamp != self._seen:
                self._seen = stamp
            elif stamp != self._tried or self._fault:
                self._tried = stamp
                await self._reload(place)

    def _stamp(self) -> Stamp:
        return tuple(_stamp(each) for each in self._files)

    async def _reload(self, place: Place) -> None:
        before = self._now
        try:
            self._now = await asyncio.to_thread(load, *self._files)
            await self._prove(place)
        except (Unavailable, OSError, ValueError) as error:
            self._now = before
            cause = error.values["cause"] if isinstance(error, Unavailable) else error
            self._blame(str(cause) or type(error).__name__)
            return
        self._fault = ""
        self._tell()
        days = (self._now.ends_at - self._clock.now()) / DAY_S
        log.info("certificate reloaded from %s, good for %.0f days", self._files[0], days)

    async def _prove(self, place: Place) -> None:
        """Come to our own door, and look whether it shows the certificate of now.

        Where several processes share the port the kernel chooses who opens, so it is tried until
        that is this one.
        """
        self.guests = set()
        try:
            async with asyncio.timeout(PROOF_S):
                for _ in range(PROOFS_MAX):
                    name, der = await _look(place)
                    if name in self.guests:
                        if der != self._now.der:
                            raise ValueError("a handshake with ourselves showed another one")
                        return
        finally:
            self.guests = None
        raise ValueError("no handshake has come to ourselves")

    def _blame(self, cause: str) -> None:
        """Say once what is wrong with the files."""
        if cause != self._fault:
            self._fault = cause
            log.warning("gateway.tls-files: %s: %s; the old one is served", self._files[0], cause)
            self._tell()

    def _tell(self) -> None:
        self.tell({"tls": {"ends_at": self._now.ends_at, "fault": self._fault}})


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does; nothing where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


async def _look(place: Place) -> tuple[object, bytes | None]:
    """Come to the door; return our name as who opened knows it, and the certificate shown."""
    looking = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    looking.check_hostname = False
    looking.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection(*place, ssl=looking)
    name = writer.get_extra_info("sockname")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return name, shown
