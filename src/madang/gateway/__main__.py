"""`python -m madang.gateway HOME`: one gateway process."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from madang import compiled, settings
from madang.ending import ENDS, farewell


def main() -> int:
    """Read the arguments and serve."""
    parser = ArgumentParser(prog="python -m madang.gateway", description=__doc__)
    parser.add_argument("home", help="the directory that holds all state")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", default=settings.PORT_DEFAULT + 1, help="0: any free one")
    parser.add_argument("--uid", default="gateway", help="what control calls this process")
    parser.add_argument("--processes", default=1, help="how many share the port, this one too")
    given = parser.parse_args()
    compiled.use()
    # Not before: what these load may be there as machine code.
    from madang.gateway.listening import Place  # noqa: PLC0415
    from madang.gateway.process import run  # noqa: PLC0415

    try:
        place = Place(given.host, settings.port(given.port))
        processes = settings.processes(given.processes)
        run(settings.home(given.home), place, given.uid, processes)
    except ENDS as error:
        return farewell("gateway", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
