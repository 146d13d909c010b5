"""The options that every command takes, and the client they lead to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from madang.client import Client
from madang.errors import Unauthorized, Unavailable
from madang.settings import Home, home, login


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Options:
    """Where to act, and how to answer."""

    json: Annotated[bool, Parameter(negative=())] = False
    """Print one JSON object or array, and nothing else."""
    project: Annotated[str, Parameter(env_var="MADANG_PROJECT", show_env_var=False)] = ""
    """Project, as organization/name [default: local/main, or MADANG_PROJECT]."""
    home: Annotated[str, Parameter(show_default=False)] = ""
    """Directory of all state [default: MADANG_HOME, or the user's state directory]."""

    def place(self) -> Home:
        """Return the home that is meant."""
        return home(self.home or None, os.environ)

    def is_far(self) -> bool:
        """Tell whether the Madang that is meant was named by its address, not by a home."""
        if self.home:
            return False
        here = os.environ.get("MADANG_HOME")
        return bool(os.environ.get("MADANG_URL")) or (not here and login(os.environ).exists())

    def client(self) -> Client:
        """Return a client for it."""
        return Client(project=self.project, home=self.home)

    def client_if_up(self) -> Client | None:
        """Return a client where control answers; None where it does not, and the home is at hand.

        Raises `Unavailable` or `Unauthorized` where it is another's, or answers with a refusal.
        """
        try:
            client = self.client()
            client.whoami()
        except (Unavailable, Unauthorized) as error:
            if not self.is_far() and error.code in NOT_UP:
                return None
            raise
        return client


NOT_UP = frozenset({"control.not-started", "control.unreachable", "client.no-key"})
"""What a home is known by whose control does not run."""
DEFAULTS = Options()
