"""What this process has metered: a column of segments, oldest first, each let go once delivered.

Several processes of one home keep their columns in one folder and never touch each other's; who
starts takes over those of the dead, and settles what they left open. Used from one thread.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, groupby, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from msgspec import DecodeError, json

from madang.gateway.segment import Segment, entry_of, line_of
from madang.traffic.account import Closed, Entry, Opened, Passed, Standing
from madang.traffic.table import Usage

SEGMENT_BYTES_MAX = 64 << 20
"""Some 150,000 requests; then the next one is begun."""
SEGMENT_BYTES_MIN = 1 << 16
"""One that control has all of is let go from this size on, if nothing in it is open."""
BYTES_MAX = 1 << 30
"""Of all segments in hand; beyond it the oldest records stay and new ones are counted as lost."""
BATCH_RECORDS_MAX = 500
STEP_ENTRIES = 2_000
"""So many entries are read in one go while others may wait to write; some 10 ms."""
LEGACY = "usage.jsonl"
"""Where earlier versions kept their records, a line of JSON each."""
_NAME = re.compile(r"(usage-\d+-\d+-[0-9a-f]+)\.(\d{6})\.log")

log = logging.getLogger("madang.gateway")


class Bounds(NamedTuple):
    """How large segments become, and all of them together; bytes."""

    segment_max: int = SEGMENT_BYTES_MAX
    all_max: int = BYTES_MAX


class Group(NamedTuple):
    """What one write brings to disk."""

    entries: Sequence[Entry]
    standing: Sequence[Opened]
    """All that was opened before and is open still: carried on into the next segment."""
    passed: Passed
    """How far these are."""


class Batch(NamedTuple):
    """Records for control, and where in which segment they lie."""

    segment: str
    start: int
    end: int
    records: Sequence[Usage]


def column_of(pid: int, boot: str) -> str:
    """Return the name of a process's column: for people by pid and start, for good by `boot`."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return f"usage-{pid}-{int(fields[19])}-{boot}"


def segments_in(folder: Path) -> list[Path]:
    """Return all segments there, each column's in order."""
    return sorted(path for path in folder.glob("usage-*.log") if _NAME.fullmatch(path.name))


