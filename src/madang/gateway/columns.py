"""What the processes of one gateway know of each other: a table in shared memory, a column each.

A process writes only its own column, and reads those of the others; every cell is an aligned
number of eight bytes with one writer, so nobody waits for anybody. In a column each name that is
counted has a row, found by a digest, because processes need not know the same names. A column
belongs to a process by its pid and start time. Of one that has died, what it had under way is over
with it; what it used of rates counts until its minute is over, so that nobody gains by a death.

The memory has no name: who comes opens it through a sibling that lives. With the last of them it
is gone, as the numbers of a single process are gone with that.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from madang.errors import Unavailable
from madang.settings import GATEWAY_PROCESSES_MAX
from madang.traffic.joint import WINDOW_SLOTS, Numbers

PER_PROCESS = 3
"""Columns: its own, and those of two lives before it whose minute is not over."""
COLUMNS = GATEWAY_PROCESSES_MAX * PER_PROCESS
ROWS = 8192
"""Names that are counted, of one process; a power of two. Memory is taken as rows are."""
PROBES_MAX = 64
CELL_BYTES = 8
GENERATION = 0
"""The cell that changes whenever a column changes hands."""
OWNERS = 1
"""Then each column's pid and start."""
HEAD = 512
"""Cells before the first column: a page."""
CELLS = 6
"""Of a row: its digest, and its numbers."""
LIVE = 4
"""The first of a row's cells that count only while their process lives."""
COLUMN = ROWS * CELLS
EMPTY, LEFT = 0, -1
"""Digests of rows that nobody ever had, and that nobody has any more."""
BYTES = (HEAD + COLUMNS * COLUMN) * CELL_BYTES

if TYPE_CHECKING:
    from madang.ports import Clock
    from madang.traffic.abreast import JointDesk

_ROW = struct.Struct("@6q")
_NUMBERS = struct.Struct("@5q")
"""Native, so that each number is written whole."""

LOOK_S = 0.1
"""So often it is looked who has died."""
BUSY_S, IDLE_S = 0.005, 0.02
"""So often what others have under way is looked at, while somebody waits here and while nobody."""

Alive = Callable[[int, int], bool]
"""(pid, start) -> whether that very process lives."""


def start_of(pid: int) -> int:
    """Return when a process started, in ticks since the machine did; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in {b"Z", b"X"} else int(fields[19])


def lives(pid: int, start: int) -> bool:
    """Tell whether that very process lives."""
    return start_of(pid) == start


def digest_of(name: str) -> int:
    """Return what a name's row is known by; above 0."""
    said = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(said, digest_size=7).digest()) + 1


