"""How control and gateway write their own log: one line for each thing, harmless, without keys."""

from __future__ import annotations

import logging

from madang.plain import inert, redacted


class Plain(logging.Formatter):
    """A formatter for words of strangers: nothing in them acts, ends a line or is a key."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Write the line, without what a traceback adds."""
        return redacted(inert(super().formatMessage(record)).replace("\n", "\\n"))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's own name
        """Write a traceback; its lines are ours, what it cites may be anybody's."""
        return redacted(inert(super().formatException(ei)))  # type: ignore[arg-type]


def begin() -> None:
    """Log to stderr from now on; what libraries only note is left out."""
    to = logging.StreamHandler()
    to.setFormatter(Plain("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[to])
    for name in ("uvicorn", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.ERROR if name == "uvicorn" else logging.WARNING)
