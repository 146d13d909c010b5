"""Reading a stranger's file apart: in a short-lived process that can do next to nothing.

The reader is ours and bounded, but it reads what an attacker wrote. So it runs where a mistake in
it costs a refusal: little memory, little time, no file and no socket that was not given to it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, BinaryIO

from madang.apart import Limits, asked, confine
from madang.errors import Rejected
from madang.registry.inspect import Found, inspect

LIMITS = Limits(memory_bytes=512 << 20, cpu_s=2, wall_s=20.0, answer_bytes=64 << 10)
"""A slow disk may take longer to read a header than a processor."""
READER = ("-m", "madang.registry.apart")
_CAUSES = {
    signal.SIGXCPU: f"reading it took more than {LIMITS.cpu_s} s of computing",
    signal.SIGKILL: (
        f"reading it took more than {LIMITS.wall_s:.0f} s, or more memory than there is"
    ),
}


def inspect_apart(file: BinaryIO, size_bytes: int) -> Found:
    """See `inspect`; raises `Rejected` too when the reader ran into a limit or died of the file.

    Blocks for at most `LIMITS.wall_s`: call it in a thread.
    """
    number = file.fileno()
    return _understood(*asked((*READER, str(number), str(size_bytes)), LIMITS, hand=[number]))


def _understood(said: bytes, status: int) -> Found:
    """Turn the child's answer into ours; it is not trusted either."""
    with suppress(ValueError, TypeError, KeyError):
        answer = json.loads(said)
        if "found" in answer:
            found = Found(**answer["found"])
            takes = found.template_takes
            return replace(found, template_takes=None if takes is None else tuple(takes))
        raise Rejected(str(answer["refused"]), **answer["values"])
    known = {-number: cause for number, cause in _CAUSES.items()}
    cause = known.get(status, f"its reader ended with status {status}")
    raise Rejected("model.unreadable", cause=cause)


def main() -> None:
    """Be the child: read the header of an open file, and say what it is as JSON."""
    number, size_bytes = map(int, sys.argv[1:])
    with os.fdopen(number, "rb") as file:
        confine(LIMITS)
        try:
            answer: dict[str, Any] = {"found": asdict(inspect(file, size_bytes))}
        except Rejected as error:
            answer = {"refused": error.code, "values": error.values}
        except MemoryError:
            cause = f"reading it took more than {LIMITS.memory_bytes >> 20} MiB of memory"
            answer = {"refused": "model.unreadable", "values": {"cause": cause}}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
