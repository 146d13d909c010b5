"""`madang twin whatif`: what would start, wait, be gained and lost if nodes came or went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from madang.answers import Json
from madang.cli.documents import blame
from madang.cli.documents import read as documents
from madang.cli.explain import lines
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import note, phase, say, show_json, size, span, table, tell, word
from madang.cli.record import text_now
from madang.errors import MadangError
from madang.resources.manifest import Manifest

NAMES_SHOWN = 5
NONE = "–"
ACCELERATORS = (
    "column.kind", "column.memory", "column.before", "column.after", "column.watts-before",
    "column.watts-after",
)  # fmt: skip
NO_MORE = {"because": (), "next_try": None, "last_lines": ()}
Many = Annotated[list[str] | None, Parameter(negative=())]


QUEUES = (
    "column.queue", "column.project", "column.weight", "column.entitled", "column.held",
    "column.in-line", "column.would-start",
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes that come and go."""

    add: Many = None
    """COUNTxKIND[:PER_NODE][=MEMORY]@SITE[/POOL], as 8xh100@seoul: so many accelerators, on nodes
    like one that is there; or 2xh100:8@seoul, two nodes with eight. Again for more."""
    remove: Many = None
    """A node that goes. Again for more."""
    remove_site: Many = None
    """A site all of whose nodes go. Again for more."""


NODES = Nodes()


def whatif(
    *, snapshot: str = "", nodes: Nodes = NODES, weight: Many = None, grant: Many = None,
    options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Say what would start, wait, be gained and lost if nodes, weights or grants were others.

    Nothing is changed. The snapshot is planned for with and without the change by the code that
    control runs, in a world where every order succeeds, until nothing is left to plan.

    Parameters
    ----------
    snapshot
        A file of madang twin record; without it, what control sees now.
    weight
        PROJECT=WEIGHT: a project that counts for so much beside the others. Again for more.
    grant
        A file of grants: as if they were given, with all they ask for. Again for more.
    """
    from madang.twin.record import opened, read
    from madang.twin.whatif import Asked
    from madang.twin.whatif import whatif as ask

    wanted = tuple(each for file in grant or () for each in _grants(file, options.project))
    asked = Asked(
        tuple(nodes.add or ()), tuple(nodes.remove or ()), tuple(nodes.remove_site or ()),
        tuple(weight or ()), wanted,
    )  # fmt: skip
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
    _show_jobs(answer["jobs"])
    _show_queues(answer["queues"])
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


def _grants(file: str, project: str) -> list[Manifest]:
    """Read the grants of a file."""
    from madang.resources.manifest import read

    found = []
    for document in documents(file):
        try:
            found.append(read(document.value, project))
        except MadangError as error:
            blame(error, [document])
            raise
    return found


def _show_jobs(rows: Sequence[Json]) -> None:
    for code, is_on in (("twin.job-starts", True), ("twin.job-makes-room", False)):
        named = [f"{row['project']} {row['job']}" for row in rows if row["after"] is is_on]
        if named:
            tell(code, count=len(named), jobs=_few(named))


def _show_queues(rows: Sequence[Json]) -> None:
    told = [row for row in rows if row["waiting_before"] or row["waiting_after"]]
    if told:
        say()
        table(QUEUES, [_queue(row) for row in told])


def _queue(row: Json) -> list[str]:
    """Return a project in a queue: what was and what would be, where that differs."""
    cells = [row["kind"], row["project"]]
    for name in ("weight", "entitled", "held", "waiting"):
        one, other = f"{row[name + '_before']:g}", f"{row[name + '_after']:g}"
        cells.append(one if one == other else f"{one} -> {other}")
    starts = [_in(row[f"start_s_{when}"], row[f"waiting_{when}"]) for when in ("before", "after")]
    return [*cells, starts[0] if starts[0] == starts[1] else " -> ".join(starts)]


def _in(start_s: float | None, waiting: int) -> str:
    """Write in how long those who wait would start, in the mean."""
    if not waiting:
        return NONE
    return word("twin.start-unseen") if start_s is None else span(start_s)


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
