"""A supervisor dies, or its spawns and writes fail, at every step of starting and ending things."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

DYING = Path(__file__).with_name("dying.py")
FAMILY = ("sh", "-c", "sleep 1000 & setsid sleep 1000 & echo on; wait")
STEPS_MAX = 200
DEADLINE_S = 20.0

pytestmark = pytest.mark.timeout(150)


def living(home: Path) -> list[int]:
    """Every process that works in this home: all that its supervisor started does."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == home:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(entry.name)] if state not in "ZX" else []
    return found


def deeds(node: Any) -> Iterator[dict[str, Any]]:
    """Start one, replace it by a higher epoch, end it; one that always runs, and a gang."""
    yield node.start("a", *FAMILY, accelerators=["gpu0"])
    yield node.start("b", "sleep", "1000", restart="always")
    yield node.start("a", *FAMILY, epoch=2, accelerators=["gpu0"], grace_s=1)
    node.until("a", lambda found: len(found) == 1 and found[0]["state"] != "waiting")
    yield node.gang("g", *FAMILY)
    yield node.ask("stop", uid="g", epoch=1, grace_s=1)
    yield node.ask("stop", uid="a", epoch=2, grace_s=1)
    node.until("a", lambda found: not found)
    node.until("g", lambda found: not found)


def reached(node: Any) -> str:
    path = node.home / "reached"
    return path.read_text() if path.exists() else ""


def test_killed_at_any_step_it_leaves_nothing_to_the_next(node: Any) -> None:
    for step in range(1, STEPS_MAX):
        node.program = (str(DYING), str(step), "kill", str(node.PROGRAM))
        (node.home / "reached").unlink(missing_ok=True)
        with suppress(OSError, AssertionError, json.JSONDecodeError):
            node.up()
            for _ in deeds(node):
                pass
        if not (where := reached(node)):
            assert step > 30, "spawning alone takes as many"
            return
        node.process.wait(DEADLINE_S)
        node.program = (str(node.PROGRAM),)
        assert "ready" in node.up(), where
        assert living(node.home) == [node.process.pid], where
        assert node.observe()["processes"] == [], where
        assert node.start("a", *FAMILY, epoch=3)["state"] == "running", where
        assert node.down() == 0, where
        assert living(node.home) == [], where
    raise AssertionError("it never comes to its end")


def test_whatever_fails_is_refused_or_done_and_nothing_is_left(node: Any) -> None:
    for step in range(1, STEPS_MAX):
        node.program = (str(DYING), str(step), "fail", str(node.PROGRAM))
        (node.home / "reached").unlink(missing_ok=True)
        try:
            said = node.up()
        except json.JSONDecodeError:  # what failed was to say that it is ready
            assert node.down() == 0
            continue
        where = reached(node)
        if "ready" not in said:  # the start itself failed, and said so
            assert where, said
            node.process.wait(DEADLINE_S)
            continue
        before = descriptors_of(node.process.pid)
        refused = [answer for answer in deeds(node) if "error" in answer]
        where = reached(node)
        if not where:
            assert refused == []
            assert step > 10
            return
        again = node.start("c", "sleep", "1000")
        assert again["state"] == "running", (where, again)
        node.until("b", lambda found: found and found[0]["state"] == "running")
        for uid in ("b", "c"):
            node.ask("stop", uid=uid, epoch=1, grace_s=1)
            node.until(uid, lambda found: not found)
        await_descriptors(node.process.pid, before)
        await_alone(node, where)
        assert node.down() == 0, where
    raise AssertionError("it never comes to its end")


def await_alone(node: Any, where: str) -> None:
    """Wait until what was refused is gone too: it was killed, and dies when it is its turn."""
    deadline = time.monotonic() + DEADLINE_S
    while (left := living(node.home)) != [node.process.pid]:
        assert time.monotonic() < deadline, (where, left)
        time.sleep(0.02)


def descriptors_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def await_descriptors(pid: int, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while descriptors_of(pid) > count:
        assert time.monotonic() < deadline, "descriptors are lost"
