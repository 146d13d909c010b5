"""All that waits and all that runs, as arrays, who came first in front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Line:
    """Jobs that could run now, one entry each in every array: in the order in which they came."""

    project: Ints
    """Index of its project."""
    size: Ints
    """Accelerators it holds, all or none of them."""
    ran_s: Floats
    """Work done so far: seconds it ran, less what was lost."""
    waited_s: Floats
    """Seconds it waited in all, before its first start and between any two."""
    unsaved: Floats
    """Work since its last checkpoint, as a part of what should lie between two: 0 to 1, and above
    where it has not saved when it should."""
    runs: Bools
    fixed: Bools
    """Runs, and may not be asked to make room: it was too often of late, or the last time before it
    had saved anything, and has saved nothing since. So no two chase each other to and fro."""
    height: Ints
    """Its priority class: what is higher goes first among the jobs of its project."""
    between_s: Floats = field(default_factory=lambda: np.zeros(1))
    """Seconds of work from one checkpoint to the next; an entry each, or one for all: 0 where
    nobody knows of any."""

    @property
    def loses_s(self) -> Floats:
        """Return the seconds of work that each would lose if it stopped now."""
        return self.unsaved * self.between_s

    @property
    def saves_s(self) -> Floats:
        """Return in how many seconds each saves next; infinite where that is not known, or late."""
        return np.where(self.unsaved < 1, (1 - self.unsaved) * self.between_s, np.inf)

    def __len__(self) -> int:
        return len(self.project)

    def demand(self, projects: int, who: Bools | Ints | slice = slice(None)) -> Floats:
        """Return the accelerators that each project could use now, or these of its jobs."""
        out: Floats = np.zeros(projects)
        np.add.at(out, self.project[who], self.size[who])
        return out


def by_coming(came_s: Sequence[float], names: Sequence[str]) -> list[int]:
    """Return who came first in front, by name where two came at once: the order of a `Line`.

    >>> by_coming([3.0, 1.0, 1.0], ["a", "c", "b"])
    [2, 1, 0]
    """
    return sorted(range(len(names)), key=lambda i: (came_s[i], names[i]))
