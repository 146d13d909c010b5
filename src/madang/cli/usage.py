"""`madang usage`: what projects had of accelerators in a month, and used, and what that cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from madang.cli.options import DEFAULTS, Options
from madang.cli.output import say, show_json, table, tell

HOURS_MIN = 0.01
"""Less is not told."""
HEAD = (
    "column.project", "column.kind", "column.held-hours", "column.used-hours",
    "column.idle-hours", "column.used-share", "column.krw", "column.idle-krw",
)  # fmt: skip


def usage(
    *, month: Annotated[str, Parameter(show_default=False)] = "", options: Options = DEFAULTS
) -> None:
    """Show accelerator hours held, used and idle, and what they cost, by project and kind.

    Parameters
    ----------
    month
        As 2026-11, of Korea [default: the one that it is].
    """
    with options.client() as client:
        found = client.usage(options.project, month)
    if options.json:
        show_json(found)
        return
    rows = [row for item in found["items"] for row in _rows(item)]
    tell("usage.month", month=found["month"])
    if not rows:
        tell("usage.none")
        return
    table(HEAD, rows)
    if any(item["unmeasured_h"] >= HOURS_MIN for item in found["items"]):
        tell("usage.unmeasured", hours=sum(item["unmeasured_h"] for item in found["items"]))
    lost = [item for item in found["items"] if item["lost_h"] >= HOURS_MIN]
    if lost:
        say()
    for item in lost:
        tell("usage.lost", project=item["project"], hours=round(item["lost_h"], 2),
             percent=round(100 * (item["goodput"] or 0.0), 1))  # fmt: skip


def _rows(item: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Give a row for each kind, and one for all where there are more."""
    for kind in item["kinds"]:
        yield _row(item["project"], kind)
    if len(item["kinds"]) > 1:
        yield _row(item["project"], {**item, "accelerator": "*"})


def _row(project: str, use: Mapping[str, Any]) -> tuple[str, ...]:
    is_known = use["used"] is not None and use["used_h"] + use["idle_h"] >= HOURS_MIN
    share = f"{100 * use['used']:.1f} %" if is_known else "–"
    hours = (f"{use[name]:,.2f}" for name in ("held_h", "used_h", "idle_h"))
    return (project, use["accelerator"], *hours, share, _won(use["krw"]), _won(use["idle_krw"]))


def _won(krw: int) -> str:
    return f"{krw:,}" if krw else ""
