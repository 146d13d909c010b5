"""Real time and real randomness: the only two places that take them from the machine."""

from __future__ import annotations

import asyncio
import secrets
import time


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.time)
    """Wall-clock time, Unix seconds; may jump."""
    monotonic = staticmethod(time.monotonic)
    """Seconds that only go forward."""

    async def sleep(self, seconds: float) -> None:
        """Give way for that long."""
        await asyncio.sleep(seconds)


class SystemRandom:
    """The machine's randomness."""

    def token(self, byte_count: int) -> str:
        """As many random bytes, in lowercase hex."""
        return secrets.token_hex(byte_count)
