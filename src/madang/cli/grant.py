"""`madang grant`: accelerators for a time: request, review, approve, renew, explain, list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import App, Parameter

from madang.cli.explain import explain as explained
from madang.cli.get import show
from madang.cli.kinds import canonical, naming
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import phase, reason, say, show_json, tell
from madang.client import Client
from madang.errors import Rejected

grant = App(name="grant", help_format="plaintext")
Flag = Annotated[bool, Parameter(negative=())]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Wanted:
    """What is requested, and how it applies to a round."""

    accelerator: str = ""
    """Their kind, or the start of it."""
    days: str = ""
    """The first day, and the first on which they are wanted no more: 2026-12-01..2027-03-01."""
    round: str = ""
    """The round that decides; kind and days are then the round's, unless they are said."""
    sector: str = ""
    """In a round: as what the organization applies."""
    least: int = 0
    """In a round: a smaller part is of no use."""
    burst: Annotated[bool, Parameter(negative=())] = False
    """In a round: for a short time, of what is idle."""

    def spec(self, client: Client) -> dict[str, Any]:
        """Return it as a grant has it; what is not said, its round says."""
        begins, dots, until = self.days.partition("..")
        if not (begins and dots and until) and (self.days or not self.round):
            raise Rejected("grant.days", days=self.days)
        said = {
            "accelerator": self.accelerator, "from": begins, "until": until,
            "sector": self.sector, "least": self.least, "burst": self.burst,
        }  # fmt: skip
        spec = {key: value for key, value in said.items() if value}
        if not self.round:
            return spec
        called = canonical(self.round)
        call = client.calls(called)[0]["spec"]
        return {**{key: call[key] for key in ("accelerator", "from", "until")}, **spec,
                "round": called}  # fmt: skip


NOTHING = Wanted()


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Near:
    """How near somebody is to a request that they judge."""

    conflict: Flag = False
    """Say that you are too near to it: then your card counts for nothing."""
    own: Flag = False
    """Judge one of your own organization, since nobody of another one could; that is shown."""


FAR = Near()


@grant.command
def request(
    name: str, /, *, count: int, reason: str = "", wanted: Wanted = NOTHING,
    options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Request accelerators for the project, for a time; any member may.

    Parameters
    ----------
    name
        What the grant is called.
    count
        How many.
    reason
        What for.
    """
    called = canonical(name)
    with options.client() as client:
        spec = wanted.spec(client)
        client.apply([{"kind": "grant", "name": called, "count": count, "reason": reason, **spec}])
        _told(client.get("grant", called), options)


@grant.command
def review(
    name: str, /, *, points: str = "", unmet: str = "", note: str = "",
    near: Near = FAR, options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Give a request points; each reviewer's newest card counts, and none of its own organization.

    Parameters
    ----------
    name
        The grant.
    points
        As effect=30,plan=31.6,need=25: of 40, 35 and 25.
    unmet
        The condition for having any grant that its project does not meet.
    note
        Why.
    """
    said = {"points": _points(points), "unmet": unmet, "text": note}
    _act(name, "review", options, conflict=near.conflict, own=near.own, **said)


@grant.command
def approve(
    name: str, /, *, count: int | None = None, overcommit: Flag = False, own: Flag = False,
    note: str = "", options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Approve a reviewed request, or a part of it: for operators of the site.

    Parameters
    ----------
    name
        The grant.
    count
        How many are given; without it all that were asked for.
    overcommit
        Promise them although there are not so many; the numbers are kept with it.
    own
        Decide within your own organization, since nobody of another one could; that is shown.
    note
        Why.
    """
    _act(name, "approve", options, count=count, overcommit=overcommit, own=own, text=note)


@grant.command
def refuse(name: str, /, *, note: str = "", options: Options = DEFAULTS) -> None:
    """Refuse a request: for operators of the site.

    Parameters
    ----------
    name
        The grant.
    note
        Why.
    """
    _act(name, "refuse", options, text=note)


@grant.command
def renew(
    name: str, /, *, until: str, overcommit: Flag = False, own: Flag = False, note: str = "",
    options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Let an active grant last longer: for operators of the site.

    Parameters
    ----------
    name
        The grant.
    until
        The first day on which it holds no more.
    overcommit
        Promise them although there are not so many; the numbers are kept with it.
    own
        Decide within your own organization, since nobody of another one could; that is shown.
    note
        Why.
    """
    _act(name, "renew", options, until=until, overcommit=overcommit, own=own, text=note)


@grant.command
def reclaim(name: str, /, *, note: str = "", options: Options = DEFAULTS) -> None:
    """Take an active grant back before its time: for operators of the site.

    Parameters
    ----------
    name
        The grant.
    note
        Why.
    """
    _act(name, "reclaim", options, text=note)


@grant.command
def decline(name: str, /, *, note: str = "", options: Options = DEFAULTS) -> None:
    """Give back what was given to the project: the next in line may have it.

    Parameters
    ----------
    name
        The grant.
    note
        Why.
    """
    _act(name, "decline", options, text=note)


@grant.command
def appeal(name: str, text: str, /, *, options: Options = DEFAULTS) -> None:
    """Say what speaks against a decision; it is kept with it.

    Parameters
    ----------
    name
        The grant.
    text
        What speaks against it.
    """
    _act(name, "appeal", options, text=text)


@grant.command
def explain(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Work out again, from what is stored, how a grant came to be what it is.

    Parameters
    ----------
    name
        The grant.
    """
    explained("grant", name, options=options)


@grant.command(name="list")
def ls(*, options: Options = DEFAULTS) -> None:
    """List the grants that you may see, of all projects unless one is named."""
    with options.client() as client:
        found = client.list("grant", everywhere=not options.project)["items"]
    show(found, "json" if options.json else "table")


def _points(written: str) -> dict[str, float]:
    """Read points by criterion."""
    parts = [part.partition("=") for part in written.split(",") if part.strip()]
    try:
        return {name.strip(): float(number) for name, _, number in parts}
    except ValueError as error:
        raise Rejected("grant.points-form", points=written) from error


def _act(name: str, what: str, options: Options, **said: Any) -> None:
    with options.client() as client, naming(client, "grant", canonical(name)):
        _told(client.act("grant", canonical(name), what, **said), options)


def _told(found: Any, options: Options) -> None:
    """Say where it is now."""
    if options.json:
        show_json(found)
        return
    status = found["status"]
    tell("grant.is", name=found["name"], phase=phase(status["phase"]),
         count=status["count"] or found["spec"]["count"])  # fmt: skip
    if status.get("reason"):
        say(f"  {reason(status['reason'])}")
