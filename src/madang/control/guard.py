"""The one place in control where everything is caught: a turn must not end the next one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TypeVar

from madang.errors import MadangError, lacking

log = logging.getLogger("madang.control")

T = TypeVar("T")


async def guarded(what: str, work: Awaitable[T]) -> T | None:
    """Await one turn, the loop's or one resource's; None when it ended in an error.

    An error with a code is the world's and takes one line, and so does a lack of open files or
    memory, wherever it is met; any other is ours and is told whole.
    """
    try:
        return await work
    except MadangError as error:
        log.warning("%s: %s", what, error)
    except Exception as error:
        if lack := lacking(error):
            log.warning("%s: %s", what, lack)
        else:
            log.exception("%s", what)
    return None
