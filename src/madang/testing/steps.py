"""Crash at every step: what control does to the world is counted, and one step goes wrong.

A step lies before and after each effect: a commit, an order to a node, a file made durable or
renamed. Ports are wrapped; for files the calls of the operating system are. Nothing in the product
knows of it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Literal

from madang.errors import Unavailable
from madang.resources.event import Event

Trouble = Literal["none", "kill", "fail"]
STORE = ("open", "commit", "record_usage", "lend")
NODE = ("start", "stop")
FILES = ("fsync", "rename", "replace", "unlink")


@dataclass
class Steps:
    """Counts steps; at number `at` the process dies or the effect fails.

    `kill`: SIGKILL, as by a power cut of this process. `fail`: before an effect it is not done,
    after it is done its answer is lost; what the disk has done it always says.
    """

    at: int = 0
    trouble: Trouble = "none"
    told: Callable[[int, str], None] = lambda _number, _name: None
    count: int = 0

    def reach(self, name: str, failure: Callable[[], Exception] | None) -> None:
        """Take one step."""
        self.count += 1
        if self.count != self.at or self.trouble == "none":
            return
        self.told(self.count, name)
        if self.trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif failure is not None:
            raise failure()


class Stepped:
    """A port with a step before and after each of the named calls; every call is work.

    A read that nobody is known to work on would let a hasty clock go on to the alarm that cuts
    a silent database off.
    """

    def __init__(
        self, port: Any, names: Iterable[str], steps: Steps, failure: Callable[[], Exception],
        working: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:  # fmt: skip
        self._port = port
        self._names = frozenset(names)
        self._steps = steps
        self._failure = failure
        self._working = working

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._port, name)
        if not iscoroutinefunction(call):
            return call

        @wraps(call)
        async def worked(*given: Any, **more: Any) -> Any:
            with self._working():
                return await call(*given, **more)

        if name not in self._names:
            return worked

        @wraps(call)
        async def stepped(*given: Any, **more: Any) -> Any:
            label = " ".join([name, *sorted(_codes(given))])
            self._steps.reach(f"before {label}", self._failure)
            done = await worked(*given, **more)
            self._steps.reach(f"after {label}", self._failure)
            return done

        return stepped


def _codes(given: Iterable[Any]) -> set[str]:
    """Return what a commit tells of, to say which one it was."""
    lists = [each for each in given if isinstance(each, list | tuple)]
    return {event.code for each in lists for event in each if isinstance(event, Event)}


def store(port: Any, steps: Steps, working: Callable[[], AbstractContextManager[None]]) -> Any:
    """Return the store with its steps."""

    def failure() -> Exception:
        return Unavailable("store.write-failed", cause="on purpose")

    return Stepped(port, STORE, steps, failure, working)


def node(port: Any, steps: Steps) -> Any:
    """Return the node with its steps."""
    return Stepped(port, NODE, steps, lambda: Unavailable("launcher.unreachable", cause="purpose"))


def files(steps: Steps) -> None:
    """Let every file that this process makes durable, renames or removes be a step, for good."""
    for name in FILES:
        setattr(os, name, _counted(name, getattr(os, name), steps))


def _counted(name: str, call: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    @wraps(call)
    def counted(*given: Any, **more: Any) -> Any:
        steps.reach(f"before {name}", lambda: OSError(errno.ENOSPC, "on purpose"))
        done = call(*given, **more)
        steps.reach(f"after {name}", None)
        return done

    return counted
