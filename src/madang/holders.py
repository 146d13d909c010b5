"""Who holds a port, as far as the kernel tells this user; best effort, and only ever words."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from madang.plain import inert

PROC = Path("/proc")
_LISTENS = "0A"
"""The kernel's number for a socket that listens."""
_ANY = "00000000"
_MAPPED = "0000000000000000FFFF0000"
"""How an IPv4 address begins in the table of IPv6."""


def holder_of(host: str, port: int, proc: Path = PROC, known: Collection[int] = ()) -> str:
    """Return `python3, pid 4711` for whoever listens where `host` is an address; empty: not told.

    Others' processes are not ours to look into. Sockets of those that are `known` don't count.
    """
    inodes = {f"socket:[{inode}]" for inode in _inodes(host, port, proc)}
    for pid in known:
        with suppress(OSError):
            inodes -= {_means(each) for each in (proc / str(pid) / "fd").iterdir()}
    if not inodes:
        return ""
    for process in sorted((p for p in proc.iterdir() if p.name.isdigit()), key=_number):
        with suppress(OSError):
            if any(_means(each) in inodes for each in (process / "fd").iterdir()):
                name = (process / "comm").read_text(errors="replace").strip()
                return inert(f"{name}, pid {process.name}")
    return ""


def noted(holder: str) -> str:
    """Return the holder as it stands at the end of a sentence, if it is known.

    >>> noted("python3, pid 4711"), noted("")
    ('(python3, pid 4711)', '')
    """
    return f"({holder})" if holder else ""


def _means(descriptor: Path) -> str:
    """Return what an open file is; empty for one that has been closed meanwhile."""
    with suppress(OSError):
        return str(descriptor.readlink())
    return ""


def _number(process: Path) -> int:
    return int(process.name)


def _inodes(host: str, port: int, proc: Path) -> Iterator[str]:
    """Yield the sockets that listen on that port, at that address or at all of them."""
    try:
        own = socket.inet_aton(host)[::-1].hex().upper()
    except OSError:
        return
    addresses = {own, _ANY, _MAPPED + own, _ANY * 4}
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(":")
                if fields[3] == _LISTENS and int(number, 16) == port and address in addresses:
                    yield fields[9]
