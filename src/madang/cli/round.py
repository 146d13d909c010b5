"""`madang round`: accelerators given out together: list, explain, close, award, next, burst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cyclopts import App

from madang.answers import Outcome
from madang.cli.kinds import canonical, naming
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import moment, phase, reason, say, show_json, table, tell, word

round = App(name="round", help_format="plaintext")  # noqa: A001 - as the command is called

CALLS = (
    "column.name", "column.phase", "column.kind", "column.accelerators", "column.given-out",
    "column.closes", "column.from", "column.until",
)  # fmt: skip
SECTORS = (
    "column.sector", "column.requests", "column.asked", "column.given-out", "column.floor",
)  # fmt: skip
REQUESTS = (
    "column.rank", "column.grant", "column.line", "column.sector", "column.score", "column.asked",
    "column.given-out", "column.reason",
)  # fmt: skip
MADE = {
    "award": "round.made-award", "again": "round.made-again", "next": "round.made-next",
    "burst": "round.made-burst",
}  # fmt: skip


@round.command(name="list")
def ls(*, options: Options = DEFAULTS) -> None:
    """List the rounds: what is called for, and until when."""
    with options.client() as client:
        found = client.calls()
    if options.json:
        show_json(found)
    elif found:
        table(CALLS, [list(_cells(each)) for each in found])
    else:
        tell("get.none")


def _cells(found: Outcome) -> Iterator[object]:
    spec = found["spec"]
    yield from (found["name"], phase(found["phase"]), spec["accelerator"])
    yield from (found["total"], str(found["given"]), spec["closes"], spec["from"], spec["until"])


@round.command
def explain(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Tell a round: its call, its sums, its decisions worked out again, each request you may see.

    Parameters
    ----------
    name
        The round.
    """
    called = canonical(name)
    with options.client() as client:
        found = client.calls(called)[0]
    show_json(found) if options.json else _show(found)


@round.command
def close(name: str, /, *, note: str = "", options: Options = DEFAULTS) -> None:
    """Take no more requests, before the day on which the clock says so: for operators of the site.

    Parameters
    ----------
    name
        The round.
    note
        Why.
    """
    _act(name, "close", options, text=note)


@round.command
def award(
    name: str, /, *, dry_run: bool = False, again: bool = False, overcommit: bool = False,
    note: str = "", options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Decide about all requests of a closed round, by its rule: for operators of the site.

    Parameters
    ----------
    name
        The round.
    dry_run
        Only show what each would get, and why.
    again
        Decide anew, after an appeal: what has begun stays, all else may change.
    overcommit
        Give also what is not there, or promised to others.
    note
        Why.
    """
    said = {"dry_run": dry_run, "again": again, "overcommit": overcommit}
    _act(name, "award", options, text=note, **said)


@round.command(name="next")
def next_(
    name: str, /, *, dry_run: bool = False, overcommit: bool = False, note: str = "",
    options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Give what came back to the next in line: for operators of the site.

    Parameters
    ----------
    name
        The round.
    dry_run
        Only show who would get it.
    overcommit
        Give also what is not there, or promised to others.
    note
        Why.
    """
    _act(name, "next", options, text=note, dry_run=dry_run, overcommit=overcommit)


@round.command
def burst(
    name: str, /, *, dry_run: bool = False, overcommit: bool = False, note: str = "",
    options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Lend what is idle to those who ask for a short time: for operators of the site.

    Parameters
    ----------
    name
        The round.
    dry_run
        Only show who would get it.
    overcommit
        Lend also what is not there, or promised to others.
    note
        Why.
    """
    _act(name, "burst", options, text=note, dry_run=dry_run, overcommit=overcommit)


def _act(name: str, what: str, options: Options, **said: Any) -> None:
    called = canonical(name)
    with options.client() as client, naming(client, "round", called):
        found: Outcome = client.act("round", called, what, **said)
    if options.json:
        show_json(found)
        return
    if said.get("dry_run"):
        tell("round.tried")
    _show(found, only_last=what != "close")


def _show(found: Outcome, only_last: bool = False) -> None:
    """Print a round; `only_last`: its newest decision alone."""
    spec = found["spec"]
    say("  ".join(filter(None, [f"round/{found['name']}", phase(found["phase"]), spec["title"]])))
    tell("round.call", **spec)
    tell("round.sums", total=found["total"], given=found["given"], free=found["free"])
    there = found["had"] - found["promised"]
    tell("round.there" if found["given"] <= there else "round.there-less", had=found["had"],
         kind=spec["accelerator"], promised=found["promised"],
         missing=found["given"] - there)  # fmt: skip
    say()
    sums = [[each["sector"] or "-", each["requests"], each["asked"], str(each["given"]),
             each["floor"] or ""] for each in found["sectors"]]  # fmt: skip
    table(SECTORS, sums)
    for made in found["decisions"][-1:] if only_last else found["decisions"]:
        say()
        _decision(made)
    for code, names in (("round.changed", found["changed"]), ("round.appeals", found["appeals"])):
        if names:
            tell(code, grants=", ".join(names))


def _decision(made: Mapping[str, Any]) -> None:
    """Print one decision, with the requests that the caller may see."""
    values: dict[str, Any] = {
        "by": made["by"], "text": made["text"], "requests": made["requests"],
        "digest": made["digest"][7:19], "at": moment(made["at"]),
    }  # fmt: skip
    say(word(MADE[made["what"]], **values))
    if made["text"]:
        tell("round.note", **values)
    tell("round.holds" if made["holds"] else "round.differs", **values)
    rows = [list(_row(row)) for row in made["rows"]]
    if rows:
        table(REQUESTS, rows)


def _row(row: Mapping[str, Any]) -> Iterator[object]:
    lane = "" if row["lane"] == "whole" else phase(row["lane"])
    score = "" if row["score"] is None else f"{row['score']:g}"
    yield from (row["rank"] or "-", row["grant"], lane, row["sector"], score, row["asked"])
    why = [reason(row["reason"]), reason(row["tie"])]
    yield from (str(row["count"]), " ".join(filter(None, why)))
