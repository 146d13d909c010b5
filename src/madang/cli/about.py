"""`madang schema`, `madang version`, `madang completion`: answered without a Madang running."""

from __future__ import annotations

import platform
from typing import Literal

from madang import __version__
from madang.cli.kinds import KINDS, kind_of
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import say, show_json, tell


def schema(kind: str, /, *, options: Options = DEFAULTS) -> None:  # noqa: ARG001  always JSON
    """Print the JSON Schema of one kind, or of event."""
    from madang.resources.kinds import json_schema

    show_json(json_schema(kind_of(kind, (*KINDS, "event"))))


def version(*, options: Options = DEFAULTS) -> None:
    """Print the version."""
    if options.json:
        show_json({"version": __version__, "python": platform.python_version()})
    else:
        tell("version.is", version=__version__)


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completion script of a shell; load it from the shell's start file."""
    from madang.cli import app

    say(app.generate_completion(shell=shell))
