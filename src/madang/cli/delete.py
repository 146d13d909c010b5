"""`madang delete`: take something down."""

from __future__ import annotations

from madang.cli.kinds import naming, thing
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, show_json, tell


def delete(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Take something down; a service finishes the requests it has.

    Parameters
    ----------
    what
        KIND/NAME, or KIND with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    kind, name = thing(what, name)
    take_down(kind, name, options)


def take_down(kind: str, name: str, options: Options) -> None:
    """Delete one object and say so."""
    with options.client() as client, naming(client, kind, name):
        going = client.delete(kind, name)
    if options.json:
        show_json(going)
        return
    tell("delete.done", subject=f"{kind}/{name}")
    next_step("next.get", kind=kind)
