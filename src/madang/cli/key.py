"""`madang key`: make api keys; list and revoke them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from madang.cli.get import get
from madang.cli.kinds import naming
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, note, phase, say, show_json, tell
from madang.client import Client
from madang.errors import MadangError, Rejected
from madang.settings import Home

key = App(name="key", help_format="plaintext")

Role = Literal["operator", "member", "viewer", "auditor"]
Right = Literal["read", "write", "infer", "keys", "manage", "operate", "audit"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Wanted:
    """What the new key may do."""

    role: Role = "member"
    """What it may do, in one word."""
    where: Annotated[str, Parameter(show_default=False)] = ""
    """Where it may: site, an organization, or organization/project [default: its project]."""
    scope: Annotated[tuple[Right, ...], Parameter(negative=(), show_default=False)] = ()
    """A right to which it is narrowed; may be given several times [default: all of the role]."""
    user: Annotated[str, Parameter(show_default=False)] = ""
    """Its owner, as organization/name: it is worth no more than that user may at the moment."""
    limit: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """Its own limits, as rpm=60,tpm=20000,concurrent=4,tpd=1000000,krw=50000 [default: none]."""
    model: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A model that it may call, as NAME or ORG/PROJECT/NAME; several times [default: all]."""
    expires: Annotated[str, Parameter(show_default=False)] = ""
    """How long it is good for, as 30d or 12h [default: until it is revoked]."""

    def asked(self) -> dict[str, Any]:
        """Return it as the client takes it."""
        more: dict[str, Any] = {"scopes": list(self.scope), "user": self.user}
        if self.where:
            more["where"] = "" if self.where == "site" else self.where
        if self.model:
            more["models"] = list(self.model)
        if self.limit:
            more["limits"] = _limits(",".join(self.limit))
        if self.expires:
            more["expires_s"] = _seconds(self.expires)
        return more


MEMBER = Wanted()


@key.command
def create(name: str, /, *, wanted: Wanted = MEMBER, options: Options = DEFAULTS) -> None:
    """Make an api key of the project and show its secret, this once.

    Parameters
    ----------
    name
        What it is called in events and lists.
    """
    with options.client() as client:
        made = client.create_key(name, wanted.role, **wanted.asked())
        if options.json:
            show_json(made)
            return
        project = made["resource"]["project"]
        tell("key.made", name=name, role=phase(wanted.role), project=project)
        say(made["key"])
        with suppress(MadangError):  # who may make keys need not see services
            _note_missing(client, wanted.model)
        next_step("next.key", gateway=client.gateway)


def _note_missing(client: Client, models: Sequence[str]) -> None:
    """Say which of these no service of the project is called; those of others go unseen."""
    own = [model for model in models if "/" not in model]
    there = {each["name"] for each in client.list("service")["items"]} if own else set()
    for model in own:
        if model not in there:
            note("key.no-such-model", model=model)


LIMITS = {
    "rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrent": "concurrent",
    "tpd": "tokens_per_day", "krw": "krw_per_month",
}  # fmt: skip
"""What limits are called on the command line, and in files; both are understood."""


def _limits(written: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in written.split(","):
        name, _, count = (each.strip() for each in part.partition("="))
        name, digits = LIMITS.get(name, name), count.replace("_", "")
        if name not in LIMITS.values() or not (digits.isascii() and digits.isdigit()):
            raise Rejected("key.bad-limit", part, known=", ".join(LIMITS))
        if name in found:
            raise Rejected("key.limit-twice", part, limit=name)
        found[name] = int(digits)
    return found


def _seconds(written: str) -> float:
    from madang.resources.quantity import duration_s

    try:
        return duration_s(written)
    except ValueError as error:
        raise Rejected("key.bad-expiry", written) from error


@key.command
def ls(*, options: Options = DEFAULTS) -> None:
    """List the keys of the project; never their secrets."""
    get("key", options=options)


@key.command
def rotate(
    name: str, /, *, overlap: Annotated[str, Parameter(show_default=False)] = "",
    options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Give a key another secret and show it, this once; all else of it stays.

    Parameters
    ----------
    name
        As it is called in the project.
    overlap
        For how long the secret before this one still opens, as 1h [default: not at all].
    """
    seconds = _seconds(overlap) if overlap else 0.0
    with options.client() as client, naming(client, "key", name):
        made = client.rotate_key(name, seconds)
    if options.json:
        show_json(made)
        return
    tell("key.rotated-for" if seconds else "key.rotated-now", name=name, overlap=overlap)
    say(made["key"])
    if not options.is_far() and is_admin(made["key"], options.place()):
        tell("key.in-file", name=name, path=str(options.place().admin_key))


def is_admin(secret: str, home: Home) -> bool:
    """Tell whether this secret is the one in the home's own file."""
    try:
        return home.admin_key.read_text(encoding="ascii").strip() == secret
    except (OSError, ValueError):
        return False


@key.command
def revoke(
    name: str, /, *, made: Annotated[bool, Parameter(negative=())] = False,
    options: Options = DEFAULTS,
) -> None:  # fmt: skip
    """Make a key worthless, at once, and say which keys that it made are still alive.

    Parameters
    ----------
    name
        As it is called in the project.
    made
        Revoke all keys that it has made too, and those that they have made.
    """
    with options.client() as client, naming(client, "key", name):
        gone = client.revoke_key(name, made)
    if options.json:
        show_json(gone)
        return
    tell("key.revoked", name=name)
    for each in gone["along"]:
        tell("key.revoked", name=f"{each['project']}/{each['name']}")
    if gone["alive"]:
        tell("key.made-alive", count=len(gone["alive"]), name=name)
    for each in gone["alive"]:
        say(f"  madang key revoke {each['name']} --project {each['project']}")
