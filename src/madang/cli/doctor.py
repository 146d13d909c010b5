"""`madang doctor`: what was looked at, what is not well, and how to mend it.

The command looks for itself, also where nothing runs, and adds what control has found.
"""

from __future__ import annotations

from collections.abc import Iterator

from madang.answers import Check
from madang.app.look import told
from madang.cli.checks import look
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import reason, say, show_json, tell, words
from madang.errors import MadangError

UNWELL = 1
NOT_THERE = frozenset({"control.unreachable", "control.broke-off", "control.not-started"})
"""What a control that does not answer is known by; why it does not is found here."""


def doctor(*, options: Options = DEFAULTS) -> int:
    """Check this Madang, and say how to mend what is not well; exit code 1 if something is not."""
    found = list(findings(options))
    unwell = [check for check in found if not check["ok"]]
    if options.json:
        show_json({"items": found})
        return UNWELL if unwell else 0
    for check in found:
        _show(check)
    if unwell:
        tell("doctor.unwell", count=len(unwell), whole=len(found))
    else:
        tell("doctor.well")
    return UNWELL if unwell else 0


def findings(options: Options) -> Iterator[Check]:
    """Return what is seen from here, then what control adds to it."""
    is_far = options.is_far()
    known: set[tuple[str, str]] = set()
    for check in () if is_far else look(options.place()):
        yield from _unless_known(check, known)
    try:
        with options.client() as client:
            added = client.doctor()
    except MadangError as error:
        added = [told(error)] if is_far or error.code not in NOT_THERE else []
    for check in added:
        yield from _unless_known(check, known)


def _unless_known(check: Check, known: set[tuple[str, str]]) -> Iterator[Check]:
    """Pass a finding on unless it has been told; what control has said may be found here too."""
    if (key := (check["code"], check["subject"])) not in known:
        known.add(key)
        yield check


def _show(check: Check) -> None:
    said = words(check["code"], {**check["values"], "subject": check["subject"]})
    say("✓" if check["ok"] else "✗", said.text)
    if check.get("because"):
        say(" ", reason(check["because"], check["subject"]))
    if not check["ok"] and said.hint:
        say(" ", said.hint)
