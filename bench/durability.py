"""Nothing lost: everything that takes long to show. `--only NAME` runs one part.

Each part is a file of this folder with `run() -> list[Row]`; `--minutes` is the length of the soak.
"""

from __future__ import annotations

import argparse
import importlib

from rows import Row, write

PARTS = ("kills", "restore", "simulation", "overload", "soak")


def main() -> None:
    """Run the parts, and write their rows together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--minutes", type=float, default=30.0)
    given, rows = parser.parse_args(), list[Row]()
    for part in given.only or PARTS:
        own = {"minutes": given.minutes} if part == "soak" else {}
        rows += importlib.import_module(part).run(**own)
    write("durability", rows)


if __name__ == "__main__":
    main()