class Columns:
    """The table as one process sees it; `processes` is how many there are to be."""

    def __init__(self, folder: Path, processes: int) -> None:
        self.processes = processes
        self._folder = folder
        lock = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(folder / "processes.lock", lock, 0o600)
        with self._locked():
            self._file = self._join()
        self.map = mmap.mmap(self._file, BYTES)
        self.cells = memoryview(self.map).cast("q")
        self.own = -1
        """Where our column begins, in cells; -1: none is ours yet."""
        self._generation = -1
        self._others: tuple[int, ...] = ()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _join(self) -> int:
        """Open the memory of those who live, or make one; and be somebody it is found through."""
        known = self._folder / "processes.open"
        living, file = [], -1
        for pid, start, fd in _read(known):
            if not lives(pid, start):
                continue
            living.append((pid, start, fd))
            if file < 0:
                try:
                    file = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
                except OSError as error:
                    cause = error.strerror or str(error)
                    raise Unavailable("gateway.apart", str(pid), cause=cause) from error
        if file < 0:
            file = os.memfd_create("madang-gateway", os.MFD_CLOEXEC)
            os.ftruncate(file, BYTES)
        living.append((os.getpid(), start_of(os.getpid()), file))
        fresh = known.with_suffix(".part")
        fresh.write_text("".join(f"{pid} {start} {fd}\n" for pid, start, fd in living), "ascii")
        fresh.replace(known)
        return file

    def claim(self, now: float, alive: Alive = lives) -> bool:
        """Take a free column for this process; False: none is free yet."""
        with self._locked():
            self._bury(now, alive)
            for number in range(COLUMNS):
                mark = OWNERS + 2 * number
                if not self.cells[mark]:
                    at = HEAD + number * COLUMN
                    if self.cells[mark + 1]:  # somebody had it before
                        self.cells[at : at + COLUMN] = memoryview(bytes(COLUMN * 8)).cast("q")
                    self.cells[mark + 1] = start_of(os.getpid())
                    self.cells[mark] = os.getpid()
                    self.own = at
                    self.cells[GENERATION] += 1
                    return True
        return False

    def bury(self, now: float, alive: Alive = lives) -> None:
        """End what the dead had under way, and free columns whose minute is over."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another does it
        try:
            self._bury(now, alive)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _bury(self, now: float, alive: Alive) -> None:
        for number in range(COLUMNS):
            mark, at = OWNERS + 2 * number, HEAD + number * COLUMN
            pid, start = self.cells[mark], self.cells[mark + 1]
            if not pid or at == self.own or alive(pid, start):
                continue
            newest = 0
            for row in range(at, at + COLUMN, CELLS):
                if self.cells[row] > EMPTY:
                    self.cells[row + LIVE] = self.cells[row + LIVE + 1] = 0
                    newest = max(newest, self.cells[row + 1])
            if int(now) - newest >= WINDOW_SLOTS:
                self.cells[mark] = 0  # its start stays: a sign that rows are to be emptied
                self.cells[GENERATION] += 1

    def pids(self) -> list[int]:
        """Return the processes that have, or had, a column: all of this gateway that may listen."""
        found = (self.cells[OWNERS + 2 * each] for each in range(COLUMNS))
        return [pid for pid in found if pid]

    def others(self) -> tuple[int, ...]:
        """Return where the columns of all others begin, dead or alive."""
        if self.cells[GENERATION] != self._generation:
            self._generation = self.cells[GENERATION]
            ats = (HEAD + each * COLUMN for each in range(COLUMNS) if self.cells[OWNERS + 2 * each])
            self._others = tuple(at for at in ats if at != self.own)
        return self._others

    def seat(self, name: str) -> Seat | None:
        """Begin a row for a name; None: there is no room left for one."""
        digest = digest_of(name)
        row = self.find(self.own, digest)
        if row < 0 and (row := self._room(digest)) >= 0:
            _NUMBERS.pack_into(self.map, (row + 1) * CELL_BYTES, 0, 0, 0, 0, 0)
            self.cells[row] = digest
        return Seat(self, digest, row) if row >= 0 else None

    def find(self, at: int, digest: int) -> int:
        """Return where a name's row is in a column; -1: it has none."""
        for probe in range(PROBES_MAX):
            row = at + (digest + probe) % ROWS * CELLS
            found = self.cells[row]
            if found == digest:
                return row
            if found == EMPTY:
                break
        return -1

    def _room(self, digest: int) -> int:
        """Return where a row may be begun in our column; -1: nowhere."""
        rows = (self.own + (digest + probe) % ROWS * CELLS for probe in range(PROBES_MAX))
        return next((row for row in rows if self.cells[row] <= EMPTY), -1)

    def close(self) -> None:
        """Let go of the memory; the column stays as it is until it is buried."""
        self.cells.release()
        self.map.close()
        os.close(self._file)
        os.close(self._lock)


async def tend(desk: JointDesk, columns: Columns, clock: Clock) -> None:
    """Look after what processes share, for ever: who waits for a turn, and who has died."""
    looked_at = 0.0
    while True:
        now = clock.monotonic()
        is_busy = desk.tend(now)
        if now - looked_at >= LOOK_S:
            looked_at = now
            columns.bury(now)
        await clock.sleep(BUSY_S if is_busy else IDLE_S)


class Seat:
    """One name's row in our column, and where others have theirs."""

    __slots__ = ("_columns", "_digest", "_others", "_place", "_rows")

    def __init__(self, columns: Columns, digest: int, row: int) -> None:
        self._columns, self._digest = columns, digest
        self._place = (row + 1) * CELL_BYTES
        self._others: tuple[int, ...] = ()
        self._rows: list[int] = []

    def tell(self, numbers: Numbers) -> None:
        """Write our numbers, whole ones; the last two are over when this process is."""
        if self._place:
            _NUMBERS.pack_into(self._columns.map, self._place, *numbers)

    def elsewhere(self, second: int) -> Numbers:
        """Return the sums of all others, of the minute that ends with `second`."""
        columns, digest = self._columns, self._digest
        others = columns.others()
        if others is not self._others:
            self._others, self._rows = others, [-1] * len(others)
        newest = first = more = live = last = 0
        for index, at in enumerate(others):
            row = self._rows[index]
            if row < 0 and (row := columns.find(at, digest)) < 0:
                continue
            self._rows[index] = row
            said, when, one, two, three, four = _ROW.unpack_from(columns.map, row * CELL_BYTES)
            if said != digest:
                self._rows[index] = -1
                continue
            if second - when < WINDOW_SLOTS:
                first += one
                more += two
            live += three
            last += four
            newest = max(newest, when)
        return newest, first, more, live, last

    def leave(self) -> None:
        """Give the row up: nobody is to count it any more."""
        if self._place:
            self._columns.cells[self._place // CELL_BYTES - 1] = LEFT
            self._place = 0


def _read(known: Path) -> list[tuple[int, int, int]]:
    """Return pid, start and descriptor of each process that has the memory open, or had."""
    try:
        text = known.read_text("ascii", errors="replace")
    except FileNotFoundError:
        return []
    found = re.findall(r"(?m)^(\d{1,9}) (\d{1,19}) (\d{1,9})$", text)
    return [(int(pid), int(start), int(fd)) for pid, start, fd in found]
