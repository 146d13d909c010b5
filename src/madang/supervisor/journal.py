"""What outlives a supervisor: what it had running."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from typing import Any

from madang import forms
from madang.supervisor import processes

PATH = "supervisor/journal.json"
ASIDE = "supervisor/journal.corrupt"
LEFTOVER_SECONDS_MAX = 30.0
"""How long killed leftovers may take to vanish before the start is given up."""


class Newer(Exception):
    """What is kept was written by a newer supervisor: it is read by nobody else, and stays."""


class Journal:
    """One file, replaced whole. Not synced: after a power cut its processes are gone as well."""

    def __init__(self) -> None:
        kept: dict[str, Any] = {}
        with suppress(FileNotFoundError):
            kept = _read()
        same_boot = kept.get("boot_id") == processes.boot_id()
        self._left: list[dict[str, Any]] = kept["processes"] if same_boot else []

    def write(self, running: list[dict[str, Any]]) -> None:
        """Replace what is kept. Raises OSError, and then the old journal is still there."""
        kept = forms.marked({"boot_id": processes.boot_id(), "processes": running})
        with open(PATH + ".new", "w") as file:
            json.dump(kept, file)
        os.replace(PATH + ".new", PATH)

    def end_leftovers(self) -> None:
        """Kill what an earlier supervisor left; raises TimeoutError when it can't be ended."""
        sessions = {left["pid"] for left in self._left if _is_ours(left)}
        deadline = time.monotonic() + LEFTOVER_SECONDS_MAX
        while pids := processes.kill(sessions, processes.mark(), None):
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes do not end: {pids}")
            time.sleep(0.01)


def _read() -> dict[str, Any]:
    """Read what was kept; what is damaged is set aside and told: the kernel ends our children."""
    try:
        with open(PATH, "rb") as file:
            kept = json.load(file)
        if forms.of(kept) > forms.KNOWN:
            raise Newer(forms.of(kept))
        names = "pid", "start_ticks"
        left = [{name: int(each[name]) for name in names} for each in kept["processes"]]
        return {"boot_id": kept["boot_id"], "processes": left}
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        os.replace(PATH, ASIDE)
        sys.stderr.write(f"{PATH} is damaged, set aside as {ASIDE}: {error!r}\n")
        return {}


def _is_ours(left: dict[str, Any]) -> bool:
    """Whether that number still means our process, or a session that has lost its leader."""
    now = processes.entry(left["pid"])
    return now is None or now.start_ticks == left["start_ticks"]
