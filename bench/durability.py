"""Nothing lost: everything that takes long to show. `--only NAME` runs one part.

Each part is a file of this folder with `run() -> list[Row]`.
"""

from __future__ import annotations

import argparse
import importlib

from rows import Row, write

PARTS = ("kills", "simulation")


def main() -> None:
    """Run the parts, and write their rows together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    rows: list[Row] = []
    for part in parser.parse_args().only or PARTS:
        rows += importlib.import_module(part).run()
    write("durability", rows)


if __name__ == "__main__":
    main()
