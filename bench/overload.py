"""Overload: four times what the replicas can do, for a minute, against a real gateway."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from madang.testing.flood import TIMES, flood
from rows import Row, write

SECONDS = 60.0


def run(seconds: float = SECONDS) -> list[Row]:
    """Return the rows of one flood; ratios compare within it."""
    with tempfile.TemporaryDirectory() as folder:
        seen = flood(Path(folder), seconds)
    ratio = seen.goodput_per_s / seen.peak_per_s
    over_ms = (seen.refused_p99_s - seen.idle_refused_p99_s) * 1000
    odd = sum(seen.other.values())
    if odd or seen.held_back:
        print(f"overload: unexpected {seen.other}, held back {seen.held_back}", file=sys.stderr)
    at = f"at {TIMES:g} x peak for {seconds:g} s"
    return [
        Row("overload: peak goodput", round(seen.peak_per_s, 1), "answers/s"),
        Row(f"overload: offered, {at}", round(seen.sent_per_s, 1), "requests/s"),
        Row(f"overload: goodput to peak, {at}", round(ratio, 3), "", 0.9, 0.98,
            lower_is_better=False),
        Row("overload: a no, p50", round(seen.refused_p50_s * 1000, 1), "ms"),
        Row("overload: a no, p99", round(seen.refused_p99_s * 1000, 1), "ms", 50.0),
        Row("overload: a no at idle, p99", round(seen.idle_refused_p99_s * 1000, 1), "ms"),
        Row("overload: a no, p99 over that at idle", round(over_ms, 1), "ms"),
        Row("overload: a yes, p99", round(seen.answered_p99_s, 2), "s"),
        Row("overload: refused, the line being full", seen.refused, "requests"),
        Row("overload: waited too long", seen.expired, "requests"),
        Row("overload: most in line", seen.in_line, "requests", seen.in_line_max),
        Row("overload: most at one engine", seen.at_engine, "requests", seen.at_engine_max),
        Row("overload: normal again after", seen.normal_after_s, "s", 10.0),
        Row("overload: requests without an answer", seen.unanswered, "", 0.0, 0.0),
        Row("overload: answers of another kind", odd, "", 0.0, 0.0),
    ]  # fmt: skip


def main() -> None:
    """Run it by itself: `make bench-overload`."""
    write("overload", run())


if __name__ == "__main__":
    main()
