"""How a process of Madang ends: with one line that says why, for whoever reads its log later."""

from __future__ import annotations

import json
import sys

from madang import errors
from madang.errors import MadangError, Unavailable

MARK = "last words: "
"""What such a line begins with."""

ENDS = (MadangError, OSError, MemoryError)
"""What may end a process with one line; anything else is a mistake of ours, and told whole."""

_KINDS = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MadangError)
}


def farewell(part: str, error: BaseException) -> int:
    """Say on stderr why this part of Madang ends; return its exit status."""
    told = error if isinstance(error, MadangError) else _named(part, error)
    body = {"kind": type(told).__name__, "code": told.code, "values": told.values}
    sys.stderr.write(f"{MARK}{json.dumps(body)}\n")
    sys.stderr.flush()
    return told.exit_status


def _named(part: str, error: BaseException) -> MadangError:
    cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
    path = getattr(error, "filename", None)
    return Unavailable("process.failed", part, cause=f"{cause}: {path}" if path else cause)


def heard(log: str) -> list[MadangError]:
    r"""Read the last words in a log, the oldest first; what is damaged is passed over.

    >>> heard('a line\nlast words: {"kind": "Rejected", "code": "a.b", "values": {}}\n')
    [Rejected('a.b', '', {})]
    """
    found = []
    for line in log.splitlines():
        if line.startswith(MARK):
            try:
                said = json.loads(line.removeprefix(MARK))
                values = dict(said["values"])
                subject = str(values.pop("subject", ""))
                found.append(_KINDS[said["kind"]](str(said["code"]), subject, **values))
            except (ValueError, KeyError, TypeError):
                continue
    return found
