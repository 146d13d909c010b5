"""`madang key`: make api keys; list and revoke them."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from madang.cli.get import get
from madang.cli.kinds import naming
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, phase, show_json, tell
from madang.errors import Rejected

key = App(name="key", help_format="plaintext")

Role = Literal["operator", "member", "viewer", "auditor"]


@key.command
def create(
    name: str,
    /,
    *,
    role: Role = "member",
    expires: Annotated[str, Parameter(show_default=False)] = "",
    options: Options = DEFAULTS,
) -> None:
    """Make an api key of the project and show its secret, this once.

    Parameters
    ----------
    name
        What it is called in events and lists.
    role
        What it may do.
    expires
        How long it is good for, as 30d or 12h [default: until it is revoked].
    """
    with options.client() as client:
        made = client.create_key(name, role, _seconds(expires) if expires else None)
        if options.json:
            show_json(made)
            return
        tell("key.made", name=name, role=phase(role), project=made["resource"]["project"])
        print(made["key"])
        next_step("next.key", gateway=client.gateway)


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
def revoke(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Make a key worthless, at once."""
    with options.client() as client, naming(client, "key", name):
        gone = client.delete("key", name)
    if options.json:
        show_json(gone)
    else:
        tell("key.revoked", name=name)
