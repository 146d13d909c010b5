"""What gateways hold after a million requests, no two of which begin alike.

Each prompt has three blocks that nobody has sent before, so that our table of prefixes is full, at
200,000 entries, before a tenth of them has come. LiteLLM is asked a hundredth as often.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from doors import Door, compiled, engine, litellm, ours, request, sglang, table
from gateway import SLOW, Bench
from rows import Row, write

MANY = 1_000_000
SHARE = 100
"""LiteLLM gets one in so many."""
AT_ONCE = 16
PATIENCE_S = 3600.0
NUMBER = "@" * 8 + " "
"""The load puts the number of the request in its place."""


def memory(bench: Bench, door: Door, many: int) -> list[Row]:
    """Look at what it holds after a tenth, and after all."""
    seen, errors = [], 0
    asked = request(door.port, first=NUMBER)
    for part in (many // 10, many - many // 10):
        errors += bench.load(door, asked, AT_ONCE, PATIENCE_S, part)["errors"]
        seen.append(door.rss_mb())
    is_ours = door.name == "madang"
    bars = (100.0, 60.0) if is_ours else ()
    return [
        Row(f"{door.name}: memory after {many:,} requests", round(seen[1], 1), "MB", *bars),
        Row(f"{door.name}: of that since the first tenth", round(seen[1] - seen[0], 1), "MB"),
        Row(f"{door.name}: errors", errors, "", 0.0 if is_ours else None),
    ]


def main() -> None:
    """Look at one after the other, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=MANY)
    parser.add_argument("--only", choices=("madang", "sglang-router", SLOW))
    given, found = parser.parse_args(), list[Row]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(compiled(folder, "load"), folder)
        with engine(compiled(folder, "mock")) as port:
            for label, running in (
                ("madang", ours(folder, table(port))),
                ("sglang-router", sglang(folder, port)),
                (SLOW, litellm(folder, port)),
            ):
                if given.only in {None, label}:
                    many = given.requests // (SHARE if label == SLOW else 1)
                    with running as door:
                        found += memory(bench, door, many) if door else []
    write("gateway_memory", found)


if __name__ == "__main__":
    main()
