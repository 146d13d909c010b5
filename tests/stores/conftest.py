"""A nursery whose children die in the middle of what they do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NURSERY = Path(__file__).parent / "doomed.py"


class Doomed:
    """Has children do something to a home, and tells how they ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self._orders, self._said = process.stdin, process.stdout

    def send(self, what: str, step: int, home: Path, file: Path = Path()) -> int:
        """Begin; return the child's pid. At `step` it dies; 0: never by itself."""
        self._orders.write(json.dumps([what, step, str(home), str(file)]) + "\n")
        self._orders.flush()
        return int(self._said.readline())

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
