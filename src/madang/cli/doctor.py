"""`madang doctor`: what was looked at, what is not well, and how to mend it."""

from __future__ import annotations

from madang.cli.options import DEFAULTS, Options
from madang.cli.output import say, show_json, tell, words

UNWELL = 1


def doctor(*, options: Options = DEFAULTS) -> int:
    """Check this Madang, and say how to mend what is not well; exit code 1 if something is not."""
    with options.client() as client:
        found = client.doctor()
    unwell = [check for check in found if not check["ok"]]
    if options.json:
        show_json({"items": found})
        return UNWELL if unwell else 0
    for check in found:
        said = words(check["code"], {**check["values"], "subject": check["subject"]})
        say("✓" if check["ok"] else "✗", said.text)
        if not check["ok"] and said.hint:
            say(" ", said.hint)
    if unwell:
        tell("doctor.unwell", count=len(unwell), whole=len(found))
    else:
        tell("doctor.well")
    return UNWELL if unwell else 0
