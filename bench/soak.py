"""Half an hour of an ordinary day: memory and open files stay, and every answer is counted."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from madang.testing.soak import PARTS, soak
from rows import Row

MINUTES = 30.0
WARM_S_MAX = 300.0
FILES_GROWN_MAX = 8.0


def run(minutes: float = MINUTES) -> list[Row]:
    """Return the rows; slopes are of each process after its first minutes."""
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(Path(folder), minutes)
    for each in seen.wrong:
        print(f"soak: {each}", file=sys.stderr)
    warm_s = min(WARM_S_MAX, minutes * 60 / 12)
    rows = [
        Row("soak: length", minutes, "min", lower_is_better=False),
        Row("soak: answered", seen.answered, "requests", lower_is_better=False),
        Row("soak: told that their engine died", seen.refused, "requests"),
        Row("soak: requests without an answer", seen.unanswered, "", 0.0, 0.0),
        Row("soak: control and engines killed", sum(seen.kills.values()), "kills"),
        Row("soak: answers lost to the account, and other wrongs", len(seen.wrong), "", 0.0, 0.0),
    ]
    for part in PARTS:
        slope = seen.slope_percent_per_h(part, warm_s)
        first_mb, most_mb = seen.rss_mb(part)
        grown = seen.files_grown(part, warm_s)
        rows += [
            Row(f"soak: {part}, memory's slope after {warm_s:g} s", round(slope, 2), "%/h", None,
                1.0),
            Row(f"soak: {part}, resident at first", round(first_mb, 1), "MB"),
            Row(f"soak: {part}, resident at most", round(most_mb, 1), "MB"),
            Row(f"soak: {part}, open files grown", round(grown, 1), "files", FILES_GROWN_MAX),
        ]  # fmt: skip
    return rows
