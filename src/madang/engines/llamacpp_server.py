"""Run one llama.cpp server: `python -I llamacpp_server.py JSON`, where JSON sets its parameters.

A file of its own: it is started as a process and knows nothing of Madang but two variables.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import xllamacpp

LAST_WORDS = b"exiting due to model loading error"
"""What the library's log ends with when a model can't be loaded."""
LAST_WORDS_WAIT_S = 2.0


def main(settings: dict[str, Any]) -> None:
    """Load, announce the address, serve until a signal ends the process."""
    parameters = xllamacpp.CommonParams()
    for path, value in settings.items():
        *owners, name = path.split(".")
        target = parameters
        for owner in owners:
            target = getattr(target, owner)
        setattr(target, name, type(getattr(target, name))(value))
    parameters.api_keys = [os.environ.pop("MADANG_ENGINE_TOKEN")]
    server = load(parameters)
    with os.fdopen(int(os.environ["MADANG_READY_FD"]), "w") as ready:
        ready.write(json.dumps({"url": server.listening_address, "pid": os.getpid()}) + "\n")
    while True:
        signal.pause()


def load(parameters: xllamacpp.CommonParams) -> xllamacpp.Server:
    """Load the model; if that fails, end with its first error as the last line printed.

    The library raises without a cause and holds the interpreter while it loads, so `tee` keeps a
    copy of its log. A thread of its own writes that log, and may come to it after the error.
    """
    log, copy = os.dup(2), os.memfd_create("log")
    tee = subprocess.Popen(
        ["tee", f"/proc/self/fd/{copy}"], stdin=subprocess.PIPE, stdout=log, pass_fds=(copy,)
    )
    assert tee.stdin is not None
    os.dup2(tee.stdin.fileno(), 2)
    tee.stdin.close()
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        failure = str(error)
        heard_by = time.monotonic() + LAST_WORDS_WAIT_S
        while LAST_WORDS not in os.pread(copy, 1 << 20, 0) and time.monotonic() < heard_by:
            time.sleep(0.01)
    finally:
        os.dup2(log, 2)
        tee.wait()
    lines = os.pread(copy, 1 << 20, 0).decode(errors="replace").splitlines()
    causes = [line.partition(" E ")[2] for line in lines if " E " in line[:32]]
    sys.exit((causes or [failure])[0])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
