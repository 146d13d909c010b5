"""`madang login`, `logout`, `whoami`: which Madang the commands call, and as whom."""

from __future__ import annotations

import getpass
import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

from madang import settings
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, phase, show_json, table, tell, word
from madang.client import Client, find
from madang.errors import Rejected


def login(url: str = "", /, *, options: Options = DEFAULTS) -> None:
    """Remember an address and a key for all later commands, once the key is found good.

    The key is asked for, or read from standard input; it is never an argument, where others
    could see it. MADANG_URL, MADANG_KEY and --home still count before it.

    Parameters
    ----------
    url
        Of the control API [default: MADANG_URL, or where the home listens].
    """
    address = (url or find(key="-", home=options.home).api).rstrip("/")
    if urlsplit(address).scheme not in {"http", "https"} or not urlsplit(address).hostname:
        raise Rejected("login.bad-url", url)
    key = _asked()
    with Client(address, key) as client:
        who = client.whoami()
    _keep({"url": address, "key": key})
    if options.json:
        show_json({"url": address, **who})
        return
    tell("login.done", url=address, actor=who["actor"], role=phase(who["role"]))
    next_step("next.whoami")


def _asked() -> str:
    """Take the key without showing it."""
    asks = sys.stdin.isatty()
    key = getpass.getpass(word("login.key")) if asks else sys.stdin.readline(4096)
    if not key.strip():
        raise Rejected("login.no-key")
    return key.strip()


def _keep(said: dict[str, str]) -> None:
    """Write the login, for its owner alone; an earlier one stays until this one is whole."""
    path = settings.login()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(said, file)
    fresh.replace(path)


def logout(*, options: Options = DEFAULTS) -> None:
    """Forget the address and key of the last login."""
    path = settings.login()
    was_in = path.exists()
    path.unlink(missing_ok=True)
    if options.json:
        show_json({"logged_out": was_in})
    else:
        tell("logout.done" if was_in else "logout.nothing")


def whoami(*, options: Options = DEFAULTS) -> None:
    """Show who the commands act as, and what that key may do where."""
    with options.client() as client:
        who = {"api": client.api, **client.whoami()}
    if options.json:
        show_json(who)
        return
    table(["column.what", "column.value"], list(_rows(who)))


def _rows(who: dict[str, Any]) -> list[list[object]]:
    return [
        ["api", who["api"]],
        ["actor", who["actor"]],
        ["user", who["user"] or "-"],
        ["role", phase(who["role"])],
        ["where", who["where"] or "site"],
        ["project", who["project"]],
        ["rights", ", ".join(who["rights"])],
    ]
