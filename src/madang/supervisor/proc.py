"""What the kernel says about processes: who is alive, in which session, since when, how big."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from typing import NamedTuple

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Entry(NamedTuple):
    """One living process."""

    pid: int
    parent: int
    session: int
    start_ticks: int
    """Since the machine started: tells a process from a later one with the same number."""


def entry(pid: int) -> Entry | None:
    """Read one process; None when it is gone or only waits to be reaped."""
    stat = _read(f"/proc/{pid}/stat")
    fields = stat[stat.rfind(b")") + 2 :].split()
    if not fields or fields[0] in b"ZX":
        return None
    return Entry(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def members(sessions: Set[int]) -> list[Entry]:
    """Return the living processes of these sessions and everything descended from them."""
    found: dict[int, Entry] = {}
    rest = list(_all())
    while joined := [e for e in rest if e.session in sessions or e.parent in found]:
        found.update((e.pid, e) for e in joined)
        rest = [e for e in rest if e.pid not in found]
    return list(found.values())


def rss_bytes(pid: int) -> int:
    """Resident memory of one process; 0 when it is gone."""
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE_BYTES if fields else 0


def boot_id() -> str:
    """Name this start of the machine: process numbers and ticks mean nothing in another."""
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def _all() -> Iterator[Entry]:
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := entry(int(name))):
            yield found


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
