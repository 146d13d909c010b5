"""`madang secret`: texts that jobs are given by name; read from the standard input alone."""

from __future__ import annotations

import getpass
import sys

from cyclopts import App

from madang.cli.get import get
from madang.cli.kinds import canonical
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import show_json, tell, word
from madang.errors import Rejected

secret = App(name="secret", help_format="plaintext")

CHARS_MAX = 32_768


@secret.command(name="set")
def put(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Keep a text under a name, as in: madang secret set token <FILE.

    It is read from the standard input; nobody is ever told it again but the jobs that name it.

    Parameters
    ----------
    name
        What jobs call it.
    """
    if sys.stdin.isatty():
        text = getpass.getpass(word("secret.ask", secret=name) + " ")
    else:
        text = sys.stdin.read(CHARS_MAX + 2).removesuffix("\n")
    if not 0 < len(text) <= CHARS_MAX:
        raise Rejected("secret.no-text", f"secret/{name}", limit=CHARS_MAX)
    with options.client() as client:
        kept = client.set_secret(canonical(name), text)
    if options.json:
        show_json(kept)
    else:
        tell("secret.set", secret=kept["name"], version=kept["status"]["version"])


@secret.command
def ls(*, options: Options = DEFAULTS) -> None:
    """List the secrets of the project; never their texts."""
    get("secret", options=options)
