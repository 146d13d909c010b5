"""Where a home listens: the choice of host and ports, and the file that tells it to clients."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from madang import forms, settings
from madang.cli.output import note
from madang.errors import Rejected
from madang.holders import holder_of
from madang.settings import PORT_DEFAULT, Home


class Address(NamedTuple):
    """Host and port of the API; the gateway has the next port."""

    host: str
    port: int

    @property
    def api(self) -> str:
        """The API's address, without a path.

        >>> Address("127.0.0.1", 7070).api
        'http://127.0.0.1:7070'
        """
        return f"http://{self.host}:{self.port}"

    @property
    def gateway(self) -> str:
        """The gateway's address, ending in /v1."""
        return f"http://{self.host}:{self.port + 1}/v1"


def loopback(host: str) -> str:
    """Return the host as an address; raises `Rejected` for all but IPv4 loopback.

    >>> loopback("localhost")
    '127.0.0.1'
    """
    if host == "localhost":
        return "127.0.0.1"
    with suppress(ValueError):
        if ipaddress.IPv4Address(host).is_loopback:
            return host
    raise Rejected("up.host-not-loopback", host=host)


def last(home: Home) -> Address | None:
    """Return where the home listens, or listened when it last did; raises as `listening` does."""
    with suppress(ValueError):
        url = urlsplit(settings.listening(home).get("api", ""))
        if url.hostname and url.port:
            return Address(url.hostname, url.port)
    return None


def choose(host: str, port: int | None, before: Address | None) -> Address:
    """Choose a port that is free together with the next one; 0 means any.

    Where none is asked for: that of the last time, else the default, else any. Raises `Rejected`
    when the one asked for is taken.
    """
    if port is not None:
        if port and not _is_free(Address(host, port)):
            raise _taken(host, port)
        return Address(host, port or any_port(host))
    wanted = (before, Address(host, PORT_DEFAULT))
    free = (a for a in wanted if a and a.host == host and _is_free(a))
    return next(free, None) or Address(host, any_port(host))


def _taken(host: str, port: int) -> Rejected:
    """Say that a port, or the gateway's next to it, is taken, and by whom if that can be known."""
    for each in (port, port + 1):
        if holder := holder_of(host, each):
            return Rejected("up.port-held", port=each, holder=holder)
    return Rejected("up.port-taken", port=port)


def any_port(host: str) -> int:
    """Return a port that is free together with the next one."""
    from madang.app.plans import free_port

    return free_port(host)


def write(home: Home, address: Address) -> None:
    """Tell clients where it listens."""
    gateway = address.gateway
    if settings.tls_files(home):
        gateway = gateway.replace("http:", "https:", 1)
    text = json.dumps(forms.marked({"api": address.api, "gateway": gateway}))
    fresh = home.listen.with_suffix(".part")
    fresh.write_text(text + "\n", encoding="ascii")
    fresh.replace(home.listen)


@contextmanager
def tried_database(home: Home, *, runs: bool) -> Iterator[None]:
    """Start with the database that MADANG_DATABASE_URL gives, and keep it if that succeeds.

    In a file of its owner alone: no process gets it in argv or environment. A start that fails
    leaves the address that was there before. Raises `Rejected` where something else `runs` already.
    """
    url, before = settings.given_database_url(), settings.database_url(home)
    if not url or url == before:
        yield
        return
    if runs:
        raise Rejected("up.other-database", str(home.path))
    _write_database(home, url)
    is_good = False
    try:
        yield
        is_good = True
    finally:
        if not is_good and before:
            _write_database(home, before)
        elif not is_good:
            home.database.unlink(missing_ok=True)


def tell_of_heads(home: Home, *, runs: bool) -> None:
    """Say that signed heads go to another place than before, if MADANG_AUDIT_HEADS says so.

    Control puts it on record and keeps it. Raises `Rejected` where something else `runs` already.
    """
    place, before = settings.audit_heads(home), settings.kept_heads(home)
    if place != before and runs:
        raise Rejected("up.other-heads", str(home.path), place=str(place), running=str(before))
    if place != before and home.audit_public.exists():
        note("up.heads-moved", place=str(place), before=str(before))


def keep_tls(home: Home, *, runs: bool) -> None:
    """Keep which certificate the gateway is to show, if MADANG_GATEWAY_TLS_CERT says so.

    Raises `Rejected` where another one is shown already, and `Unavailable` for files that nothing
    could be served with.
    """
    given, before = settings.given_tls(), settings.tls_files(home) or ()
    if given is None or given == tuple(map(str, before)):
        return
    if runs:
        raise Rejected("up.other-tls", str(home.path))
    if not given:
        home.tls.unlink()
        return
    from madang.gateway.tls import load

    load(Path(given[0]), Path(given[1]))
    fresh = home.tls.with_suffix(".part")
    fresh.write_text("\n".join(given) + "\n", encoding="utf-8")
    fresh.replace(home.tls)


def keep_processes(home: Home, asked: int | None, *, runs: bool) -> None:
    """Keep how many processes the gateway is, if that or MADANG_GATEWAY_PROCESSES is given.

    Raises `Rejected` where it runs as another number of them.
    """
    given, before = asked or settings.given_processes(), settings.gateway_processes(home)
    if given is None or given == before:
        return
    if runs:
        raise Rejected("up.other-processes", str(home.path), processes=given, running=before)
    for table in home.tables[1:]:  # whoever comes back later is not to serve an old one
        table.unlink()
    fresh = home.processes.with_suffix(".part")
    fresh.write_text(f"{given}\n", encoding="ascii")
    fresh.replace(home.processes)


def _write_database(home: Home, url: str) -> None:
    fresh = home.database.with_suffix(".part")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(url + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(home.database)


def _is_free(address: Address) -> bool:
    with socket.socket() as api, socket.socket() as gateway:
        for end, port in ((api, address.port), (gateway, address.port + 1)):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                end.bind((address.host, port))
            except PermissionError as error:
                raise Rejected("up.port-forbidden", port=port) from error
            except OSError:
                return False
    return True
