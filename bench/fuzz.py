"""Fifty thousand mutants of requests, read by our gateway and by h11: never in two ways."""

from __future__ import annotations

import sys

from madang.testing.fuzz import SEEDS, compare, mutants
from rows import Row, write

COUNT = 50_000
SEED = 20261127


def run(count: int = COUNT, number: int = SEED) -> list[Row]:
    """Return what came of it; each difference is printed whole."""
    told = compare(mutants(count, number))
    for said in told.differences:
        print(f"read in two ways: {said!r}", file=sys.stderr)
    again = compare(mutants(count, number), behind=SEEDS[0])
    for said in again.differences:
        print(f"read in two ways behind another: {said!r}", file=sys.stderr)
    return [
        Row("fuzz: mutants read by us and by h11 0.16", told.cases, "requests"),
        Row("fuzz: read alike", told.same, "requests"),
        Row("fuzz: read by h11, refused by us", told.stricter, "requests"),
        Row("fuzz: read in two ways", len(told.differences), "requests", 0.0, 0.0),
        Row(
            "fuzz: read in two ways behind a request whose head they may repeat",
            len(again.differences),
            "requests",
            0.0,
            0.0,
        ),
    ]


if __name__ == "__main__":
    write("fuzz", run())
