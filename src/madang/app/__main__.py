"""`python -m madang.app HOME`: one control process."""

from __future__ import annotations

import asyncio
import logging
import os
from argparse import ArgumentParser
from pathlib import Path

from madang import logs
from madang.app.control import run_control
from madang.app.plans import CONTROL
from madang.ending import ENDS, farewell
from madang.settings import PORT_DEFAULT, Home


def main(arguments: list[str] | None = None) -> int:
    """Run control; an error that has a code ends it with one line."""
    parser = ArgumentParser(prog="python -m madang.app", description=__doc__)
    parser.add_argument("home", type=Path, help="the directory that holds all state")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT_DEFAULT)
    given = parser.parse_args(arguments)
    logs.begin()
    try:
        asyncio.run(run_control(Home(given.home), given.host, given.port))
    except ENDS as error:
        return farewell(CONTROL, error)
    return 0


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    os._exit(status)  # a thread may still wait for an engine that hangs; nobody waits for it
