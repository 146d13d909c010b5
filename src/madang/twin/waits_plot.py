"""A drawing of how policies have jobs wait, as SVG: readable by itself, with nothing from outside.

Left, the part of the jobs that waited at most so long, from a minute on, ten times as long at each
mark. Right, a dot for each policy: the mean time to the end, and how much of its share the project
went short of that lost most. Nearer to the lower left corner is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from math import ceil, log10

import numpy as np

from madang.answers import Json
from madang.planning.share.line import Floats
from madang.twin.plot import EDGE, HEIGHT, INKS, WIDTH, page

SIDE = WIDTH - 2 * EDGE
LEAST_H = 1 / 60
MARKS = ((1 / 60, "1 min"), (1 / 6, "10 min"), (1.0, "1 h"), (10.0, "10 h"), (100.0, "100 h"),
         (1000.0, "1,000 h"), (10_000.0, "10,000 h"))  # fmt: skip
POINTS = 200
GRID = "#ddd"
LOW, HIGH = HEIGHT - EDGE, EDGE
"""Where what is drawn ends, above and below."""


def draw(waits_h: Mapping[str, Floats], figures: Mapping[str, Json], heads: tuple[str, str]) -> str:
    """Draw the sorted waits of each policy, and its figures, under these two headings."""
    parts = [*_curves(waits_h, EDGE), *_dots(figures, EDGE + WIDTH)]
    for head, left in zip(heads, (EDGE, EDGE + WIDTH), strict=True):
        parts.append(f'<text x="{left}" y="{HIGH - 24}">{escape(head)}</text>')
    return page(parts, 2 * WIDTH, HEIGHT)


def _curves(waits_h: Mapping[str, Floats], left: int) -> Iterator[str]:
    longest = max((float(waits[-1]) for waits in waits_h.values()), default=1.0)
    last = next((hours for hours, _ in MARKS if hours >= longest), MARKS[-1][0])
    width = log10(max(last, 1.0) / LEAST_H)

    def x(hours: float) -> float:
        return left + log10(hours / LEAST_H) / width * SIDE

    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield _across(left, LOW - part * (LOW - HIGH), f"{100 * part:.0f} %")
    for hours, name in MARKS:
        if hours <= max(last, 1.0):
            yield _below(x(hours), name)
    at = np.geomspace(LEAST_H, max(last, 1.0), POINTS)
    for number, (policy, waits) in enumerate(waits_h.items()):
        parts = np.searchsorted(waits, at, side="right") / len(waits)
        line = " ".join(
            f"{x(hours):.1f},{LOW - part * (LOW - HIGH):.1f}"
            for hours, part in zip(at.tolist(), parts.tolist(), strict=True)
        )
        ink = INKS[number % len(INKS)]
        yield f'<polyline points="{line}" fill="none" stroke="{ink}" stroke-width="2"/>'
        yield _name(left + SIDE - 80, LOW - 16 * (len(waits_h) - number), policy, ink)


def _dots(figures: Mapping[str, Json], left: int) -> Iterator[str]:
    most_h = _round_up(max((f["mean_jct_h"] for f in figures.values()), default=1.0))
    worst = _round_up(max((f["worst_project"] for f in figures.values()), default=0.1))
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield _across(left, LOW - part * (LOW - HIGH), f"{part * worst:.3g}")
        yield _below(left + part * SIDE, f"{part * most_h:.3g} h")
    for number, (policy, found) in enumerate(figures.items()):
        x = left + found["mean_jct_h"] / most_h * SIDE
        y = LOW - found["worst_project"] / worst * (LOW - HIGH)
        ink = INKS[number % len(INKS)]
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{ink}"/>'
        yield _name(x + 9, y + 4, policy, ink)


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 8 and their tenfolds, so that marks are short.

    >>> [_round_up(value) for value in (0.118, 3.0, 63.4)]
    [0.2, 4.0, 80.0]
    """
    if value <= 0:
        return 1.0
    ten = 10.0 ** (ceil(log10(value)) - 1)
    return next(round(step * ten, 9) for step in (1, 2, 4, 8, 10) if step * ten >= value * 0.999999)


def _across(left: float, y: float, name: str) -> str:
    return (
        f'<line x1="{left}" y1="{y:.1f}" x2="{left + SIDE}" y2="{y:.1f}" stroke="{GRID}"/>'
        f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
    )


def _below(x: float, name: str) -> str:
    return (
        f'<line x1="{x:.1f}" y1="{HIGH}" x2="{x:.1f}" y2="{LOW}" stroke="{GRID}"/>'
        f'<text x="{x:.1f}" y="{LOW + 18}" text-anchor="middle">{name}</text>'
    )


def _name(x: float, y: float, policy: str, ink: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}">{escape(policy)}</text>'