class Journal:
    """The segments that control has not wholly taken yet."""

    def __init__(self, folder: Path, column: str, bounds: Bounds = Bounds()) -> None:  # noqa: B008
        self._folder = folder
        self._column = column
        self._bounds = bounds
        self._number = 0
        self._old: deque[Segment] = deque()
        self._own: Segment | None = None
        self._is_open = False
        """Whether something in our newest segment is not closed."""
        self.lost = 0
        """Records refused since the start, for lack of room."""

    @property
    def bytes_kept(self) -> int:
        """How much is in hand."""
        return sum(each.size for each in self._all())

    def _all(self) -> list[Segment]:
        return [*self._old, *([self._own] if self._own else [])]

    def recover(self) -> Iterator[bool]:
        """Take over what dead processes left, and settle what they left open.

        Goes on a step at a time, so that writes come between; may be done again at any time.
        Raises OSError where there was no room to settle all.
        """
        trouble: OSError | None = None
        for _, paths in groupby(segments_in(self._folder), lambda path: path.name.split(".")[0]):
            segments = _taken(list(paths))
            try:
                yield from _settle(segments)
            except OSError as error:
                trouble = error
                for each in segments:
                    each.let_go()
            else:
                self._old.extend(segments)
        with suppress(FileNotFoundError):
            yield from self._adopt(self._folder / LEGACY)
        if trouble:
            raise trouble

    def _adopt(self, legacy: Path) -> Iterator[bool]:
        with legacy.open("rb") as file:
            records = _legacy(file)
            while some := list(islice(records, BATCH_RECORDS_MAX)):
                self.append(Group([Closed(each) for each in some], (), Passed(0.0, ())))
                yield True
        legacy.unlink()

    def append(self, group: Group) -> None:
        """Write a group; returns when it is on disk. OSError: none of it is kept.

        For want of room what is open goes unwritten first, then what is closed, the newest first.
        """
        lines = [(line_of(entry), isinstance(entry, Closed)) for entry in group.entries]
        room = self._bounds.all_max - self.bytes_kept
        if sum(len(line) for line, _ in lines) > room:
            lines = self._fitting([line for line, is_closed in lines if is_closed], room)
        data = b"".join(line for line, _ in lines)
        if not data:
            return
        if self._own is None or self._own.size + len(data) > self._bounds.segment_max:
            self._begin(group)
        assert self._own is not None
        self._own.append(data)
        self._is_open = bool(group.standing) or any(isinstance(e, Opened) for e in group.entries)

    def _fitting(self, lines: list[bytes], room: int) -> list[tuple[bytes, bool]]:
        kept = []
        for line in lines:
            room -= len(line)
            if room < 0:
                break
            kept.append((line, True))
        if count := len(lines) - len(kept):
            self.lost += count
            log.error("no room for usage: %d records lost, %d in all", count, self.lost)
        return kept

    def _begin(self, group: Group) -> None:
        """Begin the next segment with what is open, so that older ones can be let go."""
        self._number += 1
        made = Segment.make(self._folder / f"{self._column}.{self._number:06}.log")
        carried: list[Entry] = [*group.standing]
        if group.passed.tokens:
            carried.append(group.passed)
        if carried:
            try:
                made.append(b"".join(map(line_of, carried)))
            except OSError:
                made.remove()
                raise
        if self._own:
            self._old.append(self._own)
        self._own = made

    def batch(self) -> Batch | None:
        """Return the oldest undelivered records; None when control has all."""
        for segment in self._all():
            while not segment.is_delivered:
                found, end = segment.closed(BATCH_RECORDS_MAX)
                if found:
                    records = [each.usage for each in found]
                    return Batch(segment.name, segment.delivered, end, records)
                segment.delivered = end
        self._release()
        return None

    def delivered(self, name: str, end: int) -> None:
        """Note that control has a segment up to there."""
        for segment in self._all():
            if segment.name == name:
                segment.delivered = max(segment.delivered, min(end, segment.size))
        self._release()

    def _release(self) -> None:
        """Remove what nobody needs any more, the oldest first."""
        while self._old and self._old[0].is_delivered:
            self._old.popleft().remove()
        own = self._own
        if own and own.is_delivered and not self._is_open and own.size >= SEGMENT_BYTES_MIN:
            own.remove()
            self._own = None

    def close(self) -> None:
        """Let go of all files; what control has all of is removed."""
        self._release()
        own = self._own
        if own and own.is_delivered and not self._is_open and not self._old:
            own.remove()
            self._own = None
        for each in self._all():
            each.let_go()


def _taken(paths: list[Path]) -> list[Segment]:
    """Take a whole column; nothing of one that somebody has: its writer, or who was faster."""
    taken: list[Segment] = []
    for path in paths:
        segment = Segment.take(path)
        if segment is None:
            for each in taken:
                each.let_go()
            return []
        taken.append(segment)
    return taken


def _settle(segments: Sequence[Segment]) -> Iterator[bool]:
    """Close what a dead process left open, in its own last segment."""
    standing = Standing()
    for number, entry in enumerate(chain.from_iterable(each.entries() for each in segments), 1):
        standing.read(entry)
        if number % STEP_ENTRIES == 0:
            yield True
    if settled := standing.settled():
        segments[-1].append(b"".join(map(line_of, settled)))
        log.warning("%d requests were open when their gateway died: settled", len(settled))


def _legacy(file: BinaryIO) -> Iterator[Usage]:
    for line in file:
        try:
            yield json.decode(line, type=Usage)
        except (DecodeError, UnicodeDecodeError, RecursionError):
            log.warning("a damaged usage record was passed over: %r", line[:200])


def waiting_in(folder: Path) -> set[str]:
    """Return the ids of all closed accounts in a folder; to be asked while nobody writes there."""
    lines = (line for path in segments_in(folder) for line in path.read_bytes().splitlines(True))
    entries = map(entry_of, lines)
    return {entry.usage.id for entry in entries if isinstance(entry, Closed)}
