"""A drawing of allocation by load, as SVG: readable by itself, with nothing from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from madang.errors import Rejected

WIDTH, HEIGHT, EDGE = 720, 440, 56
INKS = ("#0b5fff", "#d1495b", "#2e8540", "#edae49", "#6f4e7c", "#00798c", "#7a7a7a")


At = Callable[[float, float], str]
"""Where a load and a value lie, as `x,y`."""


def draw(curves: Mapping[str, Mapping[int, float]]) -> str:
    """Draw lines of percent allocated by percent asked for, the upper half where they part."""
    points = [(load, value) for curve in curves.values() for load, value in curve.items()]
    right = max((load for load, _ in points), default=100)
    low = min((value for load, value in points if load >= right // 2), default=0.0)
    floor = max(0, int(low) // 5 * 5 - 5)
    left = right // 2

    def at(load: float, value: float) -> str:
        x = EDGE + (load - left) / max(1, right - left) * (WIDTH - 2 * EDGE)
        y = HEIGHT - EDGE - (value - floor) / (100 - floor) * (HEIGHT - 2 * EDGE)
        return f"{x:.1f},{y:.1f}"

    parts = [
        *(_rule(at, left, right, value) for value in range(floor, 101, 5)),
        *(_mark(at, load, floor) for load in range(left, right + 1, 10)),
    ]
    for i, (name, curve) in enumerate(curves.items()):
        ink = INKS[i % len(INKS)]
        line = " ".join(at(load, value) for load, value in sorted(curve.items()) if load >= left)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{ink}" stroke-width="2"/>')
        y = EDGE + 16 * i
        parts.append(f'<text x="{EDGE + 10}" y="{y}" fill="{ink}">{escape(name)}</text>')
    return page(parts, WIDTH, HEIGHT)


def page(parts: Sequence[str], width: int, height: int) -> str:
    """Return a drawing of these parts."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    )
    return "\n".join([*head, *parts, "</g>", "</svg>", ""])


def _rule(at: At, left: int, right: int, value: int) -> str:
    (x1, y), (x2, _) = (at(load, value).split(",") for load in (left, right))
    return (
        f'<line x1="{x1}" y1="{y}" x2="{x2}" y2="{y}" stroke="#ddd"/>'
        f'<text x="{EDGE - 8}" y="{y}" text-anchor="end">{value} %</text>'
    )


def _mark(at: At, load: int, floor: int) -> str:
    x, y = at(load, floor).split(",")
    return f'<text x="{x}" y="{float(y) + 18:.1f}" text-anchor="middle">{load} %</text>'


def check_place(file: str) -> None:
    """Refuse a place where nothing can be written, before a long replay; nothing is changed there.

    Raises `Rejected`.
    """
    path = Path(file).expanduser()
    try:
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise Rejected("twin.unwritable", subject=file, cause=str(error)) from None


def save(file: str, text: str) -> None:
    """Write a drawing into a file, over what was there."""
    try:
        Path(file).expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise Rejected("twin.unwritable", subject=file, cause=str(error)) from None
