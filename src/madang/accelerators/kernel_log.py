"""What NVIDIA's driver tells the kernel's log: lines with an XID, as /dev/kmsg gives them.

    4,1207,5023411000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, GPU has fallen off the bus.

Lines of `journalctl -k` and `dmesg` hold the same words. Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]{7,20})\): (\d{1,4})(?:,|$|\s)")
RECORD_BYTES_MAX = 8192
READS_MAX = 20_000
"""So many records are read at a time; the rest of a flood waits for the next look."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One XID that was logged."""

    bus: str
    """As `bus_of` writes it."""
    number: int
    mark: int
    """Microseconds since the kernel started: marks of one life of it only grow."""


def bus_of(written: str) -> str:
    """Write where a device sits in the one form that log and tools can be compared by.

    >>> bus_of("00000000:3B:00.0"), bus_of("0000:3b:00")
    ('0000:3b:00', '0000:3b:00')
    """
    domain, _, rest = written.lower().partition(":")
    return f"{domain[-4:].zfill(4)}:{rest.partition('.')[0]}"


def parse(record: str) -> Logged | None:
    """Read one record of /dev/kmsg; None for what tells of no XID."""
    head, _, text = record.partition(";")
    found = XID.match(text)
    fields = head.split(",")
    if found is None or len(fields) < 3 or not fields[2].isdigit():
        return None
    return Logged(bus_of(found.group(1)), int(found.group(2)), int(fields[2]))


class KernelLog:
    """The log from its oldest record on; never waits for a new one."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self.unread = ""
        """Why it can't be read; empty: it can."""
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            self.unread = f"{path}: {error.strerror}"

    def fresh(self) -> Iterator[Logged]:
        """Give the XIDs that came since the last time."""
        for _ in range(READS_MAX if self._fd >= 0 else 0):
            try:
                chunk = os.read(self._fd, RECORD_BYTES_MAX)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # it was overwritten before it was read
            except OSError as error:
                self.unread = f"/dev/kmsg: {error.strerror}"
                return
            if not chunk:
                return
            for line in chunk.decode(errors="replace").splitlines():
                with suppress(ValueError):
                    if found := parse(line):
                        yield found
