"""Thinking about what is to come: in a process apart, with a limit, while the loop goes on."""

from __future__ import annotations

import json
import logging
import os
import sys

from madang.apart import Limits, asked, confine
from madang.errors import Unavailable
from madang.planning.forecast import Question
from madang.planning.placement.outlook import Outlook
from madang.twin.form import Misshapen, canonical, plain, shaped

log = logging.getLogger("madang.control")

LIMITS = Limits(memory_bytes=4 << 30, cpu_s=60, wall_s=180.0, answer_bytes=64 << 20)
THINKER = ("-m", "madang.control.thinking")
NICENESS = 10


def outlook_apart(question: Question) -> Outlook | None:
    """Return what follows from what is expected; None, with a line in the log, if nothing does.

    Blocks for at most `LIMITS.wall_s`: call it in a thread.
    """
    file = os.memfd_create("question")
    try:
        os.write(file, canonical(plain(question)).encode())
        os.lseek(file, 0, os.SEEK_SET)
        said, status = asked(THINKER, LIMITS, stdin=file)
        outlook: Outlook = shaped(Outlook, json.loads(said))
    except (Unavailable, Misshapen, LookupError, ValueError, OSError) as error:
        log.warning("no outlook was made: %s", error)
        return None
    finally:
        os.close(file)
    return outlook if status == 0 else None


def main() -> None:
    """Be the child: read a question, and say the outlook as JSON."""
    from madang.planning.reprice import reprice  # noqa: PLC0415 - the solver is heavy

    question = shaped(Question, json.loads(sys.stdin.read()))
    os.nice(NICENESS)
    confine(LIMITS)
    sys.stdout.write(canonical(plain(reprice(question))))


if __name__ == "__main__":
    main()
