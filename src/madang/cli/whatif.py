"""`madang twin whatif`: what would start, wait, be gained and lost if nodes came or went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from madang.answers import Json
from madang.cli.explain import lines
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import note, phase, say, show_json, size, table, tell
from madang.cli.record import text_now

NAMES_SHOWN = 5
NONE = "–"
ACCELERATORS = (
    "column.kind", "column.memory", "column.before", "column.after", "column.watts-before",
    "column.watts-after",
)  # fmt: skip
NO_MORE = {"because": (), "next_try": None, "last_lines": ()}
Many = Annotated[list[str] | None, Parameter(negative=())]


def whatif(
    *, snapshot: str = "", add: Many = None, remove: Many = None, remove_site: Many = None,
    options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Say what would start, wait, be gained, lost and drawn if nodes came or went.

    Nothing is changed. The snapshot is planned for with and without the change by the code that
    control runs, in a world where every order succeeds, until nothing is left to plan.

    Parameters
    ----------
    snapshot
        A file of madang twin record; without it, what control sees now.
    add
        COUNTxKIND[:PER_NODE][=MEMORY]@SITE[/POOL], as 8xh100@seoul: so many accelerators, on nodes
        like one that is there; or 2xh100:8@seoul, two nodes with eight. Again for more.
    remove
        A node that goes. Again for more.
    remove_site
        A site all of whose nodes go. Again for more.
    """
    from madang.twin.record import opened, read
    from madang.twin.whatif import Asked
    from madang.twin.whatif import whatif as ask

    asked = Asked(tuple(add or ()), tuple(remove or ()), tuple(remove_site or ()))
    kept = opened(snapshot) if snapshot else read(text_now(options), "snapshot")
    answer = ask(kept.snapshot, asked)
    if options.json:
        show_json(answer)
        return
    if answer["assumed_in_sight"]:
        note("twin.assumed")
    _show_change(answer)
    _show_deeds(answer)
    _show_services(answer["services"])
    _show_accelerators(answer)


def _show_change(answer: Json) -> None:
    for each in answer["added"]:
        tell("twin.comes", **{**each, "nodes": _few(each["nodes"])})
    if answer["removed"]:
        tell("twin.goes", nodes=_few(answer["removed"]))
    say()


def _show_deeds(answer: Json) -> None:
    for code, what in (("twin.starts", "starts"), ("twin.moves", "moves")):
        for each in answer[what]:
            tell(code, **{**each, "nodes": _few(each["nodes"])})
    for each in answer["waits"]:
        tell("twin.waits", **each)
        why: Any = {"subject": each["service"], **NO_MORE, **each}
        for line in lines(why) if each["reason"] else [phase(each["phase"])]:
            say("  ", line)
    if not answer["waits"]:
        tell("twin.nothing-waits")


def _show_services(services: Sequence[Json]) -> None:
    changed = [row for row in services if row["before"] != row["after"]]
    if not changed:
        tell("twin.no-difference")
        return
    say()
    head = ("column.project", "column.service", "column.wanted", "column.before", "column.after")
    table(head, [list(row.values()) for row in changed])


def _show_accelerators(answer: Json) -> None:
    say()
    table(ACCELERATORS, [[row["kind"], size(row["memory_bytes"]), *_used(row)]
                         for row in answer["accelerators"]])  # fmt: skip
    watts = answer["watts"]
    if len(watts["no_figure"]) < len(answer["accelerators"]):
        tell("twin.draws", before=f"{watts['before']:,.0f}", after=f"{watts['after']:,.0f}")
    if watts["no_figure"]:
        tell("twin.no-figure", kinds=", ".join(watts["no_figure"]))


def _used(row: Json) -> Iterator[str]:
    yield from (f"{row[when]['used']}/{row[when]['total']}" for when in ("before", "after"))
    for drawn in (row["watts_before"], row["watts_after"]):
        yield NONE if drawn is None else f"{drawn:,.0f}"


def _few(names: Sequence[str]) -> str:
    """Write some names, the first of many.

    >>> _few(["a", "b"]), _few(list("abcdefg"))
    ('a, b', 'a, b, c, d, e, … (7)')
    """
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown}, … ({len(names)})"
