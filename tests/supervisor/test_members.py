"""Who belongs to a child, also at the moment in which nobody can say so."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from madang.supervisor import processes

SAID = "there/a/1/"
NOBODYS = 1 << 30
"""No session: processes have smaller numbers."""


@pytest.fixture
def left() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has left its session, and is a child of ours by now."""
    env = {**os.environ, processes.MARK: SAID}
    with subprocess.Popen(["sleep", "1000"], env=env, start_new_session=True) as process:
        yield process
        with suppress(ProcessLookupError):
            process.kill()


def test_who_has_left_is_known_by_its_environment_and_killed(left) -> None:
    assert processes.kill(set(), SAID, os.getpid()) == [left.pid]
    assert left.wait() == -signal.SIGKILL
    assert processes.kill(set(), SAID, os.getpid()) == []


def test_who_becomes_another_program_just_now_is_not_taken_for_gone(
    left, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, hidden = processes._read, [f"/proc/{left.pid}/environ", f"/proc/{left.pid}/cmdline"]

    def between(path: str) -> bytes:
        return b"" if path in hidden else read(path)

    with monkeypatch.context() as patched:
        patched.setattr(processes, "_read", between)
        assert processes.kill({NOBODYS}, SAID, os.getpid()) == [NOBODYS, 0]
        assert left.poll() is None
        hidden.pop()
        assert processes.kill(set(), SAID, os.getpid()) == [], "it has an empty environment"
    assert processes.kill(set(), SAID, os.getpid()) == [left.pid]


def test_who_became_another_program_between_two_looks_is_seen(
    left, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, hidden = processes._read, [f"/proc/{left.pid}/environ"]

    def once(path: str) -> bytes:
        if path in hidden:
            hidden.remove(path)
            return b""
        return read(path)

    monkeypatch.setattr(processes, "_read", once)
    assert processes.kill(set(), SAID, os.getpid()) == [left.pid]
