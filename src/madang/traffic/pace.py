"""How fast a replica reads, by how long its answers took: streams, and those that came whole.

The first piece of a stream tells when its prompt was read. An answer that comes whole tells only
when all of it was written, and mostly it is the writing that took long. So each answer is one
equation: so many tokens read, and so many written, took so long. All of them together tell both
apart, by least squares, as long as not all answers are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

MEMORY = 0.98
"""What an observation weighs after one more."""
OTHERS = 0.25
"""What all replicas show together of how long writing takes counts for each as this part of an

average one.
"""
DOUBT = 0.01
"""Where answers are too much alike to tell, what took long is taken for reading: as if so small a

part of what was written had taken no time.
"""
READING_LEAST = 0.1
"""Of the time of answers, what at least was reading."""


class Pace:
    """What was seen of one replica, as sums in which late answers count more."""

    def __init__(self) -> None:
        self.read = 0.0
        """Tokens that were read until an answer, or its first piece, came."""
        self.written = 0.0
        """Tokens that were written by then; of streams none."""
        self.took_s = 0.0
        self._read_read = 0.0
        self._read_written = 0.0
        self._written_written = 0.0
        self._read_took = 0.0
        self._written_took = 0.0

    def note(self, read: float, written: float, took_s: float) -> None:
        """Take in one answer, or the first piece of one; above 0 tokens read, and seconds."""
        self.read = self.read * MEMORY + read
        self.written = self.written * MEMORY + written
        self.took_s = self.took_s * MEMORY + took_s
        self._read_read = self._read_read * MEMORY + read * read
        self._read_written = self._read_written * MEMORY + read * written
        self._written_written = self._written_written * MEMORY + written * written
        self._read_took = self._read_took * MEMORY + read * took_s
        self._written_took = self._written_took * MEMORY + written * took_s

    def writing(self) -> tuple[float, float]:
        """Return two sums, the first over the second: the seconds of a token that is written.

        Those of the normal equations of two unknowns, once that of a token read is put in.
        """
        if not self._written_written:
            return 0.0, 0.0
        slope = self._read_written / self._read_read
        alone = self._written_written - slope * self._read_written
        return (
            self._written_took - slope * self._read_took,
            max(0.0, alone) + DOUBT * self._written_written,
        )


def reading_s(paces: Sequence[Pace]) -> list[float]:
    """Return of each, replicas of one endpoint, what of the seconds that it took it has read."""
    shown = [each.writing() for each in paces]
    part = OTHERS / max(1, len(shown))
    took_s = part * sum([each[0] for each in shown], 0.0)
    tokens = part * sum([each[1] for each in shown], 0.0)
    if not tokens:
        return [each.took_s for each in paces]
    return [
        max(
            each.took_s - each.written * max(0.0, (own_s + took_s) / (own + tokens)),
            READING_LEAST * each.took_s,
        )
        for each, (own_s, own) in zip(paces, shown, strict=True)
    ]
