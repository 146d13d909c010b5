"""A nursery whose children die in the middle of what they do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

REFUSED = 3
"""How a child ends whose deed was refused by an error of ours."""
NURSERY = Path(__file__).parent / "doomed.py"


class Doomed:
    """Has children do something to a home, and tells how they ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self._orders, self._said = process.stdin, process.stdout

    def send(
        self, what: str, step: int, home: Path, file: Path = Path(), room_bytes: int = 0
    ) -> int:
        """Begin; return the child's pid. At `step` it dies; 0: never by itself.

        With `room_bytes` no file can grow beyond that, as on a disk that is full then.
        """
        self._orders.write(json.dumps([what, step, str(home), str(file), room_bytes]) + "\n")
        self._orders.flush()
        return int(self._said.readline())

    def refusals(
        self, what: str, rooms: Iterable[int], home: Callable[[int], Path], file: Path = Path()
    ) -> Iterator[tuple[int, Path, str]]:
        """Try with less and less room; yield the home, and by what name it was refused, if so."""
        for room_bytes in rooms:
            path = home(room_bytes)
            said = path.with_name(path.name + ".said")
            self.send(what, 0, path, file, room_bytes)
            status = self.ended()
            assert status == (REFUSED if said.exists() else 0), room_bytes
            yield room_bytes, path, said.read_text() if said.exists() else ""

    def ended(self) -> int:
        """Return the exit code, negative for a signal."""
        return int(self._said.readline())


@pytest.fixture
def doomed() -> Iterator[Doomed]:
    with subprocess.Popen(
        [sys.executable, str(NURSERY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Doomed(process)
        assert process.stdin
        process.stdin.close()
