"""`madang usage`: what projects had of accelerators and used of models, and what that cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from csv import writer
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from madang.cli.options import DEFAULTS, Options
from madang.cli.output import say, show_json, table, tell

HOURS_MIN = 0.01
"""Less is not told."""
HEAD = (
    "column.project", "column.kind", "column.held-hours", "column.used-hours",
    "column.idle-hours", "column.used-share", "column.krw", "column.idle-krw",
)  # fmt: skip


TOKENS = (
    "column.requests", "column.prompt-tokens", "column.cached-tokens", "column.output-tokens",
    "column.krw", "column.wh",
)  # fmt: skip
COUNTS = ("requests", "estimated", "prompt_tokens", "cached_tokens", "output_tokens")
By = Literal["day", "model", "key"]
BY: Mapping[By, str] = {"day": "column.day", "model": "column.model", "key": "column.key"}


def usage(
    *,
    month: Annotated[str, Parameter(show_default=False)] = "",
    by: By = "model",
    csv: bool = False,
    options: Options = DEFAULTS,
) -> None:
    """Show accelerator hours held, used and idle, and tokens used, and what they cost.

    Parameters
    ----------
    month
        As 2026-11, of Korea [default: the one that it is].
    by
        What tokens are added up by, beside the project that pays.
    csv
        Print the tokens alone, as comma-separated values.
    """
    with options.client() as client:
        found = client.usage(options.project, month, by)
    if options.json:
        show_json(found)
        return
    if csv:
        _sheet(found["tokens"], by)
        return
    _accelerators(found)
    _tokens(found, by)
    _prices(found["prices"])


def _sheet(tokens: Sequence[Mapping[str, Any]], by: By) -> None:
    """Print each line as it is, money to the millionth of a won."""
    names = ("project", by, *(("key_uid",) if by == "key" else ()), *COUNTS)
    sheet = writer(sys.stdout, lineterminator="\n")
    sheet.writerow((*names, "krw", "wh"))
    for line in tokens:
        amounts = (f"{line[name]:.6f}" for name in ("krw", "wh"))
        sheet.writerow((*(line[name] for name in names), *amounts))


def _prices(prices: Sequence[Mapping[str, Any]]) -> None:
    """Say what tokens of each service cost now and where that comes from, and what they draw."""
    for each in (each for each in prices if each["krw"]):
        code = "usage.price-derived" if each["is_derived"] else "usage.price-set"
        tell(code, service=f"{each['project']}/{each['name']}", since=each["since"],
             name=f"service/{each['name']}", **each["krw"])  # fmt: skip
    for each in prices:
        for kind in (kind for kind in each["kinds"] if kind["wh"]):
            tell("usage.wh", service=f"{each['project']}/{each['name']}",
                 accelerator=kind["accelerator"], **kind["wh"])  # fmt: skip


def _tokens(found: Mapping[str, Any], by: By) -> None:
    say()
    tell("usage.tokens", month=found["month"])
    lines = found["tokens"]
    if not lines:
        tell("usage.no-tokens")
        return
    rows = [(line["project"], line[by], *_counts(line)) for line in lines]
    whole = {name: sum(line[name] for line in lines) for name in (*COUNTS, "krw", "wh")}
    table(("column.project", BY[by], *TOKENS), [*rows, ("*", "*", *_counts(whole))])
    if whole["estimated"]:
        tell("usage.estimated", count=whole["estimated"])


def _counts(line: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (line[name] for name in COUNTS if name != "estimated")
    amounts = (f"{line[name]:,.2f}" if line[name] else "" for name in ("krw", "wh"))
    return (*(f"{count:,}" for count in counts), *amounts)


def _accelerators(found: Mapping[str, Any]) -> None:
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
