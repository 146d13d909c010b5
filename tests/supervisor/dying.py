"""A supervisor in which one step goes wrong: `dying.py AT kill|fail PROGRAM ARGUMENTS…`.

A step lies before and after each of these calls of the operating system, made by the supervisor
itself and not by what it forks. That the step was reached is told by a file `reached` in the home.
"""

from __future__ import annotations

import errno
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

KILLED = ("fork", "replace", "write", "kill", "killpg", "unlink", "chmod")
FAILED = ("fork", "replace", "write", "pipe")


class Steps:
    def __init__(self, at: int, trouble: str) -> None:
        self.at, self.trouble, self.count = at, trouble, 0
        self.root = os.getpid()

    def reach(self, name: str, may_fail: bool) -> None:
        if os.getpid() != self.root:
            return
        self.count += 1
        if self.count == self.at:
            with open("reached", "w") as file:  # noqa: PTH123 - calls of pathlib are counted
                file.write(name)
            if self.trouble == "kill":
                _kill(self.root, signal.SIGKILL)
            elif may_fail:
                raise OSError(errno.EAGAIN, "on purpose")

    def counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **more: Any) -> Any:
            self.reach(f"before {name}", True)
            done = call(*given, **more)
            if self.trouble == "kill":
                self.reach(f"after {name}", False)
            return done

        return counted


_kill = os.kill


def main() -> None:
    at, trouble, program, *rest = sys.argv[1:]
    steps = Steps(int(at), trouble)
    for name in KILLED if trouble == "kill" else FAILED:
        setattr(os, name, steps.counted(name, getattr(os, name)))
    sys.argv = [program, *rest]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
