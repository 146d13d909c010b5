"""`madang twin record` and `replay`: what control saw and planned, planned anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from madang import __version__
from madang.cli.checks import kept_out
from madang.cli.files import fresh
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, note, show_json, size, tell
from madang.errors import Rejected, Unavailable

DIFFERENT = 1
PACKED = ".gz"
VALUE_LENGTH_MAX = 200
"""Characters of a value that differs which are shown to a person."""


def record(file: str, /, *, options: Options = DEFAULTS) -> None:
    """Write what planning sees now into one new file, with the plan that it makes of it.

    No keys, users, prompts or logs are in it. Works while control is down: then it is what is
    stored. Takes an operator or an auditor of the site.

    Parameters
    ----------
    file
        A name that nothing has yet; compressed if it ends in .gz.
    """
    from madang.twin.record import counts, packed

    path = Path(file).expanduser().absolute()
    if os.path.lexists(path):
        raise Rejected("twin.record-exists", str(path))
    text = text_now(options)
    content = packed(text) if path.suffix == PACKED else text
    try:
        with fresh(path) as to:
            to.write(content)
    except OSError as error:
        raise Unavailable("twin.unwritten", str(path), cause=error.strerror or "") from error
    if options.json:
        show_json({"file": str(path), "bytes": len(content), **counts(text)})
        return
    tell("twin.recorded", subject=str(path), size=size(len(content)), **counts(text))
    next_step("next.record", file=file)


def replay(file: str, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Make the plan of a record anew, by the code that control runs; exit code 1 if it differs.

    Parameters
    ----------
    file
        What madang twin record has written.
    json
        Print one JSON object, and nothing else.
    """
    from madang.twin.form import plain
    from madang.twin.record import opened
    from madang.twin.record import replay as again

    kept = opened(file)
    found = again(kept)
    versions = {"recorded_by": kept.madang, "replayed_by": __version__}
    count = len(kept.plan["actions"])
    if json:
        show_json({"same": not found, "actions": count, "difference": plain(found), **versions})
    elif found:
        tell("twin.differs", subject=file, where=found.where, was=_short(found.recorded),
             now=_short(found.replayed), **versions)  # fmt: skip
    else:
        tell("twin.same", subject=file, actions=count, **versions)
    return DIFFERENT if found else 0


def text_now(options: Options) -> bytes:
    """Return the record that control makes now; of what is stored, where none runs."""
    client = options.client_if_up()
    if client:
        with client:
            return client.snapshot()
    from madang.app.upkeep import stored
    from madang.twin.record import Record

    home = options.place()
    if not home.secret.exists():
        raise Unavailable("control.not-started", str(home.path))
    with kept_out(home) as pid:
        if pid:
            raise Unavailable("store.held", str(home.path), pid=pid)
        text = Record.of(stored(home)).text().encode()
    note("twin.at-rest")
    return text


def _short(value: Any) -> str:
    """Write a value that differs, or the beginning of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_LENGTH_MAX else f"{text[:VALUE_LENGTH_MAX]}…"
