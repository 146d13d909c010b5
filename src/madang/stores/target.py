"""Where a restored state comes to lie: in the home itself, or in a database that it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from madang.settings import Home
from madang.stores.place import Hold


class Target(Protocol):
    """What a restore asks of the place of its state, in this order."""

    name: str
    """Where a database is, fit to be shown; empty for the home itself."""

    def held(self) -> AbstractContextManager[None]:
        """Let no control have it until the block has ended."""

    def keep(self, folder: Path, *, replace: bool) -> int:
        """Keep in the staged home what is there now; return its number, 0 where nothing is.

        Raises `Rejected` where something is and `replace` does not say that it may go.
        """

    def replaced(self, state: Path) -> AbstractContextManager[None]:
        """Put the state there, to count when the block has ended well; the block decides."""

    def settle(self) -> None:
        """Let go of what is not needed now that the new home is in its place."""


class InHome:
    """The home itself: the state is one of its files, and comes and goes with them."""

    name = ""

    def __init__(self, home: Home) -> None:
        self._hold = Hold(home.control_lock)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `Target.held`."""
        self._hold.take()
        try:
            yield
        finally:
            self._hold.release()

    def keep(self, folder: Path, *, replace: bool) -> int:  # noqa: ARG002
        """See `Target.keep`; what the home has is moved aside with it."""
        return 0

    @contextmanager
    def replaced(self, state: Path) -> Iterator[None]:  # noqa: ARG002
        """See `Target.replaced`."""
        yield

    def settle(self) -> None:
        """See `Target.settle`."""
