"""What limits by day and month cost: CPU per request and piece of a stream, with and without them.

The same gateway three times in one run: with limits by the minute and at once, which are the
gateway's own; with control there, which takes its usage; and with tokens by day and won by month
as well, of key, project and organization, which are spent from leases. What stands for control
here (bench/lender.py) lends by the real rule, and keeps its books in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from doors import Door, compiled, engine, ours, pinned, request, table
from gateway import ROUNDS, SECONDS, Bench
from madang.settings import Home
from madang.traffic.table import RouteTable
from rows import Row, write

DAY_TOKENS, MONTH_KRW = 10**9, 300_000
"""A lease is a twentieth: it lasts seconds at the rate that a core takes, and is renewed."""
SHOWN = (
    ("a request, 16 at once", "c=16 us", 60.0, 30.0),
    ("a request, 64 at once", "c=64 us", None, None),
    ("a piece of a stream, 64 streams", "chunk us", 8.0, 5.0),
)


@contextmanager
def lender(folder: Path, name: str, given: RouteTable, seen: dict[str, int]) -> Iterator[None]:
    """Stand for control at the home that a gateway of that name is given; keep what it counted."""
    home = Home(folder / name)
    home.gateway.mkdir(parents=True, exist_ok=True)
    home.table.write_bytes(msgspec.json.encode(given))
    argv = [sys.executable, str(Path(__file__).with_name("lender.py")), str(home.path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **pinned(1)) as process:
        try:
            yield
        finally:
            process.terminate()
            assert process.stdout is not None
            seen.update(json.loads(process.stdout.read()))


def rows(doors: list[Door], seen: dict[str, int]) -> list[Row]:
    """Return what each costs, over what it costs without limits by day and month, and control."""
    found = []
    for what, name, floor, target in SHOWN:
        alone = doors[0].typical(name)
        found.append(Row(f"{doors[0].name}: {what}", alone, "us CPU", floor, target))
        for door in doors[1:]:
            own = door.typical(name)
            found.append(
                Row(f"{door.name}: {what}", own, "us CPU", floor, target, doors[0].name, alone,
                    round(own / alone, 3))
            )  # fmt: skip
    errors = [Row(f"{door.name}: errors", sum(door.seen["errors"]), "", 0.0) for door in doors]
    asked = Row("leases that were asked for", seen.get("leases", 0), "", lower_is_better=False)
    taken = Row("records of usage that were taken", seen.get("usage", 0), "", lower_is_better=False)
    return [*found, *errors, asked, taken]


def run(seconds: float, rounds: int) -> list[Row]:
    """Measure all three, interleaved."""
    seen: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(compiled(folder, "load"), folder)
        with engine(compiled(folder, "mock")) as port:
            bare = table(port)
            full = table(port, tokens_per_day=DAY_TOKENS, krw_per_month=MONTH_KRW)
            with (
                ours(folder, bare, "alone") as alone,
                lender(folder, "metered", bare, {}), ours(folder, bare, "metered") as metered,
                lender(folder, "all", full, seen), ours(folder, full, "all") as everything,
            ):  # fmt: skip
                doors = [alone, metered, everything]
                for _ in range(rounds):
                    for door in doors:
                        bench.warm(door, seconds)
                        for many in (16, 64):
                            said = request(door.port)
                            bench.requests(door, f"c={many}", said, many, seconds)
                        bench.streams(door, seconds)
        return rows(doors, seen)


def main() -> None:
    """Run all, or `--quick`: one short round."""
    quick = "--quick" in sys.argv
    write("gateway_limits", run(2.0, 1) if quick else run(SECONDS, ROUNDS))


if __name__ == "__main__":
    main()
