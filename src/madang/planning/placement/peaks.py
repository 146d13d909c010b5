"""A matrix whose columns change one by one, and the first largest entry of a row in part of it.

Columns lie in blocks, and each row knows its largest entry of each block. A new column that is
larger raises it; one that was the largest and falls only marks its block, which is looked through
when somebody asks that row. So an answer costs the number of blocks, not that of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK = 256
"""Columns of a block: with a hundred thousand columns, about as many blocks."""
FEW = 16
"""Marked blocks that are looked through one by one; more of them, all at once."""


class Peaks:
    """Of the matrix [rows, columns], cut at the given slices, which leave nothing out."""

    def __init__(self, matrix: Floats, slices: Sequence[slice]) -> None:
        self._matrix = matrix
        cut = [range(part.start, part.stop, BLOCK) for part in slices]
        self._starts = np.array([start for part in cut for start in part], np.int64)
        ends = [min(start + BLOCK, s.stop) for s, c in zip(slices, cut, strict=True) for start in c]
        self._ranges = [slice(int(a), b) for a, b in zip(self._starts, ends, strict=True)]
        edges = np.cumsum([0, *map(len, cut)])
        self._parts = [slice(int(a), int(b)) for a, b in pairwise(edges)]
        width = [block.stop - block.start for block in self._ranges]
        self._block_of = np.repeat(np.arange(len(width)), width)
        self._most = np.maximum.reduceat(matrix, self._starts, axis=1) if width else matrix
        self._marked = np.zeros(self._most.shape, np.bool_)

    def rewrite(self, at: int, old: Floats, new: Floats) -> None:
        """Let a column of the matrix that was `old` be `new`."""
        block = self._block_of[at]
        most = self._most[:, block]
        self._marked[:, block] |= (old == most) & (new < old)
        np.maximum(most, new, out=most)
        self._matrix[:, at] = new

    def highest(self, row: int) -> list[tuple[float, int]]:
        """Return for each slice the largest entry of a row, and its block."""
        most, marked = self._most[row], self._marked[row]
        where = marked.nonzero()[0]
        if len(where) > FEW:
            most[:] = np.maximum.reduceat(self._matrix[row], self._starts)
        else:
            for block in where:
                most[block] = self._matrix[row, self._ranges[block]].max()
        marked[where] = False
        blocks = [part.start + int(most[part].argmax()) for part in self._parts]
        return [(float(most[block]), block) for block in blocks]

    def first(self, row: int, block: int) -> int:
        """Return the first column of a block that has the row's largest entry there."""
        part = self._ranges[block]
        return part.start + int(self._matrix[row, part].argmax())
