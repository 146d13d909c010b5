"""`madang export`: everything that was declared, as files that `apply` reads and git compares."""

from __future__ import annotations

from pathlib import Path

from madang.cli.documents import path_of, write
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, show_json, tell


def export(folder: str, /, *, options: Options = DEFAULTS) -> None:
    """Write every declared object into a file of its own; madang apply -f DIR makes them again.

    Keys are not declared, and stay; model files stay where they are.

    Parameters
    ----------
    folder
        Where to. Files of an earlier export are brought up to date, others are left alone.
    """
    with options.client() as client:
        found = client.declared(options.project)
    bodies = {path_of(i["kind"], i["project"], i["name"]): i["document"] for i in found["items"]}
    into = Path(folder).expanduser()
    written, removed = write(into, bodies)
    counts = {"objects": len(bodies), "written": written, "removed": removed}
    if options.json:
        show_json({"folder": str(into.absolute()), "revision": found["revision"], **counts})
        return
    tell("export.done", subject=str(into), **counts)
    next_step("next.export", folder=folder)
