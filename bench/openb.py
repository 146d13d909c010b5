"""The public trace that the benches of placement replay, as it lies in `traces/openb`."""

from __future__ import annotations

import gzip
from pathlib import Path

TRACES = Path(__file__).parent / "traces" / "openb"


def opened(name: str) -> list[str]:
    """Return the lines of one of its files."""
    with gzip.open(TRACES / f"openb_{name}.csv.gz", "rt", encoding="utf-8") as lines:
        return list(lines)
