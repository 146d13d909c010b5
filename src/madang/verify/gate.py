"""Running a gate: every check of it in order, each with its time and what was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from madang.resources.revision import Check
from madang.verify import smoke
from madang.verify.subject import Failed, Gone, Subject

GATES: Mapping[str, Mapping[str, Callable[[Subject], str]]] = {"smoke": smoke.CHECKS}
"""Checks by the name people write under `gate:`."""


def judge(subject: Subject, gate: Sequence[str]) -> tuple[Check, ...] | None:
    """Return how each check went, up to the first that failed.

    None when the engine went away in the middle: that says nothing about what it serves, and the
    gate is asked again on another process.
    """
    done: list[Check] = []
    for name in gate:
        for check, run in GATES[name].items():
            started_s = time.monotonic()
            try:
                passed, detail = True, run(subject)
            except Failed as failure:
                passed, detail = False, str(failure)
            except Gone:
                return None
            seconds = round(time.monotonic() - started_s, 3)
            done.append(
                Check(name=f"{name}.{check}", passed=passed, seconds=seconds, detail=detail)
            )
            if not passed:
                return tuple(done)
    return tuple(done)
