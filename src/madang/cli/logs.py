"""`madang logs` and `madang events`: what was printed, and what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated

from cyclopts import Parameter

from madang.answers import Event, Log
from madang.cli.kinds import KINDS, naming, thing
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import happening, moment, say, show_json, tell
from madang.client import WAIT_S

LOOK_S = 1.0
LINES_FOLLOWED = 500
"""A follower that is told more lines than this between two looks misses the rest."""
EVENTS_MAX = 1000

Follow = Annotated[bool, Parameter(name=("--follow", "-f"), negative=())]


def logs(
    what: str,
    name: str | None = None,
    /,
    *,
    lines: Annotated[int, Parameter(name=("--lines", "-n"))] = 100,
    follow: Follow = False,
    rank: Annotated[int | None, Parameter(show_default=False)] = None,
    options: Options = DEFAULTS,
) -> None:
    """Show what a service's replicas, one replica, a job, or a part of Madang printed.

    Parameters
    ----------
    what
        service/NAME, replica/NAME, job/NAME, attempt/NAME, process/control or process/gateway
        (and process/gateway-2 and so on, where the gateway is several processes).
    name
        The name, where it was not given with the kind.
    lines
        How many of the last lines.
    follow
        Go on with what is printed from now.
    rank
        One rank of a job [default: all of them].
    """
    kind, name = thing(what, name, (*KINDS, "process"))
    with options.client() as client, naming(client, kind, name):
        if follow:
            _follow(lambda n: client.logs(kind, name, n, rank), lines, options.json)
            return
        items = client.logs(kind, name, lines, rank)
    if options.json:
        show_json({"items": items})
        return
    for item in items:
        _print(item["replica"], item["lines"], as_json=False, is_named=len(items) > 1)
    if not any(item["lines"] for item in items):
        tell("logs.none")


def _follow(look: Callable[[int], Sequence[Log]], lines: int, as_json: bool) -> None:
    """Print the last lines, then what is new; all tails are equally long, so that they overlap."""
    seen: dict[str, Sequence[str]] | None = None
    while True:
        items = look(LINES_FOLLOWED)
        for item in items:
            known = None if seen is None else seen.get(item["replica"], ())
            fresh = item["lines"][-lines:] if known is None else unseen(known, item["lines"])
            _print(item["replica"], fresh, as_json, is_named=len(items) > 1)
        seen = {item["replica"]: item["lines"] for item in items}
        time.sleep(LOOK_S)


def unseen(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """Return the lines of a tail that an earlier tail of the same log did not have.

    >>> unseen(["a", "b"], ["b", "c"])
    ['c']
    """
    for count in range(min(len(before), len(now)), 0, -1):
        if list(before[-count:]) == list(now[:count]):
            return now[count:]
    return now


def _print(replica: str, lines: Sequence[str], as_json: bool, is_named: bool) -> None:
    if as_json:
        for line in lines:
            show_json({"replica": replica, "line": line}, one_line=True)
        return
    if is_named and lines:
        tell("logs.of", name=replica)
    for line in lines:
        say(line)


def events(
    *,
    follow: Follow = False,
    everywhere: Annotated[bool, Parameter(name="--all", negative=())] = False,
    options: Options = DEFAULTS,
) -> None:
    """Show what happened, oldest first, and who did it.

    Parameters
    ----------
    follow
        Go on with what happens from now.
    everywhere
        All that the key sees, with what happened to nodes and accelerators.
    """
    with options.client() as client:
        known: list[Event] = []
        after = 0
        while found := client.events(after, EVENTS_MAX, everywhere=everywhere):
            after = found[-1]["seq"]
            known = [*known, *found][-EVENTS_MAX:]
        if options.json and not follow:
            show_json(known)
            return
        _show(known, options.json)
        while follow:
            found = client.events(after, EVENTS_MAX, WAIT_S, everywhere=everywhere)
            _show(found, options.json)
            after = found[-1]["seq"] if found else after


def _show(found: Sequence[Event], as_json: bool) -> None:
    for event in found:
        if as_json:
            show_json(event, one_line=True)
            continue
        subject = f"{event['kind']}/{event['name']}"
        why = {"code": event["values"].get("reason", ""), "values": event["values"]}
        told = happening(event["code"], subject, why)
        say(f"{moment(event['at'])}  {event['actor']:<12}  {told}")
