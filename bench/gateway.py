"""The gateway's own cost: CPU per request and per piece of a stream, what it adds, what it holds.

An engine and a load of compiled C (bench/wire), on one core; one gateway on another. Beside ours,
in the same run: sglang-router and LiteLLM's proxy, from an environment of their own
(requirements/peers.sh), where that is; and a relay that looks at no byte, for what the machine's
sockets cost by themselves.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doors import (
    Door,
    compiled,
    engine,
    litellm,
    ours,
    pinned,
    relay,
    request,
    sglang,
    table,
)
from rows import Row, write

AT_ONCE = (1, 16, 64)
STREAMS = 64
SECONDS = 4.0
ROUNDS = 3
WARM = 3000
SLOW = "LiteLLM"
SDK = {
    "User-Agent": "OpenAI/Python 2.0.0", "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate", "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "2.0.0", "X-Stainless-OS": "Linux", "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython", "X-Stainless-Runtime-Version": "3.12.1",
    "X-Stainless-Async": "false", "X-Stainless-Retry-Count": "0", "X-Stainless-Read-Timeout": "600",
}  # fmt: skip


@dataclass
class Bench:
    """The load, in clear and by TLS, and where it keeps its bytes."""

    program: Path
    folder: Path
    secure: Path | None = None

    def load(self, door: Door, said: bytes, many: int, seconds: float, most: int = 0) -> Any:
        """Run the load; what it tells."""
        file, program = self.folder / "request", self.secure if door.secure else self.program
        assert program is not None
        file.write_bytes(said)
        argv = [str(program), str(door.port), str(many), str(seconds), str(most), str(file)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, **pinned(1))
        told = json.loads(done.stdout)
        if told["errors"]:
            print(f"{door.name}: {told['errors']} errors: {done.stderr[:500]}", file=sys.stderr)
        return told

    def measure(self, door: Door, seconds: float) -> None:
        """One round: requests one after the other, some at once, many, and streams."""
        self.warm(door, seconds)
        for many in AT_ONCE:
            self.requests(door, f"c={many}", request(door.port), many, seconds)
        self.requests(door, "c=16 sdk", request(door.port, extra=SDK), 16, seconds)
        self.streams(door, seconds)

    def warm(self, door: Door, seconds: float) -> None:
        """Ask a few times, unseen."""
        self.load(door, request(door.port), 4, seconds, WARM)

    def streams(self, door: Door, seconds: float) -> None:
        """Note what a piece of a stream costs, and when the first comes."""
        before = door.cpu_s() if door.pid else 0.0
        told = self.load(door, request(door.port, stream=True), STREAMS, seconds)
        if door.pid:
            door.note("chunk us", (door.cpu_s() - before) * 1e6 / max(1, told["events"]))
        door.note("ttft ms", told["first_p50_ms"])
        door.note("errors", told["errors"])

    def requests(self, door: Door, name: str, said: bytes, many: int, seconds: float) -> None:
        """Note what a request costs, and how long it takes."""
        before = door.cpu_s() if door.pid else 0.0
        told = self.load(door, said, many, seconds)
        if door.pid:
            spent = (door.cpu_s() - before) * 1e6
            door.note(f"{name} us", spent / max(1, told["answers"]))
        door.note(f"{name} p50", told["p50_ms"])
        door.note(f"{name} p99", told["p99_ms"])
        door.note("errors", told["errors"])


def row(metric: str, what: str, unit: str, doors: list[Door], *bars: float | None) -> Row:
    """Compare ours to the peer, if it is there."""
    mine, peers = doors[0].typical(what), doors[1:]
    floor, target = (*bars, None, None)[:2]
    if not peers or not peers[0].typical(what):
        return Row(f"gateway: {metric}", mine, unit, floor, target)
    theirs = peers[0].typical(what)
    ratio = round(mine / theirs, 3)
    return Row(f"gateway: {metric}", mine, unit, floor, target, peers[0].name, theirs, ratio)


def rows(doors: list[Door], direct: Door, least: Door) -> list[Row]:
    """Return what was seen, ours beside the peer's; `least`: of the sockets alone."""
    us = "us CPU"
    found = [
        row("a request, one at a time", "c=1 us", us, doors),
        row("a request, 16 at once", "c=16 us", us, doors, 60, 30),
        row("a request with an SDK's 12 headers, 16 at once", "c=16 sdk us", us, doors),
        row("a request, 64 at once", "c=64 us", us, doors),
        row("a piece of a stream, 64 streams", "chunk us", us, doors, 8, 5),
    ]
    for name, what in (("a request, 16 at once", "c=16 us"), ("a piece of a stream", "chunk us")):
        found.append(Row(f"{least.name}: {name}", least.typical(what), us))
    if slow := [door for door in doors if door.name == SLOW]:
        for door, floor in ((doors[0], 300.0), (least, None)):
            times = round(slow[0].typical("c=16 us") / door.typical("c=16 us"), 1)
            name = f"{door.name}: a request, 16 at once, LiteLLM's CPU to it"
            found.append(Row(name, times, "", floor, None, lower_is_better=False))
    compared = found[1]
    if compared.ratio is not None and compared.peer != SLOW:
        name = "gateway: a request, 16 at once, to sglang-router"
        found.append(Row(name, compared.ratio, "", 1.0, 0.75))
    for door in doors:
        for what in [f"c={many} {share}" for many in AT_ONCE for share in ("p50", "p99")]:
            added = door.typical(what) - direct.typical(what)
            found.append(Row(f"{door.name}: added {what}", round(added, 3), "ms"))
        added = round(door.typical("ttft ms") - direct.typical("ttft ms"), 3)
        bars = (5.0, 1.0) if door is doors[0] else ()
        found.append(Row(f"{door.name}: added to the first event, 64 streams", added, "ms", *bars))
        found.append(Row(f"{door.name}: errors", sum(door.seen["errors"]), "", 0.0))
    return found


def run(seconds: float = SECONDS, rounds: int = ROUNDS) -> list[Row]:
    """Measure all, interleaved, so that a slow minute of the machine is everybody's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(compiled(folder, "load"), folder)
        with (
            engine(compiled(folder, "mock")) as port, ours(folder, table(port)) as own,
            sglang(folder, port) as peer, litellm(folder, port) as slow,
            relay(compiled(folder, "relay"), port) as least,
        ):  # fmt: skip
            doors = [own, *(each for each in (peer, slow) if each)]
            direct = Door("direct", port)
            for _ in range(rounds):
                for door in (direct, *doors, least):
                    bench.measure(door, seconds)
            return rows(doors, direct, least)


def main() -> None:
    """Run all, or `--quick`: one short round."""
    quick = "--quick" in sys.argv
    write("gateway", run(2.0, 1) if quick else run())


if __name__ == "__main__":
    main()
