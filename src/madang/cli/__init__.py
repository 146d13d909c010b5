"""The commands, one file per command or small family; each is imported only when it is typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from madang import __version__
from madang.cli.output import complain, word
from madang.errors import Corrupt, MadangError, Rejected

INTERRUPTED = 130
BROKEN_PIPE = 141

app = App(
    name="madang",
    help=word("help.madang"),
    help_format="plaintext",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
COMMANDS = {
    "up": "up", "down": "down", "status": "status", "usage": "usage", "apply": "apply",
    "get": "get", "explain": "explain", "logs": "logs", "events": "logs", "delete": "delete",
    "chat": "chat", "release": "release", "model": "model", "key": "key", "secret": "secret",
    "login": "login", "logout": "login", "whoami": "login",
    "export": "export", "backup": "backup", "restore": "backup", "doctor": "doctor",
    "support": "support", "audit": "audit", "twin": "twin",
    "submit": "job", "watch": "job", "cancel": "job",
    "suspend": "job", "resume": "job",
    "grant": "grant", "round": "round", "drain": "node", "uncordon": "node",
    "schema": "about", "version": "about", "completion": "about",
}  # fmt: skip
"""Every command, and the file that holds it."""
for _name, _file in COMMANDS.items():
    app.command(f"madang.cli.{_file}:{_name}", name=_name, help=word(f"help.{_name}"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every error becomes a line and a hint, and an exit code by its kind."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(given, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:  # the outermost edge of the commands
        if os.environ.get("MADANG_DEBUG") == "1":
            raise
        return _refuse(error, given)
    return status if isinstance(status, int) else 0


def _refuse(error: Exception, given: Sequence[str]) -> int:
    if isinstance(error, CycloptsError):
        command = " ".join(("madang", *(error.command_chain or ())))
        told: MadangError = Rejected("cli.usage", cause=str(error), command=command)
    elif isinstance(error, MadangError):
        told = error
    else:
        told = Corrupt("cli.crashed", type(error).__name__, cause=str(error))
    complain(told, as_json="--json" in given)
    return told.exit_status
