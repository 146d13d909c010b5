"""`madang release`: offer an accelerator again that was fenced."""

from __future__ import annotations

from madang.cli.kinds import naming, thing
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, show_json, tell

KIND = "accelerator"


def release(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Offer an accelerator again that was fenced, if what it shows now is well.

    Parameters
    ----------
    what
        accelerator/NAME, or accelerator with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    _, name = thing(what if "/" in what or name else f"{KIND}/{what}", name, (KIND,))
    with options.client() as client, naming(client, KIND, name):
        going = client.release(name)
    if options.json:
        show_json(going)
        return
    tell("release.done", subject=f"{KIND}/{name}")
    next_step("next.get", kind=KIND)
