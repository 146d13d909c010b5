"""`madang drain`, `madang uncordon`: nodes that are emptied, and used again."""

from __future__ import annotations

from madang.cli.kinds import naming, thing
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, show_json, tell


def drain(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Place nothing new on a node, and have what is there leave: for operators.

    Parameters
    ----------
    what
        node/NAME, or node with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    node = _change(what, name, options, wish=True)
    if not options.json:
        next_step("next.drained", node=node)


def uncordon(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Use a node again that was emptied: for operators.

    Parameters
    ----------
    what
        node/NAME, or node with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    _change(what, name, options, wish=False)


def _change(what: str, name: str | None, options: Options, *, wish: bool) -> str:
    """Have it emptied, or used again; return its name."""
    _, name = thing(what if "/" in what or name else f"node/{what}", name, ("node",))
    with options.client() as client, naming(client, "node", name):
        changed = client.drain(name, drain=wish)
    if options.json:
        show_json(changed)
    else:
        tell("node.is-emptied" if wish else "node.is-open", node=name)
    return name
